//! Which system calls may be made again after they returned EINTR.

/// True for calls that return EINTR, without having done anything, although no handler ran: those of signal(7) that do
/// so after a stop, and io_uring's. Others, above all `close`, have done their work and must not be made twice. Numbers
/// are those of x86-64; a 32-bit program has others, and may see an EINTR of a call with a timeout.
pub(super) fn can_be_made_again(call: libc::c_long) -> bool {
    RESTARTABLE.contains(&call)
}

/// Calls with their own timeout, or on sockets that have one.
const RESTARTABLE: [libc::c_long; 25] = [
    libc::SYS_read,
    libc::SYS_readv,
    libc::SYS_preadv2,
    libc::SYS_recvfrom,
    libc::SYS_recvmsg,
    libc::SYS_recvmmsg,
    libc::SYS_write,
    libc::SYS_writev,
    libc::SYS_pwritev2,
    libc::SYS_sendto,
    libc::SYS_sendmsg,
    libc::SYS_sendmmsg,
    libc::SYS_sendfile,
    libc::SYS_splice,
    libc::SYS_connect,
    libc::SYS_accept,
    libc::SYS_accept4,
    libc::SYS_epoll_wait,
    libc::SYS_epoll_pwait,
    libc::SYS_epoll_pwait2,
    libc::SYS_io_uring_enter,
    libc::SYS_io_getevents,
    libc::SYS_semop,
    libc::SYS_semtimedop,
    libc::SYS_rt_sigtimedwait,
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_that_have_side_effects_are_not_among_them() {
        for call in [-1, libc::SYS_close, libc::SYS_dup2, libc::SYS_nanosleep, libc::SYS_futex, libc::SYS_poll] {
            assert!(!can_be_made_again(call), "{call}");
        }
        assert!(can_be_made_again(libc::SYS_recvfrom));
    }
}
