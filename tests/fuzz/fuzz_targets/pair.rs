//! `cargo fuzz run pair`.

#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|data: &[u8]| enforcer::fuzzing::pair(data));

#[cfg(not(fuzzing))]
fn main() {}
