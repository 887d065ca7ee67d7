//! Taking fields out of a mapping, so that none is missed, misspelt or of another type without a word.
//!
//! [`Fields`] remembers every name that was asked for; what is left over when it is closed is unknown, and the names
//! asked for are the list of what would be known. A [`Reader`] turns one value into a type that cannot hold nonsense,
//! or says what is wrong with it.

use std::collections::HashSet;
use std::hash::Hash;

use super::problem::{Located, Position, Problems, shown};
use super::yaml::{Entry, Tree, Value};

/// Reads one value; the error says what is wrong, why, and what to do.
pub(super) type Reader<T> = fn(&Tree) -> Result<T, String>;

/// The fields of one mapping that were not taken yet.
pub(super) struct Fields<'p> {
    /// What the mapping is, for messages: "Workload spec".
    owner: &'static str,
    at: Position,
    entries: Vec<Entry>,
    known: Vec<&'static str>,
    problems: &'p mut Problems,
}

impl<'p> Fields<'p> {
    /// `None`, with a problem, if `tree` is not a mapping.
    pub(super) fn open(tree: Tree, owner: &'static str, problems: &'p mut Problems) -> Option<Self> {
        if let Value::Mapping(entries) = tree.value {
            return Some(Self { owner, at: tree.at, entries, known: Vec::new(), problems });
        }
        let message =
            format!("expected the fields of {owner}, found {}; it has parts; write `name: value`", tree.found());
        problems.add(tree.at, message);
        None
    }

    /// The value of `name`, whatever it is.
    pub(super) fn take(&mut self, name: &'static str) -> Option<Tree> {
        self.known.push(name);
        let index = self.entries.iter().position(|entry| entry.key.value == name)?;
        Some(self.entries.swap_remove(index).value)
    }

    /// The value of `name`, whatever it is; its absence is a problem.
    pub(super) fn take_required(&mut self, name: &'static str) -> Option<Tree> {
        let tree = self.take(name);
        if tree.is_none() {
            self.missing(name);
        }
        tree
    }

    /// The value of `name`; `None`, with a problem, if it is absent or cannot be read.
    pub(super) fn required<T>(&mut self, name: &'static str, read: Reader<T>) -> Option<Located<T>> {
        let tree = self.take_required(name)?;
        read_located(&tree, read, self.problems)
    }

    /// The value of `name`, or `default` if it is absent; `None`, with a problem, if it cannot be read.
    pub(super) fn optional<T>(&mut self, name: &'static str, read: Reader<T>, default: T) -> Option<Located<T>> {
        match self.take(name) {
            Some(tree) => read_located(&tree, read, self.problems),
            None => Some(Located { at: self.at, value: default }),
        }
    }

    /// Whether everything in the mapping was taken: nothing is misspelt.
    pub(super) fn are_used_up(&self) -> bool {
        self.entries.is_empty()
    }

    /// Says that `name` should be there.
    pub(super) fn missing(&mut self, name: &str) {
        let message = format!("{0} has no field {name:?}; {0} means nothing without it; add `{name}:`", self.owner);
        self.problems.add(self.at, message);
    }

    /// Says what else is wrong.
    pub(super) fn problem(&mut self, at: Position, message: impl Into<String>) {
        self.problems.add(at, message);
    }

    /// Refuses every field that nobody asked for.
    pub(super) fn close(self) {
        for Entry { key, .. } in self.entries {
            let hint = did_you_mean(&key.value, &self.known);
            let message = format!(
                "unknown field {} in {}; nothing is ignored here; {hint}remove it or use one of: {}",
                shown(&key.value),
                self.owner,
                self.known.join(", ")
            );
            self.problems.add(key.at, message);
        }
    }
}

/// The value of `tree` with its place; `None`, with a problem, if it cannot be read.
pub(super) fn read_located<T>(tree: &Tree, read: Reader<T>, problems: &mut Problems) -> Option<Located<T>> {
    match read(tree) {
        Ok(value) => Some(Located { at: tree.at, value }),
        Err(message) => {
            problems.add(tree.at, message);
            None
        }
    }
}

