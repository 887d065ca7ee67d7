//! What a program wants of TCP that a direct connection does not do. Numbered once, here; counted for each workload, by
//! programs in the kernel or by the agent, whoever sees it.

/// Something that is missed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Missed {
    /// SO_ZEROCOPY was set on a socket: sends with MSG_ZEROCOPY fail under kernel TLS. A program counts.
    ZeroCopy = 1,
    /// A stream was closed after MSG_MORE, and kernel TLS has dropped its end. The agent counts.
    More = 2,
}

impl Missed {
    /// All of them.
    pub const ALL: &'static [Self] = &[Self::ZeroCopy, Self::More];

    /// The label in metrics.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::ZeroCopy => "msg-zerocopy",
            Self::More => "msg-more",
        }
    }

    /// Under which it is counted for the workload of a cgroup.
    #[must_use]
    pub const fn key(self, cgroup: u64) -> MissedKey {
        MissedKey { cgroup, missed: self as u32, reserved: 0 }
    }
}

/// See [`Missed::key`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct MissedKey {
    /// Id of the workload's cgroup.
    pub cgroup: u64,
    /// The number of a [`Missed`].
    pub missed: u32,
    /// Zero.
    pub reserved: u32,
}

// No implicit padding, as for the types of `wire`.
const _: () = assert!(size_of::<MissedKey>() == 16);

#[cfg(feature = "user")]
#[expect(unsafe_code, reason = "aya asks for the promise that a type is plain data; the assert above is the proof")]
mod pod {
    // SAFETY: `repr(C)`, only integers, no padding, any bit pattern is valid.
    unsafe impl aya::Pod for super::MissedKey {}
}
