//! What a hook decides. A verdict must be used, and it is the only thing that becomes a hook's return value.

use enforcer_ebpf::Reason;

use crate::maps::REFUSALS;

/// The decision of one program run.
#[must_use]
pub(crate) enum Verdict {
    /// Leave the operation as it is now (untouched, or rewritten by the program).
    Pass,
    /// Refuse it; the reason is counted.
    Deny(Reason),
}

impl Verdict {
    /// 1 passes and 0 refuses, in cgroup hooks (EPERM) as in sk_lookup (SK_DROP).
    fn code(self) -> u32 {
        match self {
            Self::Pass => 1,
            Self::Deny(reason) => {
                count(reason);
                0
            }
        }
    }
}

impl From<Verdict> for i32 {
    fn from(verdict: Verdict) -> Self {
        verdict.code() as Self
    }
}

impl From<Verdict> for u32 {
    fn from(verdict: Verdict) -> Self {
        verdict.code()
    }
}

/// Counts what a program met.
pub(crate) fn count(reason: Reason) {
    if let Some(counter) = REFUSALS.get_ptr_mut(reason as u32) {
        // SAFETY: the slot is this CPU's own, and programs of one CPU do not interrupt each other here.
        unsafe { *counter += 1 };
    }
}
