//! Memory of this process.

/// Gives back to the kernel what the allocator keeps for later. Whoever loads programs reads the kernel's description of its
/// types more than once, and needs nothing like it afterwards. Of glibc's allocator; others are left alone.
pub fn give_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: takes a number; what goes back are pages in which nothing is allocated.
    let _any = unsafe { libc::malloc_trim(0) };
}
