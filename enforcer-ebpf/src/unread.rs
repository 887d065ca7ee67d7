//! FIONREAD of direct sockets, corrected upwards.
//!
//! The kernel counts what TCP has received and the record layer has not taken. When a reader takes a part of a record,
//! the rest lies decrypted in the record layer and is not counted (seen on 6.1, 6.12 and 7.2). Programs that trust the
//! number stop reading there: nginx waits for an event that never comes. Whoever reads more than there is finds
//! nothing; whoever reads less than there is may wait for ever. So a record's length is added.

use aya_ebpf::bindings::bpf_sock;
use aya_ebpf::helpers::generated::{bpf_probe_read_user, bpf_probe_write_user};
use aya_ebpf::programs::FExitContext;
use enforcer_ebpf::GATE_OPEN;

use crate::gate::storage;

/// `FIONREAD`, also known as SIOCINQ.
const FIONREAD: u32 = 0x541b;
/// Payload of the longest record (RFC 8446 5.1).
const RECORD: i32 = 1 << 14;

/// An ioctl on a TCP socket returns; its third argument is where the answer is, in the application's memory.
pub(crate) fn answered(ctx: &FExitContext) {
    let (socket, command, result): (*mut bpf_sock, u32, i32) = (ctx.arg(0), ctx.arg(1), ctx.arg(3));
    if command != FIONREAD || result != 0 {
        return;
    }
    // SAFETY: the storage lives as long as the socket, which the kernel keeps for the caller.
    if !storage(socket, None).is_some_and(|gate| unsafe { (*gate).state } == GATE_OPEN) {
        return;
    }
    let (answer, mut count): (u64, i32) = (ctx.arg(2), 0);
    // SAFETY: the helpers check the application's address, and read and write as many bytes as they are told.
    unsafe {
        if bpf_probe_read_user((&raw mut count).cast(), 4, answer as *const _) == 0 {
            count = count.saturating_add(RECORD);
            let _ = bpf_probe_write_user(answer as *mut _, (&raw const count).cast(), 4);
        }
    }
}
