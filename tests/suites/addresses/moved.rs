//! Identity before address: whoever has an address is judged by its certificate. A registry that is behind refuses, and
//! never takes one workload for another.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use enforcer_tests::ground::{A_BEYOND, A_EDGE, BEYOND, Ground, WANDERING, unused_port};
use enforcer_tests::peer::{self, Server};
use enforcer_tests::place::Place;
use enforcer_tests::settings::kernel_has_tls;
use enforcer_tests::settings::{Depth, direct_depth};
use enforcer_tests::wait;
use enforcer_tests::wanderer::{Keeper, Wanderer};
use enforcer_tests::world::{Options, World};
use libtest_mimic::Trial;

use crate::stage::{marker, promises};

const MOVES: usize = 20;
/// A move takes less.
const SOON: Duration = Duration::from_secs(1);

pub(super) fn trials() -> Vec<Trial> {
    // Certificates are the same on every kernel.
    match direct_depth() {
        Depth::Everyday => Vec::new(),
        Depth::Nothing | Depth::Thorough => {
            promises![alone; an_address_that_moves_is_judged_by_the_certificate_behind_it]
        }
    }
}

/// The registry of `a` says that the address is the one of `b`, and is told at last that it is not.
fn an_address_that_moves_is_judged_by_the_certificate_behind_it() -> Result<()> {
    let ground = Ground::create()?;
    let wanderer = Wanderer::on(&ground)?;
    let workload = wanderer.workload("c")?;
    let options = if kernel_has_tls() { Options::DIRECT } else { Options::STRICT };
    let world = World::arranged(ground, options, None, |a, b| {
        b.more = workload;
        b.peers[0].addresses.extend([A_BEYOND, A_EDGE].concat());
        let mut other = a.peers[0].clone();
        a.peers[0].addresses.extend(WANDERING);
        (other.account, other.addresses) = ("c", BEYOND.into());
        a.peers.push(other);
    })?;
    let mut stage = Stage { world, wanderer, port: unused_port() };
    let played = stage.play();
    stage.world.explain(played)
}

struct Stage {
    world: World,
    wanderer: Wanderer,
    /// Of the server, wherever it is.
    port: u16,
}

impl Stage {
    fn play(&mut self) -> Result<()> {
        // Whoever is beyond is served there, at an address of its own.
        self.wanderer.give_to(Keeper::Beyond)?;
        let known = self.attempt(&self.wanderer.beyond, BEYOND[0], 0)?;
        ensure!(known.served == [true, false], "beyond, at an address of its own: {known:?}");
        for turn in 0..MOVES {
            let keeper = if turn % 2 == 0 { Keeper::B } else { Keeper::Beyond };
            self.moved(keeper, turn, keeper == Keeper::B)?;
        }
        self.refused_for_its_identity()?;
        self.tell_the_registry()?;
        for (turn, keeper) in [Keeper::Beyond, Keeper::B, Keeper::Beyond, Keeper::B].into_iter().enumerate() {
            self.moved(keeper, turn, keeper == Keeper::Beyond)?;
        }
        Ok(())
    }

    /// Moves the address, and tries it at once both ways.
    fn moved(&mut self, keeper: Keeper, turn: usize, is_registered: bool) -> Result<()> {
        let since = Instant::now();
        self.wanderer.give_to(keeper)?;
        ensure!(since.elapsed() < wait::bound(SOON), "the move took {:?}", since.elapsed());
        let family = turn / 2 % 2;
        let captures = [self.world.ground.watch_mesh()?, self.world.ground.watch_far()?];
        let attempt = self.attempt(self.wanderer.place(keeper), WANDERING[family], family)?;
        for capture in captures {
            let recording = capture.stop()?;
            attempt.secrets.iter().try_for_each(|secret| recording.prove_absent(secret))?;
        }
        ensure!(attempt.served == [is_registered; 2], "turn {turn}, {keeper:?} has the address: {attempt:?}");
        Ok(())
    }

    /// A client on `a` calls the address where `other` has it, and a client there calls `a` from it.
    fn attempt(&self, other: &Place, address: IpAddr, family: usize) -> Result<Attempt> {
        let a = &self.world.ground.a;
        let [there, back] = [marker(), marker()];
        let server = Server::start_on(other, self.port, &["banner", "--text", &there])?;
        let client = peer::start(a, server.at(address), &["end-first", "--text", &there])?;
        let home = Server::start(a, &["banner", "--text", &back])?;
        let from_there = peer::start(other, home.at(A_EDGE[family]), &["end-first", "--text", &back])?;
        let mut served = [true; 2];
        for (way, (client, server, secret)) in
            [(client, server, &there), (from_there, home, &back)].into_iter().enumerate()
        {
            let outcome = peer::outcome_of(client)?;
            served[way] = outcome.text().is_ok_and(|text| text == secret);
            // An error of its own, soon, and nothing of what was said has come to the other end.
            let took = outcome.field("milliseconds").as_f64().context("no time")?;
            ensure!(took < wait::bound(Duration::from_secs(5)).as_secs_f64() * 1e3, "it took {took} ms");
            if !served[way] {
                ensure!(outcome.error().is_some(), "neither served nor refused: {outcome:?}");
                ensure!(!server.said()?.contains(secret.as_str()), "the server heard it: {}", server.said()?);
            }
        }
        Ok(Attempt { served, secrets: [there, back] })
    }

    /// Where the certificate that came was not the one that the registry expects, and nowhere else.
    fn refused_for_its_identity(&self) -> Result<()> {
        let metrics = [self.world.a.agent.metrics()?, self.world.b.agent.metrics()?].concat();
        let counted =
            |line: &&str| line.starts_with("enforcer_connections_total") && line.contains("\"peer-identity-mismatch\"");
        let counts = metrics.lines().filter(counted).filter_map(|line| line.rsplit(' ').next()?.parse::<usize>().ok());
        let refused: usize = counts.sum();
        // Half of the moves, both ways.
        ensure!(refused >= MOVES, "only {refused} were refused for their identity:\n{metrics}");
        Ok(())
    }

    fn tell_the_registry(&mut self) -> Result<()> {
        let mut config = self.world.a.config.clone();
        let [former, .., next] = config.peers.as_mut_slice() else { anyhow::bail!("the registry of `a` is empty") };
        former.addresses.retain(|address| !WANDERING.contains(address));
        next.addresses.extend(WANDERING);
        self.world.a.agent.rewrite(&config)?;
        wait::until("the next registry", wait::patience(), || {
            Ok(self.world.a.agent.log().contains("another configuration is in force").then_some(()))
        })
    }
}

/// What became of one connection each way, and what was said on them.
#[derive(Debug)]
struct Attempt {
    /// From `a` to the address, and from the address to `a`.
    served: [bool; 2],
    secrets: [String; 2],
}
