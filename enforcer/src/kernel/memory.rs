//! Memory of this process.

/// Gives back to the kernel what the allocator keeps for later. Whoever loads programs reads the kernel's description of its
/// types more than once, and needs nothing like it afterwards. Of glibc's allocator; others are left alone.
pub fn give_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: takes a number; what goes back are pages in which nothing is allocated.
    let _any = unsafe { libc::malloc_trim(0) };
}

/// From now on the allocator has large pieces from the kernel and gives them back as soon as they are free. By itself glibc's
/// takes the largest one that was ever given back for the measure of what it keeps (mallopt(3)), and it cannot give back what
/// lies among other pieces, because memory is locked.
pub fn give_back_at_once() {
    #[cfg(target_env = "gnu")]
    // SAFETY: takes two numbers.
    let _any = unsafe { libc::mallopt(libc::M_MMAP_THRESHOLD, LARGE) };
}

/// Octets of a large piece: glibc's own measure, before it learns.
#[cfg(target_env = "gnu")]
const LARGE: libc::c_int = 128 << 10;
