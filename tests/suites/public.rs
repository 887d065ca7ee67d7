//! Public names: clients without an identity get in by ordinary TLS, under a certificate that the agent has had issued by
//! ACME (pebble), and by nothing else. For everybody else the same port is what it was.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use enforcer_tests::agent::Agent;
use enforcer_tests::authority;
use enforcer_tests::config::{Config, Public};
use enforcer_tests::ground::{A_EDGE, Ground, PARTNER, STRANGER};
use enforcer_tests::pebble::Pebble;
use enforcer_tests::process::Finished;
use enforcer_tests::program::{self, Server};
use enforcer_tests::settings::{self, kernel_has_tls};
use enforcer_tests::wait;
use enforcer_tests::world::{Options, World};
use libtest_mimic::Trial;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use serde_json::Value;
use time::{Duration, OffsetDateTime};

use crate::stage::{marker, promises, sealed};

/// The port that has public names, and one that is guarded and has none. Below the ports that tests are given otherwise.
const PUBLIC: u16 = 19_001;
const GUARDED: u16 = 19_002;

const NAMES: &[&str] = &["www.example.org", "shop.example.org"];
const WWW: &str = NAMES[0];

pub(crate) fn trials() -> Vec<Trial> {
    promises![beside others;
        a_public_name_is_served_to_everybody_and_nothing_else_is,
        a_public_certificate_outlives_the_agent_and_the_authority,
    ]
}

