//! The verdict and its evidence, for people.

use std::fmt::Write as _;

use super::errand::Step;
use super::verdict::{Answer, Reason, Verdict};
use crate::cli::table::Table;
use crate::wire::{Ends, Seen, Shown, Side};

/// All of it.
pub(super) fn text(answer: &Answer<'_>) -> anyhow::Result<String> {
    let (one, other) = (answer.workload.name, answer.other.name);
    let mut text = match answer.verdict {
        Verdict::Proved => format!("PROVED: {one} and {other} speak mutual TLS 1.3; nothing of it is in the clear.\n"),
        Verdict::NotProved => format!("NOT PROVED: whether {one} and {other} speak mutual TLS 1.3 cannot be said.\n"),
        Verdict::Disproved => format!("DISPROVED: {one} and {other} do not speak mutual TLS 1.3.\n"),
    };
    for reason in &answer.reasons {
        writeln!(text, "  - {}", explain(reason, answer))?;
    }
    write!(text, "\n{}", evidence(answer))?;
    Ok(text)
}

fn explain(reason: &Reason, answer: &Answer<'_>) -> String {
    let Some(seen) = &reason.seen else { return reason.text.clone() };
    let mut text = String::new();
    if let Some(side) = seen.side {
        let (from, to) = direction(side, answer);
        text += &format!("{from} -> {to}");
        if let Some(offset) = seen.offset {
            text += &format!(", octet {offset}");
        }
        text += ": ";
    }
    text += &reason.text;
    if !seen.octets.is_empty() {
        text += &format!("\n      {}", Shown(&seen.octets));
    }
    text
}

/// From whom to whom a side of the connection sends.
fn direction<'a>(side: Side, answer: &Answer<'a>) -> (&'a str, &'a str) {
    let (one, other) = (answer.workload.name, answer.other.name);
    let is_outbound = answer.agent.is_none_or(|report| report.direction == "outbound");
    if is_outbound == (side == Side::Client) { (one, other) } else { (other, one) }
}

fn evidence(answer: &Answer<'_>) -> Table<3> {
    let mut table = Table::new(["WHAT", "FOUND", "BY"]);
    let mut row = |what: &str, found: String, by: &str| table.row([what.to_owned(), found, by.to_owned()]);
    if let Some(Ends { client, server }) = answer.connection {
        let how = if answer.sent.is_some() { "opened to verify it" } else { "open already" };
        row("connection", format!("{client} -> {server} ({how})"), "wire");
    }
    if let Some(report) = answer.agent {
        let said = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
        let path = format!("{}, {} ({})", report.direction, said(&report.path), said(&report.reason));
        row("path", path, "agent");
        if let Some(rule) = &report.rule {
            row("rule", rule.clone(), "agent");
        }
        let ends = [
            (answer.workload.name, Some(&report.local), &report.local_serial),
            (answer.other.name, report.peer.as_ref(), &report.peer_serial),
        ];
        for (name, identity, serial) in ends {
            let identity = identity.map_or("no identity proved", String::as_str);
            row(name, format!("{identity}, certificate {}", said(serial)), "agent");
        }
        let agreed = answer.wire.as_ref().and_then(|wire| wire.agreed.as_ref());
        let by = |shown: bool| if shown { "agent, wire" } else { "agent" };
        row("cipher", said(&report.cipher), by(agreed.is_some()));
        row("key exchange", said(&report.group), by(agreed.is_some_and(|agreed| agreed.group.is_some())));
    }
    if let Some(wire) = &answer.wire {
        for (side, seen) in [(Side::Client, &wire.client), (Side::Server, &wire.server)] {
            let (from, to) = direction(side, answer);
            row(&format!("{from} -> {to}"), carried(seen), "wire");
        }
    }
    if let Some(sent) = answer.sent {
        row("sent", format!("{sent} octets{}", answered(answer.steps)), "program");
    }
    let capture = &answer.capture;
    let file = capture.file.map(|file| format!(", written to {}", file.display())).unwrap_or_default();
    let lost = capture.lost;
    row("capture", format!("{} packets, {} octets, {lost} lost{file}", capture.packets, capture.octets), "wire");
    table
}

fn carried(seen: &Seen) -> String {
    let Seen { packets, octets, skipped, unfinished, records, .. } = seen;
    let kinds = [
        (records.handshake, "handshake"),
        (records.change_cipher_spec, "change_cipher_spec"),
        (records.alert, "alert"),
        (records.application_data, "application_data"),
    ];
    let kinds: Vec<_> =
        kinds.iter().filter(|(count, _)| *count > 0).map(|(count, kind)| format!("{count} {kind}")).collect();
    let kinds = if kinds.is_empty() { "none".to_owned() } else { kinds.join(", ") };
    let mut text = format!("{octets} octets in {packets} packets; whole TLS records: {kinds}");
    for (octets, what) in [(skipped, "of one that began earlier"), (unfinished, "of one that goes on")] {
        if *octets > 0 {
            // Writing to a string does not fail.
            let _written = write!(text, "; {octets} octets {what}");
        }
    }
    text
}

fn answered(steps: &[Step]) -> String {
    match steps.last() {
        Some(Step::Answered(octets)) => format!(", {octets} came back"),
        Some(Step::Ended) => ", the other end has ended the connection".to_owned(),
        Some(Step::Silence) => ", nothing came back".to_owned(),
        _ => String::new(),
    }
}
