# The virtual machine's second script (Debian root, process 1): makes the machine look like a booted one, runs the
# command and reports. `ENFORCER_COMMAND` is a line that xtask writes before this text.
#
# The command writes into a pipe and not to the port itself, because a port can be opened only once and programs do open
# /dev/stdout. What the command leaves running is killed, so that the pipe ends.
set -eu
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8 RUST_BACKTRACE=1

mount -t tmpfs -o mode=1777 tmpfs /tmp
mount -t tmpfs -o mode=755 tmpfs /run
mkdir -p /dev/pts /dev/shm /work /run/netns
mount -t devpts devpts /dev/pts
mount -t tmpfs -o mode=1777 tmpfs /dev/shm
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount -t bpf bpf /sys/fs/bpf
ln -sf /proc/self/fd /dev/fd
ln -sf fd/0 /dev/stdin
ln -sf fd/1 /dev/stdout
ln -sf fd/2 /dev/stderr
echo enforcer-vm >/proc/sys/kernel/hostname
ip link set lo up
ulimit -n 65536
# Absent ones are not missed: a kernel may have them built in or not at all.
modprobe --all --quiet aesni_intel ghash_clmulni_intel gcm tls veth inet_diag tcp_diag || true

for port in /sys/class/virtio-ports/*; do
    ln -s "/dev/${port##*/}" "/run/port-$(cat "$port/name")"
done
mkfifo -m 666 /run/output
cat /run/output >/run/port-output &
cat=$!
echo "enforcer-vm start" >/run/port-status
status=0
(cd /work && eval "exec $ENFORCER_COMMAND") </dev/null >/run/output 2>&1 || status=$?

for process in /proc/[0-9]*; do
    case ${process#/proc/} in
    1 | "$cat") ;;
    *) kill -9 "${process#/proc/}" || true ;;
    esac
done 2>/dev/null
wait "$cat"
echo "enforcer-vm exit $status" >/run/port-status
echo b >/proc/sysrq-trigger
