#!/bin/sh
# Makes the Vagrant box of the two-node suites: Debian trixie with its cloud kernel (6.12, kernel TLS), for libvirt.
#
#   build.sh BOX        (as root; needs mmdebstrap, mke2fs, qemu-img and the vagrant package)
#
# The disk is one bare ext4 file system and the kernel is booted directly (Vagrantfile beside this file), so there is
# no boot loader, no partition table and no firmware screen to emulate. Nothing is downloaded but Debian packages from
# mmdebstrap's default mirror: the public key that Vagrant logs in with comes from the installed vagrant package.
set -eu

box=$(realpath "$1")
recipe=$(dirname "$(realpath "$0")")
disk_size=3G

# What boots and is logged in to; what the suites run; what they look with.
base=linux-image-cloud-amd64,initramfs-tools,systemd,systemd-sysv,udev,kmod,dbus,openssh-server,sudo,rsync
programs=nginx-light,curl,redis-server,redis-tools,openssh-client,socat,python3-minimal,openssl
tools=iproute2,procps,tcpdump

key=$(dpkg -L vagrant | grep '/keys/vagrant\.pub$') || {
    echo "build.sh: no keys/vagrant.pub in the package vagrant: install it with apt" >&2
    exit 1
}

work=$(mktemp -d -p "$(dirname "$box")" box.XXXXXX)
trap 'rm -rf --one-file-system "$work"' EXIT
trap 'exit 130' INT TERM
root=$work/root

mmdebstrap --mode=root --variant=minbase --include="$base,$programs,$tools" \
    --aptopt='Acquire::Languages "none"' \
    --dpkgopt='path-exclude=/usr/share/doc/*' \
    --dpkgopt='path-exclude=/usr/share/man/*' \
    --dpkgopt='path-exclude=/usr/share/locale/*' \
    --essential-hook="cp -rT --preserve=mode '$recipe/root' \"\$1\"" \
    --customize-hook="install -D -m 0644 '$key' \"\$1/tmp/vagrant.pub\"" \
    --customize-hook="install -m 0755 '$recipe/configure.sh' \"\$1/tmp/configure.sh\"" \
    --customize-hook='chroot "$1" /tmp/configure.sh' \
    --customize-hook='rm "$1/tmp/vagrant.pub" "$1/tmp/configure.sh"' \
    trixie "$root"

# The names in /boot carry the kernel's version; the box's Vagrantfile wants fixed ones.
cp "$root"/boot/vmlinuz-* "$work/vmlinuz"
cp "$root"/boot/initrd.img-* "$work/initrd.img"
mke2fs -q -t ext4 -L enforcer -d "$root" "$work/disk.raw" "$disk_size"
qemu-img convert -f raw -O qcow2 -c "$work/disk.raw" "$work/box.img"
cp "$recipe/Vagrantfile" "$recipe/metadata.json" "$work/"

# Renamed into place, so that an interrupted run leaves no half box.
tar -C "$work" -cf "$work/new.box" metadata.json Vagrantfile vmlinuz initrd.img box.img
mv "$work/new.box" "$box"
