//! Connections of many kinds, one after the other on each of a few lanes: each made by a program of its own in its workload.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use enforcer_tests::peer::{self, Outcome};
use enforcer_tests::place::Place;
use enforcer_tests::program;
use enforcer_tests::random::Random;
use enforcer_tests::wait;

use crate::model::{Book, Expected, Flow};
use crate::stage::{BULK, BULK_OCTETS, ECHO, Ends, MARKER, Stage, WEB};
use crate::tally::{Ended, Tally};

/// What all lanes share.
pub(crate) struct Load<'a> {
    pub(crate) stage: &'a Stage,
    pub(crate) book: &'a Book,
    pub(crate) tally: &'a Tally,
    pub(crate) stop: &'a AtomicBool,
}

/// What a connection is used for.
#[derive(Debug, Clone, Copy)]
enum Kind {
    /// Some text, that comes back.
    Echo,
    /// A few short ones there and back.
    PingPong,
    /// The same by a program that does not block.
    PingPongTokio,
    /// Three at once.
    Parallel,
    /// Much in both directions.
    Bulk,
    /// curl and nginx.
    Page,
    /// A datagram to the same place, which must not leave.
    Datagram,
}

const KINDS: [Kind; 10] = [
    Kind::Echo,
    Kind::Echo,
    Kind::Echo,
    Kind::Page,
    Kind::Page,
    Kind::PingPong,
    Kind::PingPongTokio,
    Kind::Parallel,
    Kind::Bulk,
    Kind::Datagram,
];

/// Which connections a lane makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lane {
    /// Between workloads that know each other.
    Usual,
    /// From the one that nobody knows: what refuses it may take its time.
    Impostor,
}

impl Load<'_> {
    /// Makes connections until it is told to stop. An error is one of the soak itself.
    pub(crate) fn run(&self, lane: Lane, name: &str, mut random: Random) -> Result<()> {
        let directory = self.stage.a.directory.join(name);
        while !self.stop.load(Ordering::Relaxed) {
            let flow = match lane {
                Lane::Usual => random.of(&Flow::ALL[..6]),
                Lane::Impostor => {
                    self.let_others_go_first()?;
                    random.of(&Flow::ALL[6..])
                }
            };
            // What is refused may wait for half a minute, and keep this lane from trying what is not.
            if lane == Lane::Usual && self.book.now(flow) == Expected::Refusal && random.below(4) > 0 {
                continue;
            }
            let (kind, family) = (random.of(&KINDS), random.below(2));
            // A permissive node lets datagrams pass, and says so; `a` is strict at all times.
            if matches!(kind, Kind::Datagram) && !flow.begins_on_a() {
                continue;
            }
            // What programs write here is of no use when they have ended.
            fs::create_dir_all(&directory).with_context(|| format!("create {}", directory.display()))?;
            self.attempt((flow, kind, family), &directory)?;
            fs::remove_dir_all(&directory).with_context(|| format!("remove {}", directory.display()))?;
        }
        Ok(())
    }

    /// Most is refused at once, and would be most of what is done.
    fn let_others_go_first(&self) -> Result<()> {
        const OTHERS: u64 = 8;
        let wanted = self.tally.progress() + OTHERS;
        let is_time = || self.tally.progress() >= wanted || self.stop.load(Ordering::Relaxed);
        wait::until("the other lanes", PATIENCE, || Ok(is_time().then_some(())))
    }

    /// Whether some text comes back.
    pub(crate) fn is_well(&self, flow: Flow, family: usize) -> Result<bool> {
        let ends = self.stage.ends(flow, family);
        Ok(try_it(ends.client, &ends, Kind::Echo).is_ok_and(|ended| matches!(ended, Ended::Well)))
    }

    fn attempt(&self, (flow, kind, family): (Flow, Kind, usize), directory: &Path) -> Result<()> {
        let (ticket, since) = (self.book.begin(flow), Instant::now());
        let ends = self.stage.ends(flow, family);
        let client = Place { directory: directory.to_path_buf(), ..ends.client.clone() };
        let tried = try_it(&client, &ends, kind);
        let expected = self.book.end(ticket);
        let what = format!("{kind:?} to {}", ends.target);
        if matches!(kind, Kind::Datagram) {
            // Refused at all times: it would be in the clear.
            self.tally.attempt((flow, &what), Expected::Refusal, &tried?, since);
            return Ok(());
        }
        let ended = tried.unwrap_or_else(|error| Ended::Refused(format!("{error:#}")));
        self.tally.attempt((flow, &what), expected, &ended, since);
        Ok(())
    }
}

/// An error is how it was refused, too.
fn try_it(client: &Place, ends: &Ends<'_>, kind: Kind) -> Result<Ended> {
    let connect = |port, arguments: &[&str]| peer::start(client, SocketAddr::new(ends.target, port), arguments);
    match kind {
        Kind::Echo => {
            let text = MARKER.repeat(20);
            let outcome = peer::outcome_of(connect(ECHO, &["end-first", "--text", &text])?)?;
            Ok(judged(&outcome, |outcome| Ok(outcome.text()? == text)))
        }
        Kind::PingPong => {
            let outcome = peer::outcome_of(connect(ECHO, &["ping-pong", "--rounds", "10"])?)?;
            Ok(judged(&outcome, |_outcome| Ok(true)))
        }
        Kind::PingPongTokio => {
            let outcomes = peer::outcomes_of(connect(ECHO, &["ping-pong", "--rounds", "10", "--by", "tokio"])?)?;
            Ok(judged(outcomes.first().context("no outcome")?, |_outcome| Ok(true)))
        }
        Kind::Parallel => {
            let outcome = peer::outcome_of(connect(ECHO, &["parallel", "--connections", "3"])?)?;
            Ok(judged(&outcome, |outcome| Ok(outcome.details()?["connections"] == 3)))
        }
        Kind::Bulk => {
            let outcome = peer::outcome_of(connect(BULK, &["bulk", "--bytes", BULK_OCTETS])?)?;
            Ok(judged(&outcome, |outcome| outcome.prove_exchanged(BULK_OCTETS.parse()?).map(|()| true)))
        }
        Kind::Page => {
            let curl = program::curl(client, SocketAddr::new(ends.target, WEB))?;
            let page = curl.finish_within(PATIENCE)?.success()?;
            Ok(if page == MARKER { Ended::Well } else { Ended::Corrupt(format!("curl got `{page}`")) })
        }
        Kind::Datagram => {
            let outcomes = peer::reach(client, &[("udp", SocketAddr::new(ends.target, ECHO))])?;
            ensure!(outcomes.len() == 1, "{outcomes:?}");
            Ok(if outcomes[0] == 0 { Ended::Well } else { Ended::Refused(format!("error {}", outcomes[0])) })
        }
    }
}

/// curl itself gives up after a minute.
const PATIENCE: Duration = Duration::from_secs(120);

/// What came of a connection that did not break must be right.
fn judged(outcome: &Outcome, is_right: impl FnOnce(&Outcome) -> Result<bool>) -> Ended {
    if outcome.error().is_some() {
        return Ended::Refused(format!("{outcome:?}"));
    }
    match is_right(outcome) {
        Ok(true) => Ended::Well,
        Ok(false) => Ended::Corrupt(format!("{outcome:?}")),
        Err(error) => Ended::Corrupt(format!("{error:#}: {outcome:?}")),
    }
}
