//! Input that nobody wrote by hand: it must be refused quickly, and never crash the agent.

use std::path::Path;

use super::super::file::load;
use super::{BASE, parse, refuse};

#[test]
fn billion_laughs_are_refused_at_the_first() {
    let mut text = "a: &a0 [lol, lol, lol]\n".to_owned();
    for level in 0..30 {
        text += &format!("b{level}: &a{} [{}]\n", level + 1, vec![format!("*a{level}"); 9].join(", "));
    }
    let problems = refuse(&text);
    assert_eq!(problems.len(), 1, "{problems:?}");
    assert!(problems[0].message.starts_with("an anchor"));
    assert_eq!(problems[0].at.line, 1);
}

#[test]
fn depth_is_bounded() {
    for (open, count) in [("[", 100), ("[", 100_000), ("{a: ", 100), ("- ", 100_000), ("? ", 100)] {
        let problems = refuse(&open.repeat(count));
        assert_eq!(problems.len(), 1, "{open:?} {count}");
    }
    let at_most = format!("{}{}", "[".repeat(32), "]".repeat(32));
    assert!(refuse(&at_most)[0].message.starts_with("expected the fields of an object"));
    let too_deep = format!("{}x{}", "[".repeat(33), "]".repeat(33));
    assert!(refuse(&too_deep)[0].message.starts_with("nested deeper"));
}

#[test]
fn size_is_bounded() {
    let limit = 4 * 1024 * 1024;
    let mut text = BASE.to_owned();
    text.extend(std::iter::repeat_n('#', limit - BASE.len()));
    assert!(parse(&text, "t").is_ok());
    text.push('#');
    assert!(refuse(&text)[0].message.starts_with("larger than 4 MiB"));
    let endless = load(Path::new("/dev/zero")).expect_err("endless").to_string();
    assert!(endless.starts_with("/dev/zero:1:1: larger than 4 MiB"), "{endless}");
}

#[test]
fn the_place_of_bytes_that_are_not_text() {
    let error = parse(b"kind: Node\nspec: \xc3\xa4\xff", "t").expect_err("not UTF-8").to_string();
    assert!(error.starts_with("t:2:8: not UTF-8"), "{error}");
}

#[test]
fn messages_show_text_from_the_file_escaped_and_cut() {
    let text = format!("\"\\e[31m{}\": 1\nkind: Node\nspec: {{}}", "x".repeat(1000));
    let error = parse(&text, "t").expect_err("unknown field").to_string();
    assert!(!error.contains('\u{1b}') && error.contains("\\u{1b}[31mxxx"), "{error}");
    assert!(error.lines().all(|line| line.len() < 300), "{error}");
}

/// Mutations of a valid file: bytes changed, removed, doubled, and pieces of YAML thrown in.
#[test]
fn no_bytes_make_it_panic() {
    const PIECES: [&str; 16] = [
        "&a ",
        "*a",
        "!!x ",
        "? ",
        "- ",
        "[",
        "}",
        "\"",
        "'",
        "|\n",
        "---\n",
        "%TAG ! x\n",
        "\t",
        ": ",
        "\u{feff}",
        "\0",
    ];
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    for _ in 0..3_000 {
        let mut bytes = BASE.as_bytes().to_vec();
        for _ in 0..=random.below(8) {
            let at = random.below(bytes.len());
            match random.below(4) {
                0 => bytes[at] = u8::try_from(random.below(256)).unwrap(),
                1 => drop(bytes.drain(at..(at + random.below(40)).min(bytes.len()))),
                2 => bytes.extend_from_within(at..),
                _ => drop(bytes.splice(at..at, PIECES[random.below(PIECES.len())].bytes())),
            }
            bytes.truncate(8 * BASE.len());
            bytes.push(b'\n');
        }
        if let Err(error) = parse(&bytes, "t") {
            assert!(error.to_string().starts_with("t:"), "{error}");
        }
    }
}

/// xorshift64: the same cases on every run.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % limit as u64).unwrap()
    }
}
