//! Tests of the whole way from text to snapshot. Each case is one edit of `base.yaml`, which is valid.

mod accepted;
mod hostile;
mod refused;

use super::file::{LoadError, parse};
use super::problem::Problem;
use super::snapshot::Snapshot;

const BASE: &str = include_str!("base.yaml");

/// `BASE` with `from`, which stands in it once, replaced.
fn edited(from: &str, to: &str) -> String {
    assert_eq!(BASE.matches(from).count(), 1, "{from:?} must stand in the base once");
    BASE.replacen(from, to, 1)
}

fn accept(text: &str) -> Snapshot {
    parse(text, "test.yaml").unwrap_or_else(|error| panic!("{error}\nin\n{text}"))
}

fn refuse(text: &str) -> Vec<Problem> {
    match parse(text, "test.yaml") {
        Err(LoadError::Refused { problems, .. }) => problems,
        other => panic!("{other:?} for\n{text}"),
    }
}
