//! Room for whole records.
//!
//! When the send buffer of a socket is full in the middle of a record, kernel TLS keeps the rest of it for later, and
//! drops it when the socket is closed or its sending half is shut down: the last octets of an application that does not
//! block and closes at once would be lost. So a record that has begun always finds room. What limits an application is
//! how much may wait to leave: the kernel looks before a record begins, where it shall, and again whenever the record
//! needs another buffer, where it shall not. Between the two it asks for the length of header options, and that is here.
//!
//! The agent has made the send buffer itself too large to matter. Left are a machine that is short of memory for TCP,
//! and packets whose options are full of selective acknowledgements, for which the kernel does not ask.

use aya_ebpf::Global;
use aya_ebpf::bindings::{BPF_SOCK_OPS_WRITE_HDR_OPT_CB_FLAG, bpf_sock};
use aya_ebpf::helpers::generated::bpf_skc_to_tcp_sock;
use aya_ebpf::programs::SockOpsContext;
use enforcer_ebpf::{GATE_OPEN, Gate};

use crate::context::read;
use crate::gate::{set, storage};

/// Where `struct tcp_sock` has `write_seq`, the number of the next octet to be written.
#[unsafe(no_mangle)]
static WRITE_SEQ: Global<u32> = Global::new(0);

/// `tcp_sendmsg` asks, and not a packet.
const BPF_WRITE_HDR_TCP_CURRENT_MSS: u32 = 1;

/// The flag by which the kernel asks for header options.
pub(crate) const CALLBACK: u32 = BPF_SOCK_OPS_WRITE_HDR_OPT_CB_FLAG;

/// The kernel asks for the length of header options: `tcp_sendmsg` before it takes data, and every packet that leaves.
pub(crate) fn asked(ctx: &SockOpsContext) {
    let socket = read!((*ctx.ops).__bindgen_anon_2.sk);
    let (asker, next) = (read!((*ctx.ops).__bindgen_anon_1.args[0]), read!((*ctx.ops).snd_nxt));
    if socket.is_null() {
        return;
    }
    let Some(gate) = storage(socket, None) else { return };
    // SAFETY: the storage lives as long as the socket, whose lock the kernel holds.
    let Gate { state, limit, raised, .. } = unsafe { *gate };
    if state != GATE_OPEN {
        return;
    }
    if asker != BPF_WRITE_HDR_TCP_CURRENT_MSS {
        // Something leaves, so something can be written again: under the usual limit.
        if raised != 0 {
            // SAFETY: as above.
            unsafe { (*gate).raised = 0 };
            set(ctx, limit);
        }
        return;
    }
    let Some(written) = written(socket) else { return };
    let unsent = written.wrapping_sub(next);
    if unsent >= limit {
        // SAFETY: as above.
        unsafe { (*gate).raised = 1 };
        // For one more buffer: if the record needs another one, the kernel asks again.
        set(ctx, unsent.saturating_add(1));
    }
}

fn written(socket: *mut bpf_sock) -> Option<u32> {
    // SAFETY: the helper gives null for what is no whole TCP socket.
    let socket = unsafe { bpf_skc_to_tcp_sock(socket.cast()) };
    if socket.is_null() {
        return None;
    }
    // SAFETY: a pointer that the verifier knows as `struct tcp_sock`; it checks that the offset is one of a member.
    Some(unsafe { socket.cast::<u8>().add(WRITE_SEQ.load() as usize).cast::<u32>().read_volatile() })
}
