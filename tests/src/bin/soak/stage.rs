//! Where the soak plays: two nodes with three workloads and one that nobody knows, their control, and servers.

use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};

use anyhow::Result;
use enforcer_tests::config::{Config, Path, Peer, identity};
use enforcer_tests::control::Control;
use enforcer_tests::ground::{A, A_BEYOND, A_EDGE, B, BEYOND, Ground, WANDERING};
use enforcer_tests::peer::Server;
use enforcer_tests::place::Place;
use enforcer_tests::program;
use enforcer_tests::wanderer::{Keeper, Wanderer};
use enforcer_tests::world::{Options, World};

use crate::model::Flow;

/// In every payload; nobody on the wire may see it.
pub(crate) const MARKER: &str = "the-soak-s-secret-payload";
/// What `endpoint connect ping-pong` sends.
pub(crate) const PINGS: &str = "pppppppppppppppppppppppp";

/// The servers' ports, the same everywhere: below those that others are given.
pub(crate) const ECHO: u16 = 19_001;
pub(crate) const WEB: u16 = 19_002;
pub(crate) const BULK: u16 = 19_003;
/// The port of the workload that nobody knows; nobody listens there.
const NOBODY: u16 = 19_009;

/// Octets each way on a connection to [`BULK`].
pub(crate) const BULK_OCTETS: &str = "262144";
/// More than there will be.
const FOR_EVER: &str = "100000000";

/// What the load needs to know.
#[derive(Debug)]
pub(crate) struct Stage {
    pub(crate) a: Place,
    pub(crate) b: Place,
    pub(crate) c: Place,
    pub(crate) impostor: Place,
    /// Who has the addresses that move.
    pub(crate) keeper: Mutex<Keeper>,
    _servers: Servers,
}

#[derive(Debug)]
struct Servers {
    _own: Vec<Server>,
    _nginx: Vec<program::Server>,
}

/// The two ends of a flow at one moment.
#[derive(Debug)]
pub(crate) struct Ends<'a> {
    pub(crate) client: &'a Place,
    pub(crate) target: IpAddr,
}

/// Makes the world with its control, and starts the servers. The addresses that move are at `b`.
pub(crate) fn build(path: Path) -> Result<(World, Wanderer, Stage)> {
    let ground = Ground::create()?;
    let mut wanderer = Wanderer::on(&ground)?;
    wanderer.give_to(Keeper::B)?;
    let impostor = ground.beside_a("impostor")?;
    let placements: [(&str, &[&str]); 2] = [("a", &["a", "impostor"]), ("b", &["b", "c"])];
    // The shortest that may be: each certificate is renewed after two and a half minutes.
    let control =
        Control::start_placing(&ground.directory("authority"), &placements, "  workloadLifetimeMinutes: 5\n")?;
    let (c, unknown) = (wanderer.workload("c")?, workload("impostor", &impostor)?);
    let world = World::arranged(ground, Options { path, ..Options::CONTROL }, Some(control), |a, b| {
        a.ports = vec![ECHO, WEB, BULK];
        a.more = unknown;
        b.more = c;
        b.peers[0].addresses.extend([A_BEYOND, A_EDGE].concat());
        let agent = a.peers[0].agent;
        a.peers[0].addresses.extend(WANDERING);
        a.peers.push(Peer { account: "c", addresses: BEYOND.into(), agent, ..a.peers[0].clone() });
    })?;
    let (a, b, c) = (world.ground.a.clone(), world.ground.b.clone(), wanderer.beyond.clone());
    let servers = Servers::start([&a, &b, &c])?;
    let stage = Stage { a, b, c, impostor, keeper: Mutex::new(Keeper::B), _servers: servers };
    Ok((world, wanderer, stage))
}

fn workload(account: &str, place: &Place) -> Result<String> {
    Ok(format!(
        "---\nkind: Workload\nmetadata: {{ name: {account} }}\nspec:\n  identity: {}\n  cgroup: {}\n  network: {{ path: {} \
         }}\n  ports: [{NOBODY}]\n",
        identity(account),
        place.cgroup.path().display(),
        place.network()?.path().display()
    ))
}

/// The registry of `a`: who has the addresses that move, and whether there is a `c`.
pub(crate) fn register(config: &mut Config, registered: Keeper, has_c: bool) {
    for peer in &mut config.peers {
        peer.addresses.retain(|address| !WANDERING.contains(address));
        let keeper = if peer.account == "b" { Keeper::B } else { Keeper::Beyond };
        if ["b", "c"].contains(&peer.account) && keeper == registered {
            peer.addresses.extend(WANDERING);
        }
    }
    config.peers.retain(|peer| has_c || peer.account != "c");
}

impl Servers {
    fn start(places: [&Place; 3]) -> Result<Servers> {
        let (mut own, mut nginx) = (Vec::new(), Vec::new());
        for place in places {
            let many = ["--connections", FOR_EVER, "--by", "tokio"];
            own.push(Server::start_on(place, ECHO, &[&["echo"], &many[..]].concat())?);
            own.push(Server::start_on(place, BULK, &[&["bulk", "--bytes", BULK_OCTETS], &many[..]].concat())?);
            // Its files are in a directory that is named after the port.
            let directory = place.directory.join(format!("web-of-{}", nginx.len()));
            std::fs::create_dir(&directory)?;
            nginx.push(program::nginx_on(&Place { directory, ..place.clone() }, WEB, MARKER)?);
        }
        Ok(Servers { _own: own, _nginx: nginx })
    }
}

impl Stage {
    pub(crate) fn ends(&self, flow: Flow, family: usize) -> Ends<'_> {
        let keeper = *self.keeper.lock().unwrap_or_else(PoisonError::into_inner);
        let wanderer = if keeper == Keeper::B { &self.b } else { &self.c };
        let (client, target) = match flow {
            Flow::AToB => (&self.a, B),
            Flow::BToA => (&self.b, A),
            Flow::AToC => (&self.a, BEYOND),
            Flow::CToA => (&self.c, A),
            Flow::AToWandering => (&self.a, WANDERING),
            Flow::WanderingToA => (wanderer, A_EDGE),
            Flow::ImpostorToB => (&self.impostor, B),
            Flow::ImpostorToC => (&self.impostor, BEYOND),
        };
        Ends { client, target: target[family] }
    }
}
