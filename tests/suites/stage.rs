//! What the suites have in common: shared worlds, who may run beside whom, and the proof on the wire.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use enforcer_tests::config::Offload;
use enforcer_tests::ground::{Ground, Route};
use enforcer_tests::program::{self, Script};
use enforcer_tests::settings::{is_quick, kernel_has_tls};
use enforcer_tests::world::{Options, World};
use libtest_mimic::{Failed, Trial};

/// Held for reading by every test, for writing by those that want no company.
static MACHINE: RwLock<()> = RwLock::new(());

/// Names every promise after its function and runs it in the shared world with these options.
macro_rules! promises {
    (in $options:expr; $($promise:ident),* $(,)?) => {
        vec![$($crate::stage::in_world(concat!(module_path!(), "::", stringify!($promise)), $options, $promise)),*]
    };
    (in $options:expr, called $suffix:expr, $company:expr; $($promise:ident),* $(,)?) => {
        vec![$($crate::stage::in_world_with(
            &format!(concat!(module_path!(), "::", stringify!($promise), "{}"), $suffix), $company, $options, $promise
        )),*]
    };
    (beside others; $($promise:ident),* $(,)?) => {
        vec![$($crate::stage::beside_others(concat!(module_path!(), "::", stringify!($promise)), $promise)),*]
    };
    (alone; $($promise:ident),* $(,)?) => {
        vec![$($crate::stage::alone(concat!(module_path!(), "::", stringify!($promise)), $promise)),*]
    };
}
pub(crate) use promises;

/// Who may run at the same time.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Company {
    /// Other tests.
    Others,
    /// Nobody: the test counts or weighs, or loads the machine so that others would miss their deadlines.
    Nobody,
}

impl Company {
    /// What the runner shows before the name.
    fn kind(self) -> &'static str {
        match self {
            Self::Others => "",
            Self::Nobody => "alone",
        }
    }

    fn keep(self, name: &str, promise: impl FnOnce() -> Result<()>) -> Result<(), Failed> {
        let result = match self {
            Self::Others => {
                let _machine = MACHINE.read().unwrap_or_else(PoisonError::into_inner);
                timed(name, promise)
            }
            Self::Nobody => {
                let _machine = MACHINE.write().unwrap_or_else(PoisonError::into_inner);
                timed(name, promise)
            }
        };
        result.map_err(|error| Failed::from(format!("{error:#}")))
    }
}

/// How long each test took, without its wait for company. The first in a world has made that too.
static TIMES: Mutex<Vec<(Duration, String)>> = Mutex::new(Vec::new());

fn timed<T>(name: &str, work: impl FnOnce() -> T) -> T {
    let started = Instant::now();
    let done = work();
    TIMES.lock().unwrap_or_else(PoisonError::into_inner).push((started.elapsed(), name.to_owned()));
    done
}

/// Says which tests took longest, for whoever wants the suites to take less.
pub(crate) fn print_slowest() {
    const SHOWN: usize = 12;
    let mut times = TIMES.lock().unwrap_or_else(PoisonError::into_inner);
    times.sort_unstable_by(|one, other| other.cmp(one));
    let sum: Duration = times.iter().map(|(took, _)| *took).sum();
    eprintln!("{:.0} s of tests; those that took longest:", sum.as_secs_f64());
    for (took, name) in times.iter().take(SHOWN) {
        eprintln!("{:8.1} s  {name}", took.as_secs_f64());
    }
}

/// A test that makes what it needs.
pub(crate) fn beside_others(name: &str, promise: fn() -> Result<()>) -> Trial {
    with_name(name, Company::Others, promise)
}

/// A test that needs the machine for itself.
pub(crate) fn alone(name: &str, promise: fn() -> Result<()>) -> Trial {
    with_name(name, Company::Nobody, promise)
}

fn with_name(name: &str, company: Company, promise: impl FnOnce() -> Result<()> + Send + 'static) -> Trial {
    let known = name.to_owned();
    Trial::test(name, move || company.keep(&known, promise)).with_kind(company.kind())
}

/// In the order in which they are given, and those that want no company after all others: each of them waits until nobody
/// runs, and keeps everybody waiting meanwhile.
pub(crate) fn in_order(trials: impl IntoIterator<Item = Trial>) -> Vec<Trial> {
    let mut ordered: Vec<_> = trials.into_iter().collect();
    ordered.sort_by_key(|trial| trial.kind() == Company::Nobody.kind());
    ordered
}

