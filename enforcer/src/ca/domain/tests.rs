//! An authority from its first root to its last revocation, in memory.
