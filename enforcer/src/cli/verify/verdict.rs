//! The verdict: what the wire shows and what the agent says, brought together by a pure function.
//!
//! It is `Proved` only if nothing speaks against it and nothing is missing. Every reason for anything else is given, with
//! the octets where it is about octets.

use std::path::PathBuf;

use serde::Serialize;

use super::errand::Step;
use super::observe::Observation;
use super::subject::Subject;
use crate::observe::report::ConnectionReport;
use crate::wire::{Code, Ends, Finding, Judgement, Opening, Weight};

/// What a record adds to what is in it: the type of the content, and the tag.
const ADDED: usize = 1 + 16;

/// The answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Verdict {
    /// It is mutual TLS 1.3 between the two.
    Proved,
    /// Not enough was seen.
    NotProved,
    /// It is not.
    Disproved,
}

/// Everything that is known, for people and scripts.
#[derive(Debug, Serialize)]
pub(super) struct Answer<'a> {
    pub(super) verdict: Verdict,
    /// Why it is nothing better.
    pub(super) reasons: Vec<Reason>,
    pub(super) workload: Party<'a>,
    pub(super) other: Party<'a>,
    /// The connection as the wire shows it.
    pub(super) connection: Option<Ends>,
    /// What the agent says of it.
    pub(super) agent: Option<&'a ConnectionReport>,
    /// What it says of the other end, where that is of this node too.
    pub(super) agent_of_other_end: Option<&'a ConnectionReport>,
    /// What the wire shows.
    pub(super) wire: Option<Judgement>,
    pub(super) capture: Capture<'a>,
    /// What a process of our own has done; nothing where a connection was watched that was open.
    pub(super) steps: &'a [Step],
    /// Octets that were sent, and must not be seen.
    pub(super) sent: Option<usize>,
    /// How many open connections there were to watch.
    pub(super) candidates: Option<usize>,
}

/// One end.
#[derive(Debug, Serialize)]
pub(super) struct Party<'a> {
    pub(super) name: &'a str,
    /// What it must prove to be.
    pub(super) identity: Option<&'a str>,
}

/// What there was to judge.
#[derive(Debug, Serialize)]
pub(super) struct Capture<'a> {
    pub(super) packets: usize,
    pub(super) octets: usize,
    pub(super) lost: u64,
    pub(super) file: Option<&'a PathBuf>,
}

/// Why it is not proved.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Reason {
    pub(super) weight: Weight,
    pub(super) code: &'static str,
    pub(super) text: String,
    /// What the wire has to do with it.
    pub(super) seen: Option<Finding>,
}

/// Judges.
pub(super) fn conclude<'a>(subject: &'a Subject, observation: &'a Observation) -> Answer<'a> {
    let wire = observation.judge();
    let mut reasons = of_capture(subject, observation, wire.as_ref());
    reasons.extend(wire.iter().flat_map(|wire| &wire.findings).map(Reason::seen));
    match &observation.report {
        Some(report) => {
            reasons.extend(of_path(report, wire.as_ref(), subject));
            reasons.extend(of_identities(report, subject));
            reasons.extend(of_keys(report, wire.as_ref()));
            reasons.extend(observation.other_end.iter().flat_map(|other| of_other_end(report, other)));
        }
        None if observation.candidates != Some(0) => reasons.push(Reason::open("agent-silent", AGENT_SILENT)),
        None => {}
    }
    reasons.sort_by_key(|reason| std::cmp::Reverse(reason.weight));
    Answer {
        verdict: match reasons.first().map(|reason| reason.weight) {
            None => Verdict::Proved,
            Some(Weight::LeavesOpen) => Verdict::NotProved,
            Some(Weight::Disproves) => Verdict::Disproved,
        },
        reasons,
        workload: Party { name: &subject.workload.name, identity: Some(subject.workload.identity.as_str()) },
        other: Party { name: &subject.other.name, identity: subject.other.identity.as_deref() },
        connection: observation.ends,
        agent: observation.report.as_ref(),
        agent_of_other_end: observation.other_end.as_ref(),
        wire,
        capture: Capture {
            packets: observation.packets.len(),
            octets: observation.packets.iter().map(|packet| packet.octets.len()).sum(),
            lost: observation.lost,
            file: observation.file.as_ref(),
        },
        steps: &observation.steps,
        sent: observation.candidates.is_none().then_some(observation.text.len()),
        candidates: observation.candidates,
    }
}