/// The authority is away at first, and comes then.
fn a_public_name_is_served_to_everybody_and_nothing_else_is() -> Result<()> {
    let (world, mut pebble) = world()?;
    let secret = marker();
    let nginx = program::nginx_on(&world.ground.a, PUBLIC, &secret)?;
    world.explain(mesh_is_served(&world, &nginx, &secret))?;
    let refused = Visitor { root: pebble.roots(), ..Visitor::of(&world, &nginx) }.visit(WWW, &[])?.failure()?;
    ensure!(refused.contains("unrecognized name"), "it was not told why: {refused}");
    counted(&world, r#"path="refused",reason="no-public-certificate",end="no-public-certificate""#)?;

    pebble.start()?;
    world.explain(certified(&world))?;
    let visitor = Visitor { root: pebble.issuing_root()?, ..Visitor::of(&world, &nginx) };
    let capture = world.ground.watch_edge()?;
    world.explain(everybody_is_served(&visitor, &secret))?;
    world.explain(partner_is_served(&world, &nginx, &secret))?;
    let recording = capture.stop()?;
    recording.prove_absent(&secret)?;
    recording.prove_only_tls(nginx.port)?;
    let capture = world.ground.watch_edge()?;
    world.explain(nobody_else_is_served(&world, &visitor))?;
    capture.stop()?.prove_absent(&secret)?;
    world.explain(mesh_is_served(&world, &nginx, &secret))?;
    world.explain(is_shown(&world, &nginx))?;
    counted(&world, r#"path="public",reason="acme-challenge",end="closed""#)?;
    counted(&world, r#"path="public",reason="public-name",end="closed""#)
}

fn everybody_is_served(visitor: &Visitor<'_>, secret: &str) -> Result<()> {
    for family in [0, 1] {
        let visitor = Visitor { family, ..visitor.clone() };
        for (name, more) in
            [(WWW, &[][..]), (NAMES[1], &["--http2"]), (WWW, &["--tls-max", "1.2"]), ("WWW.Example.Org", &[])]
        {
            let page = visitor.visit(name, more)?.success().with_context(|| format!("{name} {more:?}"))?;
            ensure!(page == secret, "{name} {more:?}: curl got `{page}`");
        }
    }
    Ok(())
}

/// Another name, none, no TLS, the proof that nobody is asked for, and a port that is not listed.
fn nobody_else_is_served(world: &World, visitor: &Visitor<'_>) -> Result<()> {
    let (outside, to) = (&world.ground.outside, visitor.server.at(A_EDGE[0]));
    visitor.visit("other.example.org", &["--insecure"])?.failure().context("another name")?;
    let by_address = format!("https://{to}/index.html");
    let options = ["--silent", "--insecure", "--noproxy", "*", "--interface", "10.78.0.4", &by_address];
    outside.run_refused("curl", &options).context("no name")?;
    program::curl_from(outside, STRANGER[0], to)?.finish()?.failure().context("no TLS")?;
    let asks = ["s_client", "-connect", &to.to_string(), "-servername", WWW, "-alpn", "acme-tls/1"];
    let mut asking = outside.start("openssl", &asks)?;
    asking.close_input();
    let refused = asking.finish()?.failure().context("a proof")?;
    ensure!(refused.contains("unrecognized name"), "it was not told why: {refused}");
    let guarded = program::nginx_on(&world.ground.a, GUARDED, "guarded")?;
    let refused = Visitor { server: &guarded, ..visitor.clone() }.visit(WWW, &[])?;
    refused.failure().context("another port").map(drop)?;
    counted(world, r#"path="refused",reason="strict-unknown-source""#)
}

/// It is registered, proves its identity, and calls no name.
fn partner_is_served(world: &World, nginx: &Server, secret: &str) -> Result<()> {
    let credentials = authority::issue(&world.a.config.state, "partner", &world.ground.directory("partner"))?;
    let client = program::openssl_request(&world.ground.outside, PARTNER[0], nginx.at(A_EDGE[0]), &credentials)?;
    let finished = client.finish()?;
    ensure!(finished.stdout.contains(secret), "no page: {finished:?}");
    counted(world, r#"path="relay",reason="peer-foreign""#)
}

fn mesh_is_served(world: &World, nginx: &Server, secret: &str) -> Result<()> {
    for route in &world.ground.routes()[2..] {
        sealed(&world.ground, secret, nginx.port, || {
            let page = program::curl(route.client, nginx.at(route.target))?.finish()?.success()?;
            ensure!(page == secret, "{route}: curl got `{page}`");
            Ok(())
        })?;
    }
    Ok(())
}

/// An open connection, and the names with their certificates.
fn is_shown(world: &World, nginx: &Server) -> Result<()> {
    let to = nginx.at(A_EDGE[0]).to_string();
    let open = world.ground.outside.start("openssl", &["s_client", "-connect", &to, "-servername", WWW])?;
    wait::until("the connection in the status", wait::patience(), || {
        let status = world.a.agent.status()?;
        let line = status.lines().find(|line| line.contains("public-name"));
        Ok(line.filter(|line| line.contains("inbound") && line.contains(" public ")).map(drop))
    })?;
    drop(open);
    let admin = world.a.config.admin.to_string();
    let shown = world.ground.host.run(settings::enforcer_binary()?, &["identity", "--admin", &admin])?;
    for name in NAMES {
        let line = shown.lines().find(|line| line.contains(name)).with_context(|| format!("no {name} in:\n{shown}"))?;
        ensure!(line.contains(&serial(world, name)?) && line.contains("Pebble"), "{shown}");
    }
    let metrics = world.a.agent.metrics()?;
    ensure!(metrics.contains("enforcer_public_certificate_expiry_seconds{name=\"www.example.org\"} "), "{metrics}");
    Ok(())
}

/// What was issued is used again by the next agent, and while nobody is there who would issue another one.
fn a_public_certificate_outlives_the_agent_and_the_authority() -> Result<()> {
    let (mut world, mut pebble) = world()?;
    let secret = marker();
    let nginx = program::nginx_on(&world.ground.a, PUBLIC, &secret)?;
    pebble.start()?;
    world.explain(certified(&world))?;
    let (first, issued, root) = (serial(&world, WWW)?, pebble.issued()?, pebble.issuing_root()?);
    ensure!(issued == NAMES.len(), "pebble has issued {issued}");
    for agent_ends in [Agent::kill, Agent::stop] {
        agent_ends(&mut world.a.agent)?;
        world.a.agent.restart()?;
        let page = Visitor { root: root.clone(), ..Visitor::of(&world, &nginx) }.visit(WWW, &[])?;
        ensure!(world.explain(page.success())? == secret && serial(&world, WWW)? == first, "it is another one");
    }
    ensure!(pebble.issued()? == issued, "the agent has asked for another one");
    pebble.stop();

    // One that is to be renewed, and one that is damaged.
    world.a.agent.stop()?;
    let [www, shop] = [kept(&world, NAMES[0])?, kept(&world, NAMES[1])?];
    let old = world.ground.directory("old-root.pem");
    fs::write(&www, forge(WWW, &old)?).context("put an old certificate into its place")?;
    let damaged = fs::read(&shop)?.split_off(100);
    fs::write(&shop, &damaged)?;
    world.a.agent.restart()?;
    let visitor = Visitor { root: old, ..Visitor::of(&world, &nginx) };
    ensure!(world.explain(visitor.visit(WWW, &[])?.success())? == secret, "the old one is used until it ends");
    visitor.visit(NAMES[1], &["--insecure"])?.failure()?;
    ensure!(failure(&world, NAMES[1])?.contains("shop.example.org.pem"), "it is not told which file it is");

    pebble.start()?;
    let forged = serial(&world, WWW)?;
    world.explain(wait::until("a newer certificate", wait::patience(), || {
        Ok((serial(&world, WWW)? != forged).then_some(()))
    }))?;
    let visitor = Visitor { root: pebble.issuing_root()?, ..visitor };
    ensure!(world.explain(visitor.visit(WWW, &[])?.success())? == secret, "the new one is not used");
    ensure!(fs::read(&shop)? == damaged, "a damaged file was written over");
    fs::remove_file(&shop)?;
    world.explain(certified(&world))
}

/// Node `a` has public names, of which nobody knows yet; the other node knows it as before.
fn world() -> Result<(World, Pebble)> {
    let options = if kernel_has_tls() { Options::AUTO } else { Options::STRICT };
    let ground = Ground::create()?;
    let pebble = Pebble::new(&ground, A_EDGE, PUBLIC)?;
    let mut world = World::on(ground, Options { ports: &[PUBLIC, GUARDED], ..options })?;
    let public = Public { directory: pebble.url(), roots: pebble.roots(), names: NAMES, ports: vec![PUBLIC] };
    world.a.agent.stop()?;
    world.a.config = Config { public: Some(public), ..world.a.config.clone() };
    world.a.agent = Agent::start(&world.a.config, &world.ground.host)?;
    Ok((world, pebble))
}

/// A client outside that trusts one root.
#[derive(Clone)]
struct Visitor<'a> {
    world: &'a World,
    server: &'a Server,
    root: PathBuf,
    family: usize,
}

impl<'a> Visitor<'a> {
    fn of(world: &'a World, server: &'a Server) -> Self {
        Self { world, server, root: PathBuf::new(), family: 0 }
    }

    fn visit(&self, name: &str, more: &[&str]) -> Result<Finished> {
        let (from, to) = (STRANGER[self.family], self.server.at(A_EDGE[self.family]));
        program::curl_by_name(&self.world.ground.outside, (from, to), (name, &self.root), more)?.finish()
    }
}

/// Waits until every name has a certificate.
fn certified(world: &World) -> Result<()> {
    wait::until("certificates for all public names", wait::patience(), || {
        let public = public(world)?;
        Ok(public.iter().all(|name| name["certificate"].is_object() && name["failure"].is_null()).then_some(()))
    })
}

fn public(world: &World) -> Result<Vec<Value>> {
    let report = world.a.agent.report()?;
    let public = report["workloads"][0]["public"].as_array().context("no public names")?;
    ensure!(public.len() == NAMES.len(), "{report}");
    Ok(public.clone())
}

fn known(world: &World, name: &str) -> Result<Value> {
    public(world)?.into_iter().find(|known| known["name"] == name).with_context(|| format!("nothing known of {name}"))
}

fn serial(world: &World, name: &str) -> Result<String> {
    Ok(known(world, name)?["certificate"]["serial"].as_str().context("no certificate")?.to_owned())
}

fn failure(world: &World, name: &str) -> Result<String> {
    Ok(known(world, name)?["failure"].as_str().context("nothing went wrong")?.to_owned())
}

fn counted(world: &World, labels: &str) -> Result<()> {
    let metrics = world.a.agent.metrics()?;
    ensure!(
        metrics.contains(&format!("direction=\"inbound\",{labels}")),
        "no connection is counted as {labels}:\n{metrics}"
    );
    Ok(())
}

/// The file in which the certificate of a name is, with its key: nobody else can read it.
fn kept(world: &World, name: &str) -> Result<PathBuf> {
    let acme = world.a.config.state.join("acme");
    let mut authorities = fs::read_dir(&acme).context("look for what is kept")?;
    let file = authorities.next().context("nothing is kept")??.path().join(format!("{name}.pem"));
    let mode = fs::metadata(&file).with_context(|| format!("look at {}", file.display()))?.permissions().mode();
    ensure!(mode & 0o777 == 0o600, "{} has mode {mode:o}", file.display());
    Ok(file)
}

/// A file as the agent keeps it, whose certificate has had more than two thirds of its life.
fn forge(name: &str, root: &PathBuf) -> Result<String> {
    let mut authority = CertificateParams::default();
    authority.distinguished_name.push(DnType::CommonName, "an authority of the past");
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate()?;
    let issuing = authority.self_signed(&key)?.pem();
    fs::write(root, &issuing)?;
    let issuer = Issuer::new(authority, key);
    let (mut leaf, key, now) =
        (CertificateParams::new([name.to_owned()])?, KeyPair::generate()?, OffsetDateTime::now_utc());
    (leaf.not_before, leaf.not_after) = (now - 80 * Duration::DAY, now + 10 * Duration::DAY);
    Ok(key.serialize_pem() + &leaf.signed_by(&key, &issuer)?.pem() + &issuing)
}