/// The items of a list that could be read; an empty list and an item given twice are problems.
pub(super) fn read_each<T: Clone + Eq + Hash>(tree: Tree, read: Reader<T>, problems: &mut Problems) -> Vec<Located<T>> {
    let Value::Sequence(trees) = tree.value else {
        problems.add(tree.at, format!("expected a list, found {}; there may be several; write [a, b]", tree.found()));
        return Vec::new();
    };
    if trees.is_empty() {
        problems.add(tree.at, "the list is empty; it would never match; add an item, or remove what it belongs to");
    }
    let mut seen = HashSet::new();
    let mut items = Vec::new();
    for item in trees.iter().filter_map(|tree| read_located(tree, read, problems)).collect::<Vec<_>>() {
        if seen.insert(item.value.clone()) {
            items.push(item);
        } else {
            problems.add(item.at, "this stands in the list before; one of them has no effect; remove one");
        }
    }
    items
}

/// A text; numbers and booleans must be quoted to be one.
pub(super) fn text(tree: &Tree) -> Result<&str, String> {
    match &tree.value {
        Value::Text(text) => Ok(text),
        Value::Boolean(_) | Value::Integer(_) | Value::Float(_) => {
            Err(format!("expected text, found {}; YAML gives it another type; put it in quotes", tree.found()))
        }
        _ => Err(format!("expected text, found {}; nothing else can be meant here; write a text", tree.found())),
    }
}

/// Yes or no.
pub(super) fn boolean(tree: &Tree) -> Result<bool, String> {
    match &tree.value {
        Value::Boolean(value) => Ok(*value),
        _ => Err(format!("expected true or false, found {}; nothing else can be meant here; write one", tree.found())),
    }
}

/// An integer between `least` and `most`.
pub(super) fn integer(tree: &Tree, least: u32, most: u32) -> Result<u32, String> {
    let Value::Integer(text) = &tree.value else {
        let found = tree.found();
        return Err(format!(
            "expected an integer, found {found}; nothing else can be meant here; write {least} to {most}"
        ));
    };
    let number = match text.get(..2) {
        Some("0x") => u32::from_str_radix(&text[2..], 16),
        Some("0o") => u32::from_str_radix(&text[2..], 8),
        _ => text.parse(),
    };
    number.ok().filter(|number| (least..=most).contains(number)).ok_or_else(|| {
        format!("{} is out of range; it is {least} to {most}; write a number in that range", shown(text))
    })
}

/// One of the words in `choices`.
pub(super) fn choice<T: Copy>(tree: &Tree, choices: &[(&'static str, T)]) -> Result<T, String> {
    let word = text(tree)?;
    if let Some((_, value)) = choices.iter().find(|(name, _)| *name == word) {
        return Ok(*value);
    }
    let known: Vec<_> = choices.iter().map(|(name, _)| *name).collect();
    let hint = did_you_mean(word, &known);
    Err(format!("{} is not a choice here; nothing is guessed; {hint}use one of: {}", shown(word), known.join(", ")))
}

/// `did you mean "name"? ` if one of `known` is near `word`, else nothing.
fn did_you_mean(word: &str, known: &[&str]) -> String {
    const NEAR: usize = 2;
    let candidates = known.iter().filter(|name| name.len().abs_diff(word.len()) <= NEAR);
    match candidates.map(|name| (edits(word, name), name)).min() {
        Some((..=NEAR, name)) => format!("did you mean {name:?}? "),
        _ => String::new(),
    }
}

/// How many letters must be added, removed or changed to make `b` of `a` (Levenshtein), capitals not counted.
fn edits(a: &str, b: &str) -> usize {
    let b = b.as_bytes();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, left) in a.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, right) in b.iter().enumerate() {
            let changed = diagonal + usize::from(!left.eq_ignore_ascii_case(right));
            diagonal = row[j + 1];
            row[j + 1] = changed.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}
