# Installs the packages given as arguments; run as root by setup.
#
# While it does, Debian's hook policy-rc.d forbids to start services. A hook that is there already stays: a container
# image has one that says the same, and another one is its owner's decision.
set -eu
guard=/usr/sbin/policy-rc.d
if [ ! -e "$guard" ]; then
    trap 'rm -f "$guard"' EXIT
    trap 'exit 130' HUP INT TERM
    printf '#!/bin/sh\nexit 101\n' >"$guard"
    chmod 755 "$guard"
fi
export DEBIAN_FRONTEND=noninteractive
# Lists may be missing (a container image has none) or old (the file that they name is gone): fetch them and try again.
apt-get install --yes --no-install-recommends "$@" && exit
apt-get update
apt-get install --yes --no-install-recommends "$@"
