//! The story behind `cargo xtask demo`: two nodes, unmodified programs, and an onlooker on the wire between them.
//!
//! Every claim is tried in front of the reader; one that does not hold is printed as such and makes the exit code 1.
//! Whatever happens, also on Ctrl-C, nothing is left behind.

use std::fmt::Display;
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use enforcer_tests::authority::{self, Credentials};
use enforcer_tests::ground::{A_EDGE, B, Ground, PARTNER, STRANGER};
use enforcer_tests::place::Place;
use enforcer_tests::process::Running;
use enforcer_tests::program::{self, Server};
use enforcer_tests::settings::kernel_has_tls;
use enforcer_tests::teardown;
use enforcer_tests::wait;
use enforcer_tests::world::{Options, World};

const SECRET: &str = "the-launch-code-is-0000";
const IPV4: usize = 0;
const IPV6: usize = 1;

fn main() -> ExitCode {
    let mut story = Story::default();
    let told = teardown::begin().and_then(|()| tell(&mut story));
    if let Err(error) = &told {
        say(format_args!("\nThe demo could not go on: {error:#}"));
    }
    story.summary();
    if told.is_ok() && story.broken.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn tell(story: &mut Story) -> Result<()> {
    story.step("Two nodes, and a machine outside: network namespaces with a wire between them");
    let ground = Ground::create()?;
    say("  outside 10.78.0.2 ── 10.78.0.1 node a 10.77.0.1 ── 10.77.0.2 node b      (and the same in IPv6)");

    story.step("Without enforcer: curl on node a gets a page from nginx on node b");
    let nginx = program::nginx(&ground.b, SECRET)?;
    story.claim("an onlooker on the wire reads the page", onlooker_reads(&ground, &nginx));
    drop(nginx);

    let is_direct = kernel_has_tls();
    story.step("An agent on each node, under strict policy; the programs are not told and not changed");
    let mut world = World::on(ground, if is_direct { Options::DIRECT } else { Options::STRICT })?;
    say(match is_direct {
        true => "  `path: direct`: the applications' own sockets carry kernel TLS, and the agents step out.",
        false => "  This kernel has no TLS: the agents relay, and encrypt in user space.",
    });

    story.step("The same curl and nginx, then redis; the onlooker is still there");
    let nginx = program::nginx(&world.ground.b, SECRET)?;
    story.claim("curl gets the page over IPv4, the onlooker sees TLS only", curl_is_sealed(&world, &nginx, IPV4));
    story.claim("curl gets the page over IPv6, the onlooker sees TLS only", curl_is_sealed(&world, &nginx, IPV6));
    story.claim("redis stores and returns it, the onlooker sees TLS only", redis_is_sealed(&world));

    story.step("Who talks to whom: `enforcer status` while redis-cli listens to a channel");
    story.claim("both agents name both identities and the cipher", status_names_both(&world, is_direct));

    if is_direct {
        story.step("The agents are killed, without a word, and started again");
        story.claim("open connections go on, new ones wait, nothing is in the clear", agents_are_killed(&mut world));
    }

    story.step("Who is refused, by agents that relay: then peers without an agent are served too");
    drop(world);
    let world = World::create(Options::STRICT)?;
    let ours = program::nginx(&world.ground.a, SECRET)?;
    story.claim("a client that is not enrolled gets nothing from node a", stranger_is_refused(&world, &ours));
    story.claim("a client with a certificate of another CA gets nothing either", other_ca_is_refused(&world, &ours));
    story.claim("while one with a certificate of ours is served", our_ca_is_served(&world, &ours));
    Ok(())
}

fn onlooker_reads(ground: &Ground, nginx: &Server) -> Result<()> {
    let capture = ground.watch_mesh()?;
    get_page(&ground.a, nginx, IPV4)?;
    ensure!(capture.stop()?.contains(SECRET), "the capture does not show the page");
    Ok(())
}

fn curl_is_sealed(world: &World, nginx: &Server, family: usize) -> Result<()> {
    let capture = world.ground.watch_mesh()?;
    get_page(&world.ground.a, nginx, family)?;
    let recording = capture.stop()?;
    recording.prove_absent(SECRET)?;
    recording.prove_only_tls(nginx.port)
}

fn get_page(client: &Place, nginx: &Server, family: usize) -> Result<()> {
    let page = program::curl(client, nginx.at(B[family]))?.finish()?.success()?;
    ensure!(page == SECRET, "curl got `{page}`");
    Ok(())
}

fn redis_is_sealed(world: &World) -> Result<()> {
    let redis = program::redis(&world.ground.b)?;
    let capture = world.ground.watch_mesh()?;
    program::redis_cli(&world.ground.a, redis.at(B[IPV4]), &["SET", "code", SECRET])?;
    let value = program::redis_cli(&world.ground.a, redis.at(B[IPV4]), &["GET", "code"])?;
    let recording = capture.stop()?;
    ensure!(value.trim() == SECRET, "redis-cli got `{value}`");
    recording.prove_absent(SECRET)?;
    recording.prove_only_tls(redis.port)
}

/// Keeps a connection open with `redis-cli SUBSCRIBE`, and shows how agents and kernel describe it.
fn status_names_both(world: &World, is_direct: bool) -> Result<()> {
    let redis = program::redis(&world.ground.b)?;
    let (host, port) = (B[IPV4].to_string(), redis.port.to_string());
    let subscriber = world.ground.a.start("redis-cli", &["-h", &host, "-p", &port, "SUBSCRIBE", "news"])?;
    wait::until("the subscription", wait::patience(), || Ok(subscriber.stdout()?.contains("subscribe").then_some(())))?;
    for node in [&world.a, &world.b] {
        let table = node.agent.status()?;
        say(indented(&table));
        for expected in ["sa/a", "sa/b", "TLS13_"] {
            ensure!(table.contains(expected), "the table does not show {expected}");
        }
    }
    if is_direct {
        let filter = format!("( sport = :{port} or dport = :{port} )");
        let sockets = world.ground.a.run("ss", &["-tieH", "state", "established", &filter])?;
        let line = sockets.lines().find(|line| line.contains("tcp-ulp-tls"));
        say(format_args!("  ss -tie: {}", line.context("no socket with kernel TLS")?.trim()));
    }
    Ok(())
}

/// A conversation is under way when both agents are killed, and somebody else wants to begin one.
fn agents_are_killed(world: &mut World) -> Result<()> {
    let (redis, nginx) = (program::redis(&world.ground.b)?, program::nginx(&world.ground.b, SECRET)?);
    let (host, port) = (B[IPV4].to_string(), redis.port.to_string());
    let mut open = world.ground.a.start("redis-cli", &["-h", &host, "-p", &port])?;
    say(ask(&mut open, "PING", "PONG")?);
    let capture = world.ground.watch_mesh()?;
    world.a.agent.kill()?;
    world.b.agent.kill()?;
    say("  Both agents are dead.");
    say(ask(&mut open, &format!("SET code {SECRET}"), "OK")?);
    let mut waiting = program::curl(&world.ground.a, nginx.at(B[IPV4]))?;
    say(ask(&mut open, "GET code", SECRET)?);
    waiting.check_alive()?;
    say("  curl connects, and waits.");
    world.a.agent.restart()?;
    world.b.agent.restart()?;
    ensure!(waiting.finish()?.success()? == SECRET, "curl got something else");
    say("  The agents are back; curl has its page.");
    say(ask(&mut open, "PING", "PONG")?);
    let recording = capture.stop()?;
    recording.prove_absent(SECRET)?;
    recording.prove_only_tls(redis.port)?;
    recording.prove_only_tls(nginx.port)
}

fn ask(client: &mut Running, line: &str, answer: &str) -> Result<String> {
    let before = client.stdout()?.len();
    client.feed(format!("{line}\n").as_bytes())?;
    wait::until(&format!("the answer to {line}"), wait::patience(), || {
        client.check_alive()?;
        Ok(client.stdout()?.get(before..).is_some_and(|said| said.contains(answer)).then_some(()))
    })?;
    Ok(format!("  redis-cli, on its open connection: {line} -> {answer}"))
}

fn stranger_is_refused(world: &World, nginx: &Server) -> Result<()> {
    let client = program::curl_from(&world.ground.outside, STRANGER[IPV4], nginx.at(A_EDGE[IPV4]))?;
    let said = client.finish()?.failure()?;
    say(format_args!("  {}", said.trim()));
    Ok(())
}

fn other_ca_is_refused(world: &World, nginx: &Server) -> Result<()> {
    let other = world.ground.directory("other-ca");
    authority::init(&other)?;
    let forged = authority::issue(&other, "partner", &world.ground.directory("forged"))?;
    let answer = ask_with_certificate(world, nginx, &Credentials { bundle: our_credentials(world)?.bundle, ..forged })?;
    ensure!(!answer.contains(SECRET), "the page was served");
    Ok(())
}

fn our_ca_is_served(world: &World, nginx: &Server) -> Result<()> {
    let answer = ask_with_certificate(world, nginx, &our_credentials(world)?)?;
    ensure!(answer.contains(SECRET), "the answer was `{answer}`");
    Ok(())
}

fn ask_with_certificate(world: &World, nginx: &Server, credentials: &Credentials) -> Result<String> {
    let target = nginx.at(A_EDGE[IPV4]);
    let client = program::openssl_request(&world.ground.outside, PARTNER[IPV4], target, credentials)?;
    Ok(client.finish()?.stdout)
}

fn our_credentials(world: &World) -> Result<Credentials> {
    authority::issue(&world.a.config.state, "partner", &world.ground.directory("partner"))
}

/// What was claimed so far, and what of it did not hold.
#[derive(Default)]
struct Story {
    steps: u32,
    kept: u32,
    broken: Vec<String>,
}

impl Story {
    fn step(&mut self, title: &str) {
        self.steps += 1;
        say(format_args!("\n{}. {title}", self.steps));
    }

    fn claim(&mut self, claim: &str, proof: Result<()>) {
        match proof {
            Ok(()) => {
                self.kept += 1;
                say(format_args!("  proved: {claim}"));
            }
            Err(error) => {
                self.broken.push(claim.to_owned());
                say(format_args!("  BROKEN: {claim}\n{}", indented(&format!("{error:#}"))));
            }
        }
    }

    fn summary(&self) {
        say(format_args!("\n{} claims proved, {} broken", self.kept, self.broken.len()));
        for claim in &self.broken {
            say(format_args!("  broken: {claim}"));
        }
    }
}

fn indented(text: &str) -> String {
    text.lines().map(|line| format!("    {line}")).collect::<Vec<_>>().join("\n")
}

#[expect(clippy::print_stdout, reason = "the story is told on standard output")]
fn say(text: impl Display) {
    println!("{text}");
}
