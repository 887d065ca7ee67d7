//! What programs want that a direct connection does not do, where it can be seen before it fails.
//!
//! Who means to send with MSG_ZEROCOPY must set SO_ZEROCOPY before. It is counted, and not refused: the socket may go
//! where nothing is direct.

use core::intrinsics::{AtomicOrdering, atomic_xadd};

use aya_ebpf::programs::SockoptContext;
use enforcer_ebpf::Missed;

use crate::context::{TCP, read};
use crate::maps::MISSED;
use crate::option::value;
use crate::outbound::workload;

/// A workload sets SO_ZEROCOPY.
pub(crate) fn zero_copy(ctx: &SockoptContext) {
    let socket = read!((*ctx.sockopt).__bindgen_anon_1.sk);
    let Some(value) = value(ctx) else { return };
    // The kernel takes 0 and 1.
    // SAFETY: `value` has checked that the kernel holds as many bytes.
    if read!((*socket).protocol) != TCP || unsafe { value.read_unaligned() } != 1 {
        return;
    }
    if let Some((cgroup, workload)) = workload()
        && workload.direct != 0
    {
        count(Missed::ZeroCopy, cgroup);
    }
}

fn count(missed: Missed, cgroup: u64) {
    if let Some(counter) = MISSED.get_ptr_mut(missed.key(cgroup)) {
        // SAFETY: an entry is freed a grace period after it is removed, and everybody adds to it like this.
        unsafe { atomic_xadd::<u64, u64, { AtomicOrdering::Relaxed }>(counter, 1) };
    }
}
