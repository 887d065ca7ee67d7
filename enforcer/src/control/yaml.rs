//! From text to trees that know where each of their parts stands in the file.
//!
//! Reads a subset of YAML 1.2, several documents to a file: block and flow mappings with scalar keys, sequences,
//! scalars of every style. Anchors, aliases and tags are refused, so nothing expands and the work is bounded by the
//! size of the text; so is nesting deeper than [`MAX_DEPTH`]. What is refused in this way, and what is not YAML, ends
//! the reading, since what follows cannot be trusted to mean what it seems to; a duplicate key does not.
//!
//! It gives scalars a type (YAML 1.2 core schema) but no meaning: that is `object.rs`.

use std::collections::HashMap;

use saphyr_parser::{Event, Marker, Parser, ScalarStyle, Span, StrInput};

use super::problem::{Located, Position, Problems, shown};

/// Levels of mappings and sequences inside each other.
const MAX_DEPTH: usize = 32;

/// A node of a document.
#[derive(Debug)]
pub(super) struct Tree {
    /// Where it begins; for a value that was left empty, where its key begins.
    pub(super) at: Position,
    pub(super) value: Value,
}

/// What a node is.
#[derive(Debug)]
pub(super) enum Value {
    Null,
    Boolean(bool),
    /// As written, since the number may be larger than any type.
    Integer(String),
    Float(String),
    Text(String),
    Sequence(Vec<Tree>),
    Mapping(Vec<Entry>),
}

/// A key of a mapping, unique in it, and its value.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) key: Located<String>,
    pub(super) value: Tree,
}

impl Tree {
    /// What stands here, for a message that expected something else.
    pub(super) fn found(&self) -> String {
        match &self.value {
            Value::Null => "nothing".to_owned(),
            Value::Boolean(value) => format!("the boolean {value}"),
            Value::Integer(text) => format!("the integer {}", shown(text)),
            Value::Float(text) => format!("the number {}", shown(text)),
            Value::Text(text) => format!("the text {}", shown(text)),
            Value::Sequence(_) => "a list".to_owned(),
            Value::Mapping(_) => "a mapping".to_owned(),
        }
    }
}

/// The documents of `text`, without the empty ones; `None` if the reading ended early, with the reason in `problems`.
pub(super) fn documents(text: &str, problems: &mut Problems) -> Option<Vec<Tree>> {
    let mut reader = Reader { parser: Parser::new_from_str(text), problems };
    let mut trees = Vec::new();
    loop {
        match reader.next().ok()? {
            (Event::StreamEnd, _) => return Some(trees),
            (Event::StreamStart | Event::DocumentStart(_) | Event::DocumentEnd | Event::Nothing, _) => {}
            (event, span) => {
                let tree = reader.tree(event, span, 0).ok()?;
                if !matches!(tree.value, Value::Null) {
                    trees.push(tree);
                }
            }
        }
    }
}

/// The reading has ended; why is in the problems.
struct Ended;

struct Reader<'a> {
    parser: Parser<'a, StrInput<'a>>,
    problems: &'a mut Problems,
}

impl<'a> Reader<'a> {
    fn next(&mut self) -> Result<(Event<'a>, Span), Ended> {
        let Some(result) = self.parser.next_event() else { return Err(Ended) };
        result.map_err(|cause| {
            let message = format!("this is not YAML: {}; nothing after it can be read; mend it here", cause.info());
            self.end(position(*cause.marker()), message)
        })
    }

    fn end(&mut self, at: Position, message: impl Into<String>) -> Ended {
        self.problems.add(at, message);
        Ended
    }

