//! Captures a connection, and asks the agent what it is.
//!
//! The capture runs before there is a connection. For one that is opened here every connection to that address and port
//! is captured at first, because the agent may connect from a port of its own; once the agent has said from which one, only
//! that connection is. What is kept is bounded, and that something was not kept is known.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::Error;
use super::errand::{Errand, Step};
use super::subject::Subject;
use crate::cli::ask;
use crate::kernel::netns::Namespace;
use crate::kernel::packets::{Between, MOST, Packets};
use crate::observe::report::ConnectionReport;
use crate::wire::{Ends, Judgement, Opened, Packet, Question, find, judge};

/// Octets of packets that are kept.
const MOST_OCTETS: usize = 64 << 20;
/// How long the end of a connection may take to be captured.
const GOODBYE: Duration = Duration::from_secs(2);
/// How long the agent may take to know a connection that is open.
const GRACE: Duration = Duration::from_secs(2);
/// From one look at what the agent says, or at what was captured, to the next.
const PAUSE: Duration = Duration::from_millis(100);

/// What was captured and said.
#[derive(Clone, Debug, Default)]
pub(super) struct Observation {
    /// Packets of the connection, and others in which the text was.
    pub(super) packets: Vec<Packet>,
    /// Packets that the kernel had no room for.
    pub(super) lost: u64,
    /// More came than is kept.
    pub(super) is_full: bool,
    /// The connection on the wire, if there is one.
    pub(super) ends: Option<Ends>,
    /// What the agent of this node says of it.
    pub(super) report: Option<ConnectionReport>,
    /// What the same agent says of its other end, where that is a workload of this node too.
    pub(super) other_end: Option<ConnectionReport>,
    /// What a process of our own has done.
    pub(super) steps: Vec<Step>,
    /// What it has sent.
    pub(super) text: String,
    /// Open connections between the two, where one of them was to be watched.
    pub(super) candidates: Option<usize>,
    /// Where the packets were written.
    pub(super) file: Option<PathBuf>,
}

impl Observation {
    /// What the wire shows.
    pub(super) fn judge(&self) -> Option<Judgement> {
        let opened = if self.candidates.is_some() { Opened::Before } else { Opened::During };
        Some(judge(&self.packets, &Question { ends: self.ends?, opened, marker: self.text.as_bytes() }))
    }
}

/// Opens a connection and observes it to its end.
pub(super) fn open(
    subject: &Subject,
    target: SocketAddr,
    (text, within): (String, Duration),
) -> Result<Observation, Error> {
    let namespace = namespace(subject)?;
    let mut capture = Capture::start(subject, &namespace, &[Between { one: None, other: target }])?;
    let started = Errand::start((&subject.workload, &namespace), target, (&text, within));
    let mut errand = started.map_err(kernel("start a process inside the cgroup and the namespace", subject))?;
    let deadline = Instant::now() + within;
    let (mut told, mut done) = (Told::default(), None);
    while Instant::now() < deadline {
        capture.read_for(PAUSE, subject)?;
        errand.listen();
        let Some(local) = errand.local() else { if errand.is_done() { break } else { continue } };
        if !told.is_complete() {
            told.ask(subject, |report| is_opened_by(report, &subject.workload.name, (local, target)))?;
        }
        if !errand.is_done() {
            continue;
        }
        // An agent that has a record has it by now, if it is not just about to.
        let enough = done.get_or_insert_with(|| Instant::now() + GRACE);
        if told.is_complete() || errand.failure().is_some() || Instant::now() > *enough {
            break;
        }
    }
    errand.end();
    let ends = ends_of_own(&told, errand.local(), target, &capture.packets);
    if let Some(ends) = ends {
        capture.only(ends, text.as_bytes(), subject)?;
    }
    let end = Instant::now() + GOODBYE;
    let goes_on = |packets: &[Packet]| {
        let judged = ends.map(|ends| judge(packets, &Question { ends, opened: Opened::During, marker: &[] }));
        judged.is_some_and(|judgement| !judgement.has_ended())
    };
    capture.read_for(PAUSE, subject)?;
    while goes_on(&capture.packets) && Instant::now() < end {
        capture.read_for(PAUSE, subject)?;
    }
    capture.finish(Observation { ends, steps: errand.steps.clone(), text, ..told.into() }, subject)
}

/// Whether a record of the agent is that of a connection that the workload has opened from this address.
fn is_opened_by(report: &ConnectionReport, workload: &str, (local, target): (SocketAddr, SocketAddr)) -> bool {
    let is = |one: SocketAddr, other: SocketAddr| plain(one) == plain(other);
    report.direction == "outbound"
        && report.workload == workload
        && is(report.destination, target)
        && is(report.application.unwrap_or(report.source), local)
}

/// Which connection it is on the wire. Where the agent does not say so, it is that of the process, or the only one.
fn ends_of_own(told: &Told, local: Option<SocketAddr>, target: SocketAddr, packets: &[Packet]) -> Option<Ends> {
    if let Some(report) = &told.report {
        return Some(ends_of(report));
    }
    let local = local?;
    if !local.ip().is_loopback() {
        return Some(Ends { client: plain(local), server: plain(target) });
    }
    packets.iter().find_map(|packet| Ends::to(plain(target), packet))
}

fn ends_of(report: &ConnectionReport) -> Ends {
    Ends { client: plain(report.source), server: plain(report.destination) }
}

