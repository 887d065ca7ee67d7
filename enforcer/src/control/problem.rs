//! A mistake in the configuration, with the place where it is.
//!
//! Every step of `control` adds to one [`Problems`]; `file.rs` prints them. A message says three things, separated by
//! semicolons: what is wrong; why that matters; what to do. Text from the file goes through [`shown`], so that it can
//! neither flood the terminal nor write control characters to it.

use std::fmt;

/// A place in the file: line and column in characters, both counted from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// Line.
    pub line: usize,
    /// Column.
    pub column: usize,
}

impl Position {
    /// Where a file begins: the place of problems that concern all of it.
    pub(super) const START: Self = Self { line: 1, column: 1 };
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.line, self.column)
    }
}

/// Something read from the file, with its place.
#[derive(Debug, Clone)]
pub(super) struct Located<T> {
    pub(super) at: Position,
    pub(super) value: T,
}

/// One mistake.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// Where it is.
    pub at: Position,
    /// What is wrong; why that matters; what to do.
    pub message: String,
}

/// The mistakes found so far.
#[derive(Debug, Default)]
pub(super) struct Problems(Vec<Problem>);

impl Problems {
    pub(super) fn add(&mut self, at: Position, message: impl Into<String>) {
        self.0.push(Problem { at, message: message.into() });
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// All of them, in the order of the file.
    pub(super) fn into_sorted(mut self) -> Vec<Problem> {
        self.0.sort();
        self.0
    }
}

/// `text` as a message may show it: quoted, escaped and cut.
pub(super) fn shown(text: &str) -> String {
    const LONGEST: usize = 80;
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{:?}...", &text[..end]),
        None => format!("{text:?}"),
    }
}
