//! A process that commits is killed, again and again: what was answered is there, and each transaction whole.
//!
//! The kernel lives on, so this does not show what a power failure would: that what was answered is on disk. That the
//! store waits for the disk is seen in its rate.

use std::io::{self, BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use enforcer::ca::store::embedded::Embedded;
use enforcer::ca::store::{Store, Transaction};
use enforcer_tests::wait;
use libtest_mimic::Trial;
use tokio::task::JoinSet;

use super::conformance::committed;
use crate::stage::{self, promises};

/// What this program is told to be.
pub(crate) const ROLE: &str = "embedded-writer";

/// How often a process is killed.
const ROUNDS: u32 = 200;
/// So many of them with the same file; the first one of them makes it.
const ROUNDS_EACH: u32 = 10;
/// Tasks of a process that commit at the same time; each numbers its transactions from 1 on.
const WRITERS: usize = 4;
/// The entries that each transaction creates.
const PARTS: [&str; 3] = ["a", "b", "c"];
/// The latest moment at which a process is killed after its start.
const LATEST: Duration = Duration::from_millis(120);

/// A number of each writer.
type Numbers = [usize; WRITERS];

pub(crate) fn trials() -> Vec<Trial> {
    promises![what_a_killed_process_was_answered_is_in_the_embedded_store]
}

async fn what_a_killed_process_was_answered_is_in_the_embedded_store(directory: PathBuf) -> Result<()> {
    let (mut total, mut early) = (0, 0);
    for first in (0..ROUNDS).step_by(ROUNDS_EACH as usize) {
        let file = directory.join(format!("{first}/store.redb"));
        let mut found = Numbers::default();
        for round in first..first + ROUNDS_EACH {
            let answered = killed(&file, round).with_context(|| format!("round {round}"))?;
            early += u32::from(answered == Numbers::default());
            found = checked(&file, answered, found).await.with_context(|| format!("after round {round}"))?;
        }
        total += found.iter().sum::<usize>();
    }
    eprintln!("{ROUNDS} processes were killed, {early} before their first answer; {total} transactions are whole");
    ensure!(total > ROUNDS as usize, "only {total} transactions in {ROUNDS} rounds");
    ensure!(early < ROUNDS / 2, "{early} of {ROUNDS} processes had no answer");
    Ok(())
}

/// Starts a writer, and kills it: in every other round after some answers, otherwise at some moment. Gives the last
/// number that each of its tasks had an answer for.
fn killed(file: &Path, round: u32) -> Result<Numbers> {
    let mut command = stage::child(ROLE)?;
    let mut child = command.arg(file).stdin(Stdio::null()).stdout(Stdio::piped()).spawn().context("start a writer")?;
    let started = Instant::now();
    let lines = lines(child.stdout.take().context("no output")?);
    let result = if round.is_multiple_of(2) {
        after_answers(&lines, 1 + round * 7 % 60)
    } else {
        // The fractions of multiples of the golden ratio are spread evenly.
        let fraction = (f64::from(round) * 0.618_034).fract();
        until(&lines, started + wait::bound(LATEST).mul_f64(fraction))
    };
    let ended = end(&mut child);
    let mut answered = result?;
    ended?;
    // What it had printed and nobody had read.
    while let Ok(line) = lines.recv() {
        note(&mut answered, &line)?;
    }
    Ok(answered)
}

/// Kills it, and fails if it has ended by itself.
fn end(child: &mut Child) -> Result<()> {
    let early = child.try_wait().context("look at the writer")?;
    child.kill().and_then(|()| child.wait()).context("kill the writer")?;
    match early {
        Some(status) => bail!("the writer ended by itself: {status}"),
        None => Ok(()),
    }
}

/// Its lines, until it ends.
fn lines(output: ChildStdout) -> Receiver<String> {
    let (sender, lines) = mpsc::channel();
    thread::spawn(move || {
        let mut printed = BufReader::new(output).lines().map_while(Result::ok);
        printed.try_for_each(|line| sender.send(line))
    });
    lines
}

fn after_answers(lines: &Receiver<String>, count: u32) -> Result<Numbers> {
    let mut answered = Numbers::default();
    for _ in 0..count {
        let line = lines.recv_timeout(wait::patience()).context("wait for an answer")?;
        note(&mut answered, &line)?;
    }
    Ok(answered)
}

fn until(lines: &Receiver<String>, moment: Instant) -> Result<Numbers> {
    let mut answered = Numbers::default();
    while let Ok(line) = lines.recv_timeout(moment.saturating_duration_since(Instant::now())) {
        note(&mut answered, &line)?;
    }
    Ok(answered)
}

fn note(answered: &mut Numbers, line: &str) -> Result<()> {
    let (writer, number) = line.split_once(' ').with_context(|| format!("a writer printed {line:?}"))?;
    let last = answered.get_mut(writer.parse::<usize>()?).context("no such writer")?;
    *last = number.parse()?;
    Ok(())
}

/// Opens the store, and gives the last transaction of each writer: every one that was answered is there, with all
/// before it, each whole; and nothing else but one for each writer that was under way.
async fn checked(file: &Path, answered: Numbers, before: Numbers) -> Result<Numbers> {
    let store = Embedded::open(file)?;
    let mut expected = Vec::new();
    let mut found = Numbers::default();
    for (writer, last) in found.iter_mut().enumerate() {
        *last = number(&store, writer).await?;
        let known = answered[writer].max(before[writer]);
        ensure!(*last >= known, "writer {writer} was answered {known}, and {last} is there");
        ensure!(*last <= known + 1, "writer {writer} was at {known}, and {last} is there");
        if *last > 0 {
            expected.push((counter(writer), last.to_string().into_bytes()));
        }
        expected.extend((1..=*last).flat_map(|number| entries(writer, number)));
    }
    expected.sort();
    let there = store.list("").await?;
    if there != expected {
        let differing = there.iter().zip(&expected).find(|(one, other)| one != other).map(|(one, _)| &one.0);
        bail!("{} entries instead of {}, {differing:?} is the first other one", there.len(), expected.len());
    }
    Ok(found)
}

fn counter(writer: usize) -> String {
    format!("last/{writer}")
}

fn entries(writer: usize, number: usize) -> impl Iterator<Item = (String, Vec<u8>)> {
    PARTS.into_iter().map(move |part| {
        let text = format!("{writer} {number} {part} ");
        let value = text.repeat(1 + number % 50).into_bytes();
        (format!("transaction/{writer}/{number:06}/{part}"), value)
    })
}

async fn number(store: &dyn Store, writer: usize) -> Result<usize> {
    let last = store.get(&counter(writer)).await?;
    Ok(last.map(String::from_utf8).transpose()?.map_or(Ok(0), |last| last.parse())?)
}

/// Commits until it is killed, and prints each answer.
pub(crate) fn play(words: &[String]) -> Result<()> {
    let [file] = words else { bail!("say which file") };
    let runtime = tokio::runtime::Runtime::new().context("start a runtime")?;
    runtime.block_on(async {
        let store = Arc::new(Embedded::open(Path::new(file))?);
        let mut tasks = JoinSet::new();
        for writer in 0..WRITERS {
            tasks.spawn(write(Arc::clone(&store), writer));
        }
        tasks.join_next().await.context("no writers")??
    })
}

async fn write(store: Arc<Embedded>, writer: usize) -> Result<()> {
    let mut last = number(&*store, writer).await?;
    loop {
        let old = (last > 0).then(|| last.to_string().into_bytes());
        last += 1;
        let counting = Transaction::new().replace(counter(writer), old, Some(last.to_string().into_bytes()));
        let transaction = entries(writer, last).fold(counting, |all, (key, value)| all.create(key, value));
        committed(store.commit(transaction).await?)?;
        // Whole: a short line of a pipe is written at once.
        io::stdout().write_all(format!("{writer} {last}\n").as_bytes()).context("print an answer")?;
    }
}