/// An IPv4 address in IPv6 clothes is that of IPv4 on the wire.
fn plain(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// Watches what is open, until one connection has carried records both ways.
pub(super) fn watch(subject: &Subject, within: Duration) -> Result<Observation, Error> {
    let namespace = namespace(subject)?;
    let all = ask::connections(subject.admin).map_err(Error::Agent)?;
    let mut open: Vec<&ConnectionReport> = all.iter().filter(|report| subject.is_about(report)).collect();
    let candidates = Some(open.len());
    // One that is still being set up may end before the agent could be asked again, and nobody would know who that was.
    if open.iter().any(|report| is_told_whole(report)) {
        open.retain(|report| is_told_whole(report));
    }
    // The youngest: those that are oldest are often idle.
    open.sort_unstable_by_key(|report| std::cmp::Reverse(report.id));
    open.truncate(MOST);
    let Some(&youngest) = open.first() else { return Ok(Observation { candidates, ..Observation::default() }) };
    let between = |report: &&ConnectionReport| {
        let Ends { client, server } = ends_of(report);
        Between { one: Some(client), other: server }
    };
    let mut capture = Capture::start(subject, &namespace, &open.iter().map(between).collect::<Vec<_>>())?;
    let deadline = Instant::now() + within;
    let mut chosen = youngest;
    while Instant::now() < deadline && !capture.is_full {
        capture.read_for(PAUSE, subject)?;
        let has_spoken = |report: &&&ConnectionReport| {
            let question = Question { ends: ends_of(report), opened: Opened::Before, marker: &[] };
            judge(&capture.packets, &question).has_records_both_ways()
        };
        if let Some(found) = open.iter().find(has_spoken) {
            chosen = found;
            break;
        }
    }
    let ends = ends_of(chosen);
    capture.only(ends, &[], subject)?;
    // As it is now, if it is still open.
    let mut told = Told { report: Some(chosen.clone()), ..Told::default() };
    told.ask(subject, |report| report.id == chosen.id)?;
    capture.finish(Observation { ends: Some(ends), candidates, ..told.into() }, subject)
}

fn namespace(subject: &Subject) -> Result<Namespace, Error> {
    Namespace::open(&subject.workload.network.path()).map_err(kernel("enter the network namespace", subject))
}

fn kernel(operation: &'static str, subject: &Subject) -> impl FnOnce(std::io::Error) -> Error {
    let workload = subject.workload.name.clone();
    move |cause| Error::Kernel { operation, workload, cause }
}

/// What the agent has said.
#[derive(Debug, Default)]
struct Told {
    report: Option<ConnectionReport>,
    other_end: Option<ConnectionReport>,
}

impl Told {
    fn ask(&mut self, subject: &Subject, is_meant: impl Fn(&ConnectionReport) -> bool) -> Result<(), Error> {
        let all = ask::connections(subject.admin).map_err(Error::Agent)?;
        let Some(report) = all.iter().find(|report| is_meant(report)) else { return Ok(()) };
        let is_other_end = |other: &&ConnectionReport| {
            ends_of(other) == ends_of(report) && other.direction != report.direction && other.id != report.id
        };
        self.other_end = all.iter().find(is_other_end).cloned();
        self.report = Some(report.clone());
        Ok(())
    }

    /// Nothing more is to be learned.
    fn is_complete(&self) -> bool {
        self.report.as_ref().is_some_and(is_told_whole)
    }
}

/// The agent knows all of it that it ever will, but for what was carried.
fn is_told_whole(report: &ConnectionReport) -> bool {
    match report.path.as_deref() {
        Some("direct" | "relay") => report.peer.is_some(),
        path => path.is_some(),
    }
}

impl From<Told> for Observation {
    fn from(told: Told) -> Self {
        Self { report: told.report, other_end: told.other_end, ..Self::default() }
    }
}

/// A capture, and what it has brought.
struct Capture {
    source: Packets,
    packets: Vec<Packet>,
    octets: usize,
    is_full: bool,
}

impl Capture {
    fn start(subject: &Subject, namespace: &Namespace, connections: &[Between]) -> Result<Self, Error> {
        let source = Packets::capture(namespace, connections);
        let source = source.map_err(kernel("capture packets in the network namespace", subject))?;
        Ok(Self { source, packets: Vec::new(), octets: 0, is_full: false })
    }

    fn read_for(&mut self, time: Duration, subject: &Subject) -> Result<(), Error> {
        let started = Instant::now();
        while started.elapsed() < time {
            let next = self.source.read().map_err(kernel("read captured packets", subject))?;
            let Some(captured) = next else { continue };
            if self.octets + captured.octets.len() > MOST_OCTETS {
                self.is_full = true;
                continue;
            }
            self.octets += captured.octets.len();
            let (at, length, octets) = (captured.at, captured.length, captured.octets);
            self.packets.push(Packet { at, length, octets });
        }
        Ok(())
    }

    /// From now on keeps packets of this connection alone, and of what is there those in which the marker is.
    fn only(&mut self, ends: Ends, marker: &[u8], subject: &Subject) -> Result<(), Error> {
        let between = Between { one: Some(ends.client), other: ends.server };
        self.source.only(&[between]).map_err(kernel("capture packets in the network namespace", subject))?;
        self.packets.retain(|packet| ends.have(packet) || find(&packet.octets, marker).is_some());
        self.octets = self.packets.iter().map(|packet| packet.octets.len()).sum();
        Ok(())
    }

    fn finish(mut self, observation: Observation, subject: &Subject) -> Result<Observation, Error> {
        let lost = self.source.lost().map_err(kernel("ask for lost packets", subject))?;
        Ok(Observation { packets: self.packets, lost, is_full: self.is_full, ..observation })
    }
}
