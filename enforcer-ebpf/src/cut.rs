//! Streams that are cut short: kernel TLS keeps what was sent with MSG_MORE in an open record, and drops that when the
//! socket is closed. Nothing here can prevent it; but it is seen, and told when the connection is over.

use core::ffi::c_void;

use aya_ebpf::bindings::bpf_sock;
use aya_ebpf::helpers::generated::bpf_probe_read_kernel;
use enforcer_ebpf::{GATE_OPEN, OFFSET_OPEN_RECORD, OFFSET_ULP_DATA, SEEN_CUT};

use crate::gate::storage;
use crate::maps::OFFSETS;

/// The last descriptor of a socket is closed.
pub(crate) fn released(socket: *mut bpf_sock) {
    let Some(gate) = storage(socket, None) else { return };
    // SAFETY: the storage lives as long as the socket, which the kernel keeps for the caller.
    if unsafe { (*gate).state } == GATE_OPEN && has_open_record(socket) == Some(true) {
        // SAFETY: as above.
        unsafe { (*gate).seen |= SEEN_CUT };
    }
}

fn has_open_record(socket: *mut bpf_sock) -> Option<bool> {
    let offset = |number| OFFSETS.get(number).copied().filter(|&offset| offset != 0).map(u64::from);
    let (ulp_data, open_record) = (offset(OFFSET_ULP_DATA)?, offset(OFFSET_OPEN_RECORD)?);
    let context: u64 = peek(socket as u64 + ulp_data)?;
    let open: u8 = peek(context + open_record)?;
    Some(open != 0)
}

/// Reads the kernel's memory; `None` where there is none.
fn peek<T: Copy + Default>(address: u64) -> Option<T> {
    let mut value = T::default();
    // SAFETY: the helper writes as many octets as the type has, and refuses an address that cannot be read.
    let result =
        unsafe { bpf_probe_read_kernel((&raw mut value).cast(), size_of::<T>() as u32, address as *const c_void) };
    (result == 0).then_some(value)
}
