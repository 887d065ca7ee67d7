//! Time that passes while control is away, and time that passes at once: agents whose clock a suite sets.
//!
//! The same on every kernel, so most of it is tried on this machine alone.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use enforcer_tests::clock::Clock;
use enforcer_tests::control::Control;
use enforcer_tests::ground::{Ground, Route};
use enforcer_tests::program;
use enforcer_tests::settings::kernel_has_tls;
use enforcer_tests::wait;
use enforcer_tests::world::{Node, Options, World};
use libtest_mimic::Trial;

use crate::stage::promises;

/// From a jump of the clock until all is well again.
const RECOVERED_WITHIN: Duration = Duration::from_secs(60);
const MINUTE: Duration = Duration::from_secs(60);
/// Of the hour that a certificate has.
const BEYOND_HALF: Duration = Duration::from_secs(40 * 60);
/// So long after its first certificate an agent tells control whose certificates it uses, and goes back to sleep.
const QUIET_AFTER: Duration = Duration::from_secs(7);

pub(crate) fn trials() -> Vec<Trial> {
    if kernel_has_tls() {
        // A connection under a session that is older than the end of the lists.
        return promises![beside others; when_revocation_lists_have_run_out_no_direct_connection_opens];
    }
    promises![beside others;
        when_revocation_lists_have_run_out_nobody_is_accepted_until_control_is_back,
        a_renewal_that_a_jump_of_the_clock_makes_due_is_made_within_a_minute,
        a_renewal_that_is_due_while_control_is_away_is_made_when_it_is_back,
        a_clock_that_jumps_beyond_the_end_of_all_certificates_does_no_lasting_harm,
    ]
}

fn when_revocation_lists_have_run_out_nobody_is_accepted_until_control_is_back() -> Result<()> {
    nobody_is_accepted_without_lists(Options::CONTROL)
}

fn when_revocation_lists_have_run_out_no_direct_connection_opens() -> Result<()> {
    nobody_is_accepted_without_lists(Options { path: Options::DIRECT.path, ..Options::CONTROL })
}

/// Certificates are good for a day, lists for ten minutes, and for five more when control is away.
fn nobody_is_accepted_without_lists(options: Options) -> Result<()> {
    let spec = "  workloadLifetimeMinutes: 1440\n  revocationListMinutes: 10\n";
    let (mut world, clock) = world(options, spec, Some(5))?;
    world.explain(talk(&world))?;
    control(&mut world)?.kill()?;
    clock.ahead(12 * MINUTE)?;
    world.explain(talk(&world)).context("within the grace")?;
    let said = |node: &Node| Ok::<_, anyhow::Error>(node.agent.status()?.contains("revocation lists have ended"));
    ensure!(!said(&world.a)? && !said(&world.b)?, "the lists are said to have ended before they have");
    clock.ahead(16 * MINUTE)?;
    world.explain(nobody_talks(&world))?;
    for node in [&world.a, &world.b] {
        ensure!(said(node)?, "the status does not say why:\n{}", node.agent.status()?);
        let metrics = node.agent.metrics()?;
        ensure!(metrics.contains(r#"end="peer-certificate-invalid""#), "refused for another reason:\n{metrics}");
    }
    control(&mut world)?.restart()?;
    world.explain(wait::until("a revocation list", wait::patience(), || Ok(talk(&world).ok())))?;
    ensure!(!said(&world.a)? && !said(&world.b)?, "the status has not noticed");
    Ok(())
}

/// Nothing happens that an agent would look at its certificates for, except that time has passed.
fn a_renewal_that_a_jump_of_the_clock_makes_due_is_made_within_a_minute() -> Result<()> {
    let (world, clock) = world(Options::CONTROL, "", None)?;
    let (begun, before) = (Instant::now(), [serial(&world.a)?, serial(&world.b)?]);
    let is_quiet = || Ok((begun.elapsed() > QUIET_AFTER).then_some(()));
    wait::until("an agent that does nothing", wait::patience(), is_quiet)?;
    clock.ahead(BEYOND_HALF)?;
    world.explain(renewed(&world, &before, Instant::now()))?;
    world.explain(talk(&world))
}

fn a_renewal_that_is_due_while_control_is_away_is_made_when_it_is_back() -> Result<()> {
    let (mut world, clock) = world(Options::CONTROL, "", None)?;
    let before = [serial(&world.a)?, serial(&world.b)?];
    control(&mut world)?.kill()?;
    clock.ahead(BEYOND_HALF)?;
    let jumped = Instant::now();
    world.explain(talk(&world)).context("while control is away")?;
    ensure!([serial(&world.a)?, serial(&world.b)?] == before, "somebody has issued certificates");
    control(&mut world)?.restart()?;
    world.explain(renewed(&world, &before, jumped))?;
    world.explain(talk(&world))
}

fn a_clock_that_jumps_beyond_the_end_of_all_certificates_does_no_lasting_harm() -> Result<()> {
    let (world, clock) = world(Options::CONTROL, "", None)?;
    world.explain(talk(&world))?;
    // Longer than certificates and revocation lists live, and not as long as those of nodes.
    clock.ahead(3 * 24 * 60 * MINUTE)?;
    let jumped = Instant::now();
    world.explain(wait::until("all to be well again", left(jumped), || Ok(talk(&world).ok())))
}

/// Both agents and control go by one clock.
fn world(options: Options, spec: &str, grace: Option<u32>) -> Result<(World, Clock)> {
    let ground = Ground::create()?;
    let directory = ground.directory("authority");
    let clock = Clock::create(&directory)?;
    let control = Control::start_by(&clock, &directory, &["a", "b"], spec)?;
    let world = World::arranged(ground, options, Some(control), |a, b| {
        for node in [a, b] {
            node.clock = Some(clock.clone());
            node.control.iter_mut().for_each(|control| control.grace = grace);
        }
    })?;
    Ok((world, clock))
}

/// A new connection in each direction.
fn talk(world: &World) -> Result<()> {
    for (route, page) in pages(world)? {
        page.with_context(|| route.to_string())?;
    }
    Ok(())
}

fn nobody_talks(world: &World) -> Result<()> {
    for (route, page) in pages(world)? {
        ensure!(page.is_err(), "nobody knows what was revoked meanwhile, and all the same {route} is a connection");
    }
    Ok(())
}

/// What a client in each direction gets.
fn pages(world: &World) -> Result<Vec<(Route<'_>, Result<String>)>> {
    let routes = world.ground.routes();
    let asked = [routes[0], routes[3]].map(|route| {
        let nginx = program::nginx(route.server, "a page")?;
        Ok((route, program::curl(route.client, nginx.at(route.target))?.finish()?.success()))
    });
    asked.into_iter().collect()
}

/// Waits until both workloads have other certificates.
fn renewed(world: &World, before: &[String; 2], jumped: Instant) -> Result<()> {
    let are_others = || Ok((serial(&world.a)? != before[0] && serial(&world.b)? != before[1]).then_some(()));
    wait::until("the next certificates", left(jumped), are_others)
}

fn left(since: Instant) -> Duration {
    wait::bound(RECOVERED_WITHIN).saturating_sub(since.elapsed())
}

/// The serial number of the certificate that its workload has now.
fn serial(node: &Node) -> Result<String> {
    let status = node.agent.report()?;
    let serial = status["workloads"][0]["certificate"]["serial"].as_str();
    serial.map(str::to_owned).with_context(|| format!("no certificate: {status}"))
}

fn control(world: &mut World) -> Result<&mut Control> {
    world.control.as_mut().context("the world has no control")
}