const AGENT_SILENT: &str = "the agent has no record of this connection: it has refused it (its log says why, and so does \
                            `enforcer explain`), or no program has sent it there because the destination is outside the mesh";

impl Reason {
    fn open(code: &'static str, text: impl Into<String>) -> Self {
        Self { weight: Weight::LeavesOpen, code, text: text.into(), seen: None }
    }

    fn against(code: &'static str, text: impl Into<String>) -> Self {
        Self { weight: Weight::Disproves, ..Self::open(code, text) }
    }

    fn seen(finding: &Finding) -> Self {
        Self {
            weight: finding.code.weight(),
            code: finding.code.label(),
            text: finding.text.clone(),
            seen: Some(finding.clone()),
        }
    }
}

/// Whether there is enough to judge.
fn of_capture(subject: &Subject, observation: &Observation, wire: Option<&Judgement>) -> Vec<Reason> {
    let mut reasons = Vec::new();
    let mut open = |code, text: String| reasons.push(Reason::open(code, text));
    if observation.lost > 0 {
        open(
            "packets-lost",
            format!("{} packets were lost before they could be captured; try again", observation.lost),
        );
    }
    if observation.is_full {
        open(
            "capture-full",
            "more was captured than is kept (64 MiB); try again when there is less traffic".to_owned(),
        );
    }
    let (one, other) = (&subject.workload.name, &subject.other.name);
    match observation.candidates {
        Some(0) => open(
            "no-connection",
            format!("there is no open connection between {one} and {other}; name a port ({other}:PORT) to open one"),
        ),
        Some(open_now) if wire.is_none_or(|wire| !wire.has_records_both_ways()) => open(
            "idle",
            format!(
                "of {open_now} open connections none has carried whole records both ways in time; use one meanwhile, \
                 give it longer with --within, or name a port to open one"
            ),
        ),
        _ => {}
    }
    for step in &observation.steps {
        match step {
            Step::Failed(why) => open("connection-failed", format!("the connection did not work: {why}")),
            Step::Silence if wire.is_none_or(|wire| !wire.has_records_both_ways()) => open(
                "no-answer",
                format!("{other} has answered nothing; send what it answers with --send, or watch with --existing"),
            ),
            _ => {}
        }
    }
    let is_short = |wire: &Judgement| {
        let carried = wire.client.records.encrypted_octets;
        wire.client.records.application_data > 0 && carried < observation.text.len() + ADDED
    };
    if wire.is_some_and(is_short) {
        open("not-sent-here", "fewer octets were captured than were sent: they went another way".to_owned());
    }
    reasons
}