    /// The tree that begins with `event`, inside `depth` others.
    fn tree(&mut self, event: Event<'a>, span: Span, depth: usize) -> Result<Tree, Ended> {
        let at = position(span.start);
        if depth > MAX_DEPTH {
            let message = format!(
                "nested deeper than {MAX_DEPTH} levels; no object needs that, and the stack is finite; flatten it"
            );
            return Err(self.end(at, message));
        }
        let (anchor, tag) = match &event {
            Event::Alias(anchor) => (*anchor, &None),
            Event::Scalar(_, _, anchor, tag) => (*anchor, tag),
            Event::SequenceStart(anchor, tag) | Event::MappingStart(anchor, tag) => (*anchor, tag),
            _ => (0, &None),
        };
        if anchor != 0 {
            return Err(self.end(at, "an anchor (&) or alias (*); values must stand where they count; write it out"));
        }
        if tag.is_some() {
            return Err(self.end(at, "a tag (!); types follow from the field; remove it, and quote what is text"));
        }
        let value = match event {
            Event::Scalar(text, style, ..) => scalar(text.into_owned(), style),
            Event::SequenceStart(..) => Value::Sequence(self.sequence(depth + 1)?),
            Event::MappingStart(..) => Value::Mapping(self.mapping(depth + 1)?),
            // The parser promises a node here; should it break that promise, the file is refused.
            _ => return Err(self.end(at, "no value here; the document is incomplete; mend it here")),
        };
        Ok(Tree { at, value })
    }

    fn sequence(&mut self, depth: usize) -> Result<Vec<Tree>, Ended> {
        let mut items = Vec::new();
        loop {
            match self.next()? {
                (Event::SequenceEnd, _) => return Ok(items),
                (event, span) => items.push(self.tree(event, span, depth)?),
            }
        }
    }

    fn mapping(&mut self, depth: usize) -> Result<Vec<Entry>, Ended> {
        let mut entries = Vec::new();
        let mut seen: HashMap<String, Position> = HashMap::new();
        loop {
            let key = match self.next()? {
                (Event::MappingEnd, _) => return Ok(entries),
                (Event::Scalar(text, _, 0, None), span) => {
                    Located { at: position(span.start), value: text.into_owned() }
                }
                (_, span) => {
                    let message = "a key that is not plain text; fields have names; write `name: value`";
                    return Err(self.end(position(span.start), message));
                }
            };
            let (event, span) = self.next()?;
            let mut value = self.tree(event, span, depth)?;
            if matches!(value.value, Value::Null) {
                // The parser finds an empty value where the next token is, often a line further down.
                value.at = key.at;
            }
            match seen.get(&key.value) {
                None => {
                    seen.insert(key.value.clone(), key.at);
                    entries.push(Entry { key, value });
                }
                Some(first) => self.problems.add(
                    key.at,
                    format!(
                        "the key {} stands twice, first at {first}; one of them would be ignored; remove one",
                        shown(&key.value)
                    ),
                ),
            }
        }
    }
}

fn position(marker: Marker) -> Position {
    Position { line: marker.line(), column: marker.col() + 1 }
}

/// A scalar with its type by the YAML 1.2 core schema; what is quoted or a block is always text.
fn scalar(text: String, style: ScalarStyle) -> Value {
    match text.as_str() {
        _ if style != ScalarStyle::Plain => Value::Text(text),
        "" | "~" | "null" | "Null" | "NULL" => Value::Null,
        "true" | "True" | "TRUE" => Value::Boolean(true),
        "false" | "False" | "FALSE" => Value::Boolean(false),
        plain if is_integer(plain) => Value::Integer(text),
        plain if is_float(plain) => Value::Float(text),
        _ => Value::Text(text),
    }
}

fn is_integer(text: &str) -> bool {
    let all = |digits: &str, allowed: fn(&u8) -> bool| !digits.is_empty() && digits.bytes().all(|byte| allowed(&byte));
    match text.get(..2) {
        Some("0x") => all(&text[2..], u8::is_ascii_hexdigit),
        Some("0o") => all(&text[2..], |byte| (b'0'..=b'7').contains(byte)),
        _ => all(text.strip_prefix(['+', '-']).unwrap_or(text), u8::is_ascii_digit),
    }
}

fn is_float(text: &str) -> bool {
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    if matches!(unsigned, ".inf" | ".Inf" | ".INF") || matches!(text, ".nan" | ".NaN" | ".NAN") {
        return true;
    }
    // Rust reads the same numbers, and besides them `inf`, `infinity` and `nan` in letters.
    unsigned.starts_with(|first: char| first == '.' || first.is_ascii_digit()) && unsigned.parse::<f64>().is_ok()
}
