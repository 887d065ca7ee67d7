#!/bin/sh
# Runs inside the new root (see build.sh): the user that Vagrant logs in as, and what starts at boot.
set -eu

useradd --create-home --shell /bin/bash vagrant
install -d -m 0700 -o vagrant -g vagrant /home/vagrant/.ssh
install -m 0600 -o vagrant -g vagrant /tmp/vagrant.pub /home/vagrant/.ssh/authorized_keys

# Mounted by the initramfs, and by nothing else.
echo '/dev/vda / ext4 errors=remount-ro 0 1' >/etc/fstab
# Empty: each node gets an identity of its own at its first boot (and with it its own DHCP lease).
: >/etc/machine-id

# mmdebstrap leaves the build machine's own name and name servers.
echo enforcer-node >/etc/hostname
printf '127.0.0.1 localhost enforcer-node\n::1 localhost\n' >/etc/hosts
: >/etc/resolv.conf

systemctl enable systemd-networkd ssh
# The suites start the servers themselves, with their own configuration and in the enrolled slice; timers would only
# steal an emulated processor.
systemctl disable nginx redis-server
systemctl mask apt-daily.timer apt-daily-upgrade.timer e2scrub_all.timer fstrim.timer dpkg-db-backup.timer \
    systemd-networkd-wait-online.service
