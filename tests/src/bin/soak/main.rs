//! The soak: two nodes under load for a long time, while agents die, configurations change, identities are revoked and
//! addresses move. In the end no connection was refused that had to succeed, none succeeded that had to be refused, and an
//! onlooker on the wires has seen nothing in the clear.
//!
//! `cargo xtask soak` runs it. [`model`] knows what each connection may do, [`load`] and [`talks`] make connections,
//! [`chaos`] does what is done to the nodes, [`tally`] counts, [`holdings`] says what is left over.

mod model;
mod stage;

mod load;
mod talks;

mod chaos;

mod holdings;
mod tally;

use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, ScopedJoinHandle};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use clap::Parser;
use enforcer_tests::config::Path;
use enforcer_tests::leaks::{Existing, settles_at};
use enforcer_tests::onlooker::{Onlooker, Seen};
use enforcer_tests::random::Random;
use enforcer_tests::settings::kernel_has_tls;
use enforcer_tests::teardown;
use enforcer_tests::wait;

use self::chaos::Chaos;
use self::holdings::Holdings;
use self::load::{Lane, Load};
use self::model::{Book, Expected, Facts, Flow};
use self::stage::{MARKER, PINGS};
use self::tally::Tally;

/// The command line; `cargo xtask soak` passes its own on.
#[derive(Debug, Parser)]
#[command(about = "Two nodes under load and under attack for a long time")]
struct Args {
    /// For how long
    #[arg(long, default_value_t = 15)]
    minutes: u64,
    /// Another one gives other actions and connections
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Others use this kernel, too: what it holds in all is not counted
    #[arg(long)]
    shared: bool,
}

/// Lanes of connections that follow each other.
const LANES: u64 = 2;
const MINUTE: Duration = Duration::from_secs(60);

fn main() -> ExitCode {
    let args = Args::parse();
    let mut claims = Claims::default();
    let result = teardown::begin().and_then(|()| soak(&args, &mut claims));
    teardown::sweep();
    if let Err(error) = &result {
        claims.claim("the soak goes on to its end", Err(anyhow!("{error:#}")));
    }
    say(&format!("{} passed, {} failed", claims.kept, claims.broken));
    if claims.broken == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn soak(args: &Args, claims: &mut Claims) -> Result<()> {
    let existing = Existing::list();
    let before = existing.others()?;
    let path = if kernel_has_tls() { Path::Direct } else { Path::Relay };
    say(&format!("soak: {} minutes, seed {}, path {path:?}", args.minutes, args.seed));
    let (world, wanderer, stage) = stage::build(path)?;
    let facts = Facts::new(path);
    let (book, tally, stop) = (Book::new(&facts), Tally::new(), AtomicBool::new(false));
    let load = Load { stage: &stage, book: &book, tally: &tally, stop: &stop };
    let configs = [world.a.config.clone(), world.b.config.clone()];
    let random = Random::of_seed(args.seed);
    let (stage, book) = (&stage, &book);
    let mut chaos = Chaos { world, wanderer, facts, random, stage, book, tally: &tally, configs, bag: Vec::new() };
    let onlooker = chaos.world.ground.onlooker(&[MARKER, PINGS])?;
    let warm = load.warm_up().and_then(|()| Holdings::of(&mut chaos.world));
    let warm = warm.with_context(|| chaos.logs())?;
    let result = thread::scope(|scope| {
        let mut lanes: Vec<ScopedJoinHandle<'_, Result<()>>> = Vec::new();
        let load = &load;
        for lane in 0..=LANES {
            let random = Random::of_seed(args.seed.wrapping_mul(1000) + lane);
            let kind = if lane < LANES { Lane::Usual } else { Lane::Impostor };
            lanes.push(scope.spawn(move || load.run(kind, &format!("lane-{lane}"), random)));
        }
        lanes.push(scope.spawn(|| load.talk()));
        let result = chaos.rage(args, &onlooker, &lanes);
        stop.store(true, Ordering::Relaxed);
        let ended: Result<Vec<()>> =
            lanes.into_iter().map(|lane| lane.join().map_err(|_panicked| anyhow!("a lane panicked"))?).collect();
        result.and(ended.map(drop))
    });
    result.with_context(|| chaos.logs())?;
    chaos.show_what_was_wrong();
    let left = warm.compare(&mut chaos.world);
    let mut seen = onlooker.seen();
    let missed = onlooker.stop().map(|all| seen = all);
    drop(chaos);
    conclude(claims, &tally, &seen);
    claims.claim("the onlooker has seen every packet", missed);
    claims.claim("the agents have no more memory and files than after the warm-up, and no connection is left", left);
    teardown::sweep();
    if !args.shared {
        claims.claim("the kernel holds what it held before", settles_at(&before, || existing.others()));
    }
    Ok(())
}

fn conclude(claims: &mut Claims, tally: &Tally, seen: &Seen) {
    let counts = tally.counts().clone();
    say(&format!("\n{}", counts.summary(seen)));
    for (kind, count) in &counts.actions {
        say(&format!("  {count:4} {kind}"));
    }
    seen.evidence.iter().for_each(|evidence| say(&format!("  in the clear: {evidence}")));
    let none = |count: u64| if count == 0 { Ok(()) } else { Err(anyhow!("{count}")) };
    claims.claim("no connection was wrongly refused", none(counts.wrongly_refused));
    claims.claim("no connection was wrongly allowed", none(counts.wrongly_allowed));
    claims.claim("what came is what was sent", none(counts.corrupt));
    claims.claim("no packet was in the clear", none(seen.plaintext));
    let enough = counts.succeeded > 0 && counts.refused > 0 && seen.packets > 0 && !counts.actions.is_empty();
    claims
        .claim("connections were made, refused and seen", if enough { Ok(()) } else { Err(anyhow!("not all of it")) });
}

impl Load<'_> {
    /// Every flow works that is to work, before anything is done to it.
    fn warm_up(&self) -> Result<()> {
        for flow in Flow::ALL.into_iter().filter(|flow| self.book.now(*flow) == Expected::Success) {
            for family in [0, 1] {
                let what = format!("{flow:?}, family {family}");
                wait::until(&what, wait::patience(), || Ok(self.is_well(flow, family)?.then_some(())))?;
            }
        }
        Ok(())
    }
}

