//! `cargo fuzz run store`.

#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|data: &[u8]| enforcer::fuzzing::store(data));

#[cfg(not(fuzzing))]
fn main() {}
