//! Connections that are kept open, one on each flow, on which something is said again and again.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use enforcer_tests::place::Place;
use enforcer_tests::process::Running;
use enforcer_tests::wait;

use crate::load::Load;
use crate::model::{Expected, Flow, Ticket};
use crate::stage::{ECHO, MARKER};
use crate::tally::Ended;

/// Then it is closed, and another one opened.
const QUESTIONS: usize = 100;
/// A new connection may be held for so long.
const HELD: Duration = Duration::from_secs(60);

/// One connection.
struct Talk {
    client: Running,
    said: usize,
    /// Since it was known to be right that it is open.
    life: Ticket,
    /// How often another path had been wanted when it was opened.
    path_changes: u64,
}

impl Load<'_> {
    /// Keeps a connection on each of [`Flow::KEPT`] until it is told to stop.
    pub(crate) fn talk(&self) -> Result<()> {
        let mut talks: [Option<Talk>; Flow::KEPT.len()] = Default::default();
        let mut round = 0;
        while !self.stop.load(Ordering::Relaxed) {
            round += 1;
            for (number, flow) in Flow::KEPT.into_iter().enumerate() {
                let family = number % 2;
                talks[number] = match talks[number].take() {
                    Some(talk) => self.question(talk, flow)?,
                    // What is refused is tried, too, and may take its time.
                    None if self.book.now(flow) != Expected::Refusal || round % 16 == 0 => self.open(flow, family)?,
                    None => None,
                };
            }
            // Not as fast as it can: the other lanes want the processor.
            let since = Instant::now();
            wait::until("the next round", HELD, || Ok((since.elapsed() > PAUSE).then_some(())))?;
        }
        Ok(())
    }

    fn open(&self, flow: Flow, family: usize) -> Result<Option<Talk>> {
        let path_changes = self.book.path_changes();
        let (ticket, life, since) = (self.book.begin(flow), self.book.begin(flow), Instant::now());
        let ends = self.stage.ends(flow, family);
        let directory = ends.client.directory.join(format!("talk-{flow:?}"));
        if directory.exists() {
            fs::remove_dir_all(&directory).context("remove what an earlier client has written")?;
        }
        fs::create_dir(&directory).context("make a directory for a client")?;
        let client = start(&Place { directory, ..ends.client.clone() }, ends.target)?;
        let mut talk = Talk { client, said: 0, life, path_changes };
        let ended = talk.say(HELD);
        let what = format!("the first question to {}", ends.target);
        self.tally.attempt((flow, &what), self.book.end(ticket), &ended, since);
        Ok(matches!(ended, Ended::Well).then_some(talk))
    }

    /// Says something; gives back the connection if it is still there.
    fn question(&self, mut talk: Talk, flow: Flow) -> Result<Option<Talk>> {
        let (ticket, since) = (self.book.begin(flow), Instant::now());
        let ended = talk.say(wait::patience());
        let now = self.book.end(ticket);
        let what = format!("question {} on an open connection", talk.said);
        // It may be on a path on which it does not outlive what one on the path of now does.
        let is_of_before = talk.path_changes != self.book.path_changes();
        if matches!(ended, Ended::Well) {
            self.tally.question((flow, &what), now, &ended, since);
            if now == Expected::Success {
                // Whatever it has outlived, from now on it must live again.
                self.book.end(std::mem::replace(&mut talk.life, self.book.begin(flow)));
            }
            return Ok((talk.said < QUESTIONS && !is_of_before).then_some(talk));
        }
        // It may have died before it was asked.
        let life = self.book.end(talk.life);
        let expected = if now == life && !is_of_before { now } else { Expected::Either };
        self.tally.question((flow, &what), expected, &ended, since);
        Ok(None)
    }
}

const PAUSE: Duration = Duration::from_millis(200);

fn start(place: &Place, target: IpAddr) -> Result<Running> {
    let address = match SocketAddr::new(target, ECHO) {
        SocketAddr::V4(to) => format!("TCP4:{to}"),
        SocketAddr::V6(to) => format!("TCP6:{to}"),
    };
    place.start("socat", &["STDIO", &address])
}

impl Talk {
    fn say(&mut self, limit: Duration) -> Ended {
        self.said += 1;
        let line = format!("{MARKER} {}\n", self.said);
        let result = self.client.feed(line.as_bytes()).and_then(|()| {
            wait::until("the answer", limit, || {
                let answered = self.client.stdout()?.ends_with(&line);
                if !answered {
                    self.client.check_alive()?;
                }
                Ok(answered.then_some(()))
            })
        });
        match result {
            Ok(()) => Ended::Well,
            Err(error) => Ended::Refused(format!("{error:#}")),
        }
    }
}
