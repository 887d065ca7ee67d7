//! What is compared, in the words of the programs themselves.

use std::collections::BTreeMap;
use std::process::{Command, Stdio};

use enforcer_tests::settings::enforcer_binary;

use crate::rows::Row;

/// Programs that are compared or measured with: how each is asked, and how the paths and workloads that it is in begin.
const ASKED: [(&str, &str, &str); 4] = [
    ("nginx", "-v", "nginx"),
    ("haproxy", "-v", "haproxy"),
    ("envoy", "--version", "envoy"),
    ("redis-server", "--version", "redis"),
];

/// The first line that each program says of its version, by the program's name; of those that `rows` are about.
pub(crate) fn known(rows: &[Row]) -> BTreeMap<String, String> {
    let is_in = |start: &str| rows.iter().any(|row| row.names().iter().any(|name| name.starts_with(start)));
    let used = ASKED.iter().filter(|(_, _, start)| is_in(start));
    let others = used.map(|(program, how, _)| (*program, ask(&mut Command::new(program), how)));
    let agent = enforcer_binary().ok().and_then(|binary| ask(&mut Command::new(binary), "--version"));
    let all = others.chain([("enforcer", agent)]);
    all.filter_map(|(program, version)| Some((program.to_owned(), version?))).collect()
}

fn ask(command: &mut Command, how: &str) -> Option<String> {
    let output = command.arg(how).stdin(Stdio::null()).output().ok()?;
    // nginx says it on standard error.
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    said.lines().map(str::trim).find(|line| !line.is_empty()).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_the_first_line_on_either_output() {
        let said = |script: &str| ask(Command::new("sh").arg("-c"), script);
        assert_eq!(said("echo; echo one 1.2; echo more").as_deref(), Some("one 1.2"));
        assert_eq!(said("echo nginx/1 >&2").as_deref(), Some("nginx/1"));
        assert_eq!(ask(&mut Command::new("/no such program"), "-v"), None);
    }
}