impl Chaos<'_> {
    /// One action after the other, until the time is over. A line for every minute.
    fn rage(&mut self, args: &Args, onlooker: &Onlooker, lanes: &[ScopedJoinHandle<'_, Result<()>>]) -> Result<()> {
        let mut minute = 1;
        let started = self.tally.elapsed();
        while self.tally.elapsed() - started < MINUTE * u32::try_from(args.minutes)? {
            self.act()?;
            self.show_what_was_wrong();
            ensure!(lanes.iter().all(|lane| !lane.is_finished()), "a lane has ended");
            if self.tally.elapsed() - started >= MINUTE * minute {
                let summary = self.tally.counts().summary(&onlooker.seen());
                say(&format!("minute {minute}: {summary}"));
                minute += 1;
            }
        }
        self.calm_down()
    }

    fn show_what_was_wrong(&mut self) {
        let unshown = self.tally.unshown();
        if unshown.is_empty() {
            return;
        }
        unshown.iter().for_each(|wrong| say(&format!("WRONG {wrong}")));
        say(&self.logs());
    }

    fn logs(&self) -> String {
        let control = self.world.control.as_ref().map(|control| control.log()).unwrap_or_default();
        let control: Vec<&str> = control.lines().rev().take(20).collect();
        let control: Vec<&str> = control.into_iter().rev().collect();
        let [a, b] = [self.world.a.agent.log(), self.world.b.agent.log()];
        format!("node a: {a}\nnode b: {b}\ncontrol: {}", control.join("\n"))
    }
}

/// What was claimed in the end.
#[derive(Default)]
struct Claims {
    kept: u32,
    broken: u32,
}

impl Claims {
    fn claim(&mut self, claim: &str, proof: Result<()>) {
        match proof {
            Ok(()) => {
                self.kept += 1;
                say(&format!("proved: {claim}"));
            }
            Err(error) => {
                self.broken += 1;
                say(&format!("BROKEN: {claim}: {error:#}"));
            }
        }
    }
}

#[expect(clippy::print_stdout, reason = "the report is what this program is for")]
fn say(text: &str) {
    println!("{text}");
}
