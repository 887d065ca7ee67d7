//! All targets in one program, for `cargo xtask fuzz`: the environment says which one.

#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
mod chosen {
    use std::sync::OnceLock;

    use enforcer::fuzzing::{TARGETS, Target};

    /// Names the target.
    const VARIABLE: &str = "ENFORCER_FUZZ_TARGET";

    static TARGET: OnceLock<Target> = OnceLock::new();

    fn target() -> Target {
        let name = std::env::var(VARIABLE).unwrap_or_default();
        let found = TARGETS.iter().find(|(known, _)| *known == name);
        found.unwrap_or_else(|| panic!("{VARIABLE} names none of the targets: {name:?}")).1
    }

    libfuzzer_sys::fuzz_target!(|data: &[u8]| TARGET.get_or_init(target)(data));
}

#[cfg(not(fuzzing))]
fn main() {}