/// A test in the world that all tests with these options share; it leaves the agents as they are.
pub(crate) fn in_world(name: &str, options: Options, promise: fn(&World) -> Result<()>) -> Trial {
    in_world_with(name, Company::Others, options, promise)
}

/// The same in company or alone.
pub(crate) fn in_world_with(
    name: &str,
    company: Company,
    options: Options,
    promise: fn(&World) -> Result<()>,
) -> Trial {
    with_name(name, company, move || shared(options).and_then(|world| world.explain(promise(&world))))
}

/// The ways in which relays write records that are tried here, with what is added to the name of a test. Records in user
/// space are the same on every kernel, so they are tried where it is quick.
pub(crate) fn every_offload() -> impl Iterator<Item = (&'static str, Options)> {
    let in_kernel = kernel_has_tls().then_some((" (records in kernel)", Offload::On));
    let in_user_space = is_quick().then_some((" (records in user space)", Offload::Off));
    let ways = [in_user_space, in_kernel].into_iter().flatten();
    ways.map(|(suffix, offload)| (suffix, Options { offload, ..Options::STRICT }))
}

/// A text that occurs nowhere else.
pub(crate) fn marker() -> String {
    static MARKERS: AtomicU32 = AtomicU32::new(0);
    format!("marked-payload-{}-{}", std::process::id(), MARKERS.fetch_add(1, Ordering::Relaxed))
}

/// Does `work` while the wire between the nodes is watched; fails if an onlooker saw `secret`, or anything but
/// TLS on the connections to `port`.
pub(crate) fn sealed(ground: &Ground, secret: &str, port: u16, work: impl FnOnce() -> Result<()>) -> Result<()> {
    sealed_on(ground, secret, &[port], work)
}

/// The same for connections to several ports, of which each must have one.
pub(crate) fn sealed_on(ground: &Ground, secret: &str, ports: &[u16], work: impl FnOnce() -> Result<()>) -> Result<()> {
    let capture = ground.watch_mesh()?;
    work()?;
    let recording = capture.stop()?;
    recording.prove_absent(secret)?;
    ports.iter().try_for_each(|port| recording.prove_only_tls(*port))
}

/// Does it on every way through the mesh, and says on which one it failed.
///
/// Where the processor is emulated, on one way there and one back, each in one family: both agents are the same program,
/// so that the other two are the same with their names exchanged.
pub(crate) fn on_every_route(world: &World, promise: impl Fn(Route<'_>) -> Result<()>) -> Result<()> {
    let ways = if is_quick() { world.ground.routes().to_vec() } else { world.ground.there_and_back().to_vec() };
    ways.into_iter().try_for_each(|route| promise(route).with_context(|| route.to_string()))
}

/// On every route curl gets a page from nginx, and nobody on the way reads it.
pub(crate) fn pages_come_sealed(world: &World) -> Result<()> {
    on_every_route(world, |route| page_comes_sealed(world, route))
}

/// The same on one of them.
pub(crate) fn page_comes_sealed(world: &World, route: Route<'_>) -> Result<()> {
    let secret = marker();
    let nginx = program::nginx(route.server, &secret)?;
    sealed(&world.ground, &secret, nginx.port, || {
        let page = program::curl(route.client, nginx.at(route.target))?.finish()?.success()?;
        ensure!(page == secret, "curl got `{page}`");
        Ok(())
    })
}

/// Runs both ends of a script on every route. They judge for themselves, and end with 0 when all was right.
pub(crate) fn script_talks(world: &World, script: Script) -> Result<()> {
    on_every_route(world, |route| {
        let secret = marker();
        let server = script.start(route.server, &secret)?;
        sealed(&world.ground, &secret, server.port, || {
            script.connect(route.client, server.at(route.target), &secret)?.finish()?.success()?;
            server.finish()
        })
    })
}

/// The world with these options, made by the first test that wants it. Main takes them all down.
fn shared(options: Options) -> Result<Arc<World>> {
    static WORLDS: Mutex<Option<Worlds>> = Mutex::new(None);
    let mut worlds = WORLDS.lock().unwrap_or_else(PoisonError::into_inner);
    let worlds = worlds.get_or_insert_default();
    let world = worlds.entry(options).or_insert_with(|| match World::create(options) {
        Ok(world) => Ok(Arc::new(world)),
        Err(error) => Err(format!("{error:#}")),
    });
    world.clone().map_err(|error| anyhow!("the world could not be made: {error}"))
}

/// A world that could not be made is not tried again: every test in it fails with the same reason.
type Worlds = HashMap<Options, Result<Arc<World>, String>>;
