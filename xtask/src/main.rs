//! `cargo xtask VERB`: what developers and CI do. One file a verb; this file only dispatches.

fn main() {}
