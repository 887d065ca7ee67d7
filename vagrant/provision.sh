#!/bin/sh
# Makes a fresh node ready for the suites. Runs on the node, as root, each time it is provisioned.
#
#   provision.sh NAME IPV4/PREFIX IPV6/PREFIX
#
# The folder /srv/enforcer was copied from the host and holds the binary `enforcer`. Its configuration names the CA and
# the peers, so whoever starts the agent writes it, into /etc/enforcer.
set -eu

name=$1 ipv4=$2 ipv6=$3

# The wire. nodad: the address is usable at once, and nobody else is on this network.
cat >/etc/systemd/network/20-wire.network <<EOF
[Match]
Name=eth1

[Network]
Address=$ipv4
LinkLocalAddressing=ipv6
IPv6AcceptRA=no

[Address]
Address=$ipv6
DuplicateAddressDetection=none
EOF
networkctl reload
networkctl reconfigure eth1
/usr/lib/systemd/systemd-networkd-wait-online --interface=eth1 --timeout=60

# Kernel TLS, now and at every boot.
echo tls >/etc/modules-load.d/enforcer.conf
modprobe tls
grep -qw tls /proc/sys/net/ipv4/tcp_available_ulp

# systemd mounts both; an enforcer without them would only say so later.
for wanted in "/sys/fs/bpf bpf" "/sys/fs/cgroup cgroup2"; do
    set -- $wanted
    mountpoint -q "$1" || mount -t "$2" none "$1"
done

install -d -m 0755 /etc/enforcer
# Without a binary only the control experiment can run; the suites say what is missing.
if [ -e /srv/enforcer/enforcer ]; then
    install -m 0755 /srv/enforcer/enforcer /usr/local/bin/enforcer
fi

echo "$name: $(uname -r), $ipv4, $ipv6, upper layer protocols: $(cat /proc/sys/net/ipv4/tcp_available_ulp)"
