//! What programs keep in a socket's own storage. The kernel frees it with the socket.

use core::ptr::{from_mut, from_ref, null_mut};

use aya_ebpf::bindings::{BPF_SK_STORAGE_GET_F_CREATE, bpf_sock};
use aya_ebpf::btf_maps::SkStorage;
use aya_ebpf::helpers::generated::bpf_sk_storage_get;

/// The value of this socket in a map; made when a first one is given. aya's own methods take no socket but that of one
/// kind of context.
#[inline(always)]
pub(crate) fn of<T>(map: &'static SkStorage<T>, socket: *mut bpf_sock, first: Option<&mut T>) -> Option<*mut T> {
    let (first, flags) = match first {
        Some(first) => (from_mut(first), u64::from(BPF_SK_STORAGE_GET_F_CREATE)),
        None => (null_mut(), 0),
    };
    get(map, socket, first, flags)
}

/// The value of this socket in a map; made of zeros where there is none. Takes no room on the stack.
#[inline(always)]
pub(crate) fn of_zeros<T>(map: &'static SkStorage<T>, socket: *mut bpf_sock) -> Option<*mut T> {
    get(map, socket, null_mut(), u64::from(BPF_SK_STORAGE_GET_F_CREATE))
}

#[inline(always)]
fn get<T>(map: &'static SkStorage<T>, socket: *mut bpf_sock, first: *mut T, flags: u64) -> Option<*mut T> {
    // SAFETY: the map holds values of `T`; the kernel checks the socket pointer.
    let stored = unsafe { bpf_sk_storage_get(from_ref(map).cast_mut().cast(), socket.cast(), first.cast(), flags) };
    if stored.is_null() { None } else { Some(stored.cast()) }
}
