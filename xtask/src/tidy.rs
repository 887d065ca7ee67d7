//! `cargo xtask tidy`: the rules of the tree that neither rustfmt nor clippy checks.

use std::fs;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result};

use crate::process;

/// Check what rustfmt and clippy do not: file sizes, headers, where `unsafe` may be, stray white space.
#[derive(clap::Args)]
pub(crate) struct Args {}

/// Lines of a source file at most.
const LONGEST_FILE: usize = 400;

/// Where `unsafe` may be written. The last one lends memory to the kernel, for which there is no safe crate.
const UNSAFE_PLACES: [&str; 3] = ["enforcer/src/kernel/", "enforcer-ebpf/src/", "tests/src/endpoint/ring/queue.rs"];

/// Runs the verb.
pub(crate) fn run(_args: &Args) -> Result<ExitCode> {
    let files =
        process::output(process::command("git").args(["ls-files", "--cached", "--others", "--exclude-standard"]))?;
    let mut found = Vec::new();
    let mut checked = 0;
    for name in files.lines().filter(|name| is_text(name)) {
        let path = process::workspace().join(name);
        // Files that are deleted and not yet committed are still listed.
        if path.exists() {
            let text = fs::read_to_string(&path).with_context(|| format!("read {name}"))?;
            found.extend(check(name, &text));
            checked += 1;
        }
    }
    for violation in &found {
        eprintln!("tidy: {violation}");
    }
    eprintln!("tidy: {checked} files, {} violations", found.len());
    Ok(if found.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn is_text(name: &str) -> bool {
    let extension = Path::new(name).extension().unwrap_or_default();
    ["rs", "md", "toml", "sh", "yaml"].iter().any(|text| extension == *text)
}

fn check(name: &str, text: &str) -> Vec<String> {
    let mut found = lines(name, text);
    if !name.ends_with(".rs") {
        return found;
    }
    let length = text.lines().count();
    if length > LONGEST_FILE {
        found.push(format!("{name}: {length} lines, at most {LONGEST_FILE}: split it"));
    }
    if !text.starts_with("//!") {
        found.push(format!("{name}:1: begin with //! and say what this file is"));
    }
    found
}

fn lines(name: &str, text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let rust = name.ends_with(".rs");
    let may_be_unsafe = !rust || UNSAFE_PLACES.iter().any(|place| name.starts_with(place));
    // In parts, so that this file does not find itself. The lint's name is there because lifting it is how a place is made.
    let unsafe_code =
        [concat!("unsafe", " {"), concat!("unsafe", " fn"), concat!("unsafe", " impl"), concat!("(unsafe", "_code")];
    let todo = concat!("TO", "DO");
    for (number, line) in text.lines().enumerate() {
        let mut tell = |what: &str| found.push(format!("{name}:{}: {what}", number + 1));
        if line.ends_with([' ', '\t']) {
            tell("white space at the end of the line");
        }
        if rust && line.contains('\t') {
            tell("tab");
        }
        if !may_be_unsafe && unsafe_code.iter().any(|text| line.contains(text)) {
            tell("unsafe belongs into enforcer/src/kernel/ or enforcer-ebpf/");
        }
        if rust && line.contains(todo) && !line.contains(concat!("TO", "DO(")) {
            tell("say who waits for what, in brackets");
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_rule_finds_its_violation() {
        let cases = [
            ("enforcer/src/a.rs", "//! A.\nfn f() {}\n", 0),
            ("enforcer/src/a.rs", "fn f() {}\n", 1),
            ("enforcer/src/a.rs", "//! A. \n", 1),
            ("enforcer/src/a.rs", "//! A.\n\tf();\n", 1),
            ("enforcer/src/a.rs", concat!("//! A.\nunsafe", " { f() }\n"), 1),
            ("enforcer/src/a.rs", concat!("//! A.\n#[expect(unsafe", "_code, reason = \"\")]\n"), 1),
            ("enforcer/src/kernel/a.rs", concat!("//! A.\nunsafe", " { f() }\n"), 0),
            ("enforcer/src/a.rs", concat!("//! A.\n// TO", "DO: later\n"), 1),
            ("README.md", "text \n", 1),
        ];
        for (name, text, violations) in cases {
            assert_eq!(check(name, text).len(), violations, "{name} {text:?}");
        }
        let long = format!("//! A.\n{}", "\n".repeat(LONGEST_FILE));
        assert_eq!(check("enforcer/src/a.rs", &long).len(), 1);
    }
}
