#!/bin/sh
# The first program in the virtual machine (initramfs): puts the root filesystem together and goes over to it.
#
# Disks, told apart by their serial: `root` (Debian, the same for all kernels), `modules` (of this kernel), `payload`
# (a tar archive with the files of this run, among them /.enforcer/run, which goes on). All are read-only, writes go to
# memory. A failure ends this script, so the kernel panics and the machine ends without having sent an exit code.
set -eu

mount -t devtmpfs devtmpfs /dev
mount -t proc proc /proc
mount -t sysfs sysfs /sys
for module in $(cat /modules/order); do
    insmod "/modules/$module"
done

for disk in /sys/block/vd*; do
    ln -s "/dev/${disk##*/}" "/disk/$(cat "$disk/serial")"
done
mount -t ext4 -o ro /disk/root /lower
mount -t tmpfs -o mode=755,size=80% tmpfs /memory
mkdir /memory/upper /memory/work
mount -t overlay -o lowerdir=/lower,upperdir=/memory/upper,workdir=/memory/work overlay /new

mkdir -p /new/usr/lib/modules
mount -t ext4 -o ro /disk/modules /new/usr/lib/modules
tar -x -f /disk/payload -C /new
mount --move /dev /new/dev
mount --move /proc /new/proc
mount --move /sys /new/sys
exec switch_root /new /bin/sh /.enforcer/run