/// Whether the path that the agent names is the one that the wire shows.
fn of_path(report: &ConnectionReport, wire: Option<&Judgement>, subject: &Subject) -> Vec<Reason> {
    let reason = report.reason.as_deref().unwrap_or("no reason");
    let path = match report.path.as_deref() {
        Some("plain") => {
            let what = format!("the agent says that it is carried in the clear ({reason})");
            return vec![Reason::against("in-the-clear", what)];
        }
        Some("public") => {
            let what = "the agent says that the client has called a public name: it has no identity";
            return vec![Reason::against("no-identity", what)];
        }
        Some(path @ ("direct" | "relay")) => path,
        Some(path) => return vec![Reason::open("not-carried", format!("the agent says that it is {path} ({reason})"))],
        None => return vec![Reason::open("not-decided", "the agent has not decided about it in time")],
    };
    let Some(wire) = wire else { return Vec::new() };
    let mut reasons = Vec::new();
    let in_clear = |finding: &Finding| matches!(finding.code, Code::NotTls | Code::MarkerSeen | Code::OutsideOfStream);
    if wire.findings.iter().any(in_clear) {
        let what = format!("the agent says {path} ({reason}), and the wire shows octets in the clear");
        reasons.push(Reason::against("contradiction", what));
    }
    // A relay gets its keys as an application's socket does where the other end may be one.
    let may_be_keyed = path == "direct" || report.offload.as_deref() == Some("kernel") && subject.other.has_agent;
    let expected = match wire.opening {
        Some(Opening::Handshake) => path == "relay",
        Some(Opening::Data) => may_be_keyed,
        None => true,
    };
    if let (false, Some(opening)) = (expected, wire.opening) {
        let what = format!("the agent says {path} ({reason}), and the connection begins with {}", opening.label());
        reasons.push(Reason::against("contradiction", what));
    }
    reasons
}

/// Whether both ends are who they must be.
fn of_identities(report: &ConnectionReport, subject: &Subject) -> Vec<Reason> {
    let mut reasons = Vec::new();
    let own = subject.workload.identity.as_str();
    if report.local != own {
        let what = format!("the agent says that {} is {}, and it should be {own}", subject.workload.name, report.local);
        reasons.push(Reason::against("wrong-identity", what));
    }
    let name = &subject.other.name;
    match (&report.peer, &subject.other.identity) {
        (Some(proved), Some(expected)) if proved != expected => {
            let what = format!("{name} has proved to be {proved}, and should be {expected}");
            reasons.push(Reason::against("wrong-identity", what));
        }
        (Some(_), _) => {}
        (None, _) => reasons.push(Reason::open("no-identity", format!("{name} has proved no identity to the agent"))),
    }
    for (whose, serial) in [(&subject.workload.name, &report.local_serial), (name, &report.peer_serial)] {
        if serial.is_none() && report.peer.is_some() {
            let what = format!("the agent does not say by which certificate {whose} was proved");
            reasons.push(Reason::open("no-certificate", what));
        }
    }
    reasons
}

/// Whether both say the same of the keys.
fn of_keys(report: &ConnectionReport, wire: Option<&Judgement>) -> Vec<Reason> {
    let mut reasons = Vec::new();
    if report.cipher.is_none() && report.peer.is_some() {
        reasons.push(Reason::open("no-cipher", "the agent does not say which cipher suite it is"));
    }
    let Some(agreed) = wire.and_then(|wire| wire.agreed.as_ref()) else { return reasons };
    let both =
        [("cipher suite", &report.cipher, Some(&agreed.cipher)), ("group", &report.group, agreed.group.as_ref())];
    for (what, said, shown) in both {
        if let (Some(said), Some(shown)) = (said, shown)
            && said != shown
        {
            let what = format!("the agent says {what} {said}, and the wire shows {shown}");
            reasons.push(Reason::against("contradiction", what));
        }
    }
    reasons
}

/// Whether the other end, of a workload of this node too, says the same from its side.
fn of_other_end(report: &ConnectionReport, other: &ConnectionReport) -> Vec<Reason> {
    let pairs = [
        ("identity of the other end", report.peer.as_ref(), Some(&other.local)),
        ("own identity", Some(&report.local), other.peer.as_ref()),
        ("certificate of the other end", report.peer_serial.as_ref(), other.local_serial.as_ref()),
        ("own certificate", report.local_serial.as_ref(), other.peer_serial.as_ref()),
        ("cipher suite", report.cipher.as_ref(), other.cipher.as_ref()),
    ];
    let differ = pairs.into_iter().filter_map(|(what, one, two)| {
        let (one, two) = (one?, two?);
        let text = format!("the agent has two records of it, with {what} {one} in one and {two} in the other");
        (one != two).then(|| Reason::against("contradiction", text))
    });
    differ.collect()
}

#[cfg(test)]
mod tests;
