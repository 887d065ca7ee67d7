//! The ground that a world stands on: two nodes and a machine outside, wires between them, and no agent.
//!
//! ```text
//!   outside ── edge ── a ── mesh ── b
//! ```
//!
//! The addresses are always the same; namespaces keep one ground apart from all others. Everything carries the
//! name of the ground, by which `teardown` removes it.

use std::fmt;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU16, AtomicU32, Ordering};

use anyhow::{Context, Result};

use crate::cgroup::Cgroup;
use crate::netns::{End, Namespace};
use crate::onlooker::Onlooker;
use crate::place::Place;
use crate::teardown;
use crate::wire::Capture;

/// The device between the nodes, and that between node `a` and the machine outside.
pub(crate) const MESH: &str = "mesh0";
const EDGE: &str = "edge0";
/// The device between node `a` and the place beyond it.
pub(crate) const FAR: &str = "far0";

/// The IPv4 and the IPv6 address of one thing.
pub type Addresses = [IpAddr; 2];

/// Node `a`, as `b` sees it.
pub const A: Addresses = addresses(77, 1);
/// Node `b`, as `a` sees it.
pub const B: Addresses = addresses(77, 2);
/// Also node `b`; the registry of `a` expects another identity here.
pub const IMPOSTOR: Addresses = addresses(77, 3);
/// Nobody has it before a suite gives it to somebody (`wanderer`).
pub const WANDERING: Addresses = addresses(77, 9);
/// The place beyond `a`, which is not there before a suite wants it.
pub const BEYOND: Addresses = addresses(79, 2);
/// Node `a`, as it comes to that place.
pub const A_BEYOND: Addresses = addresses(79, 1);
/// Node `a`, as the machine outside sees it.
pub const A_EDGE: Addresses = addresses(78, 1);
/// Outside, registered as speaking mutual TLS of its own.
pub const PARTNER: Addresses = addresses(78, 2);
/// Outside, registered as speaking plaintext.
pub const LEGACY: Addresses = addresses(78, 3);
/// Outside, registered nowhere.
pub const STRANGER: Addresses = addresses(78, 4);

/// Three places for workloads. Dropping it takes down everything that stands on it.
#[derive(Debug)]
pub struct Ground {
    name: String,
    /// Where the workload of the first node runs.
    pub a: Place,
    /// Where the workload of the second node runs.
    pub b: Place,
    /// Where programs run that no agent looks after.
    pub outside: Place,
    /// Where agents run: in the network of the host.
    pub host: Place,
    /// In the network of `a`, but not of its workload: where the wires are tapped.
    observer: Place,
}

/// One way through the mesh.
#[derive(Debug, Clone, Copy)]
pub struct Route<'a> {
    /// Where the client runs.
    pub client: &'a Place,
    /// Where the server runs.
    pub server: &'a Place,
    /// Where the client is seen.
    pub source: IpAddr,
    /// Where the server is reached.
    pub target: IpAddr,
}

impl Ground {
    /// Makes the namespaces, the wires and the cgroups.
    pub fn create() -> Result<Ground> {
        static GROUNDS: AtomicU32 = AtomicU32::new(0);
        let name = teardown::name(GROUNDS.fetch_add(1, Ordering::Relaxed));
        Ground::build(&name).inspect_err(|_| teardown::take_down(&name))
    }

    fn build(name: &str) -> Result<Ground> {
        let directory = teardown::directory(name);
        drop(teardown::open());
        fs::create_dir(&directory).with_context(|| format!("create {}", directory.display()))?;
        let [a, b, outside] = ["a", "b", "outside"].map(|part| Namespace::create(&format!("{name}-{part}")));
        let (a, b, outside) = (a?, b?, outside?);
        Namespace::connect(
            &End { namespace: &a, device: MESH, addresses: &A },
            &End { namespace: &b, device: MESH, addresses: &[B, IMPOSTOR].concat() },
        )?;
        Namespace::connect(
            &End { namespace: &a, device: EDGE, addresses: &A_EDGE },
            &End { namespace: &outside, device: EDGE, addresses: &[PARTNER, LEGACY, STRANGER].concat() },
        )?;
        let cgroup = Cgroup::named(name)?.create()?;
        let place = |namespace, part| {
            let (cgroup, directory) = (cgroup.child(part)?, directory.clone());
            Ok::<_, anyhow::Error>(Place { namespace, cgroup, directory, is_best_effort: false })
        };
        Ok(Ground {
            name: name.to_owned(),
            observer: place(Some(a.clone()), "observer")?,
            a: place(Some(a), "a")?,
            b: place(Some(b), "b")?,
            outside: place(Some(outside), "outside")?,
            host: place(None, "host")?,
        })
    }

    /// Another place in the network of `a`, in a cgroup of its own.
    pub fn beside_a(&self, part: &str) -> Result<Place> {
        Ok(Place { cgroup: Cgroup::named(&self.name)?.child(part)?, ..self.a.clone() })
    }

    /// The same in the network of `b`.
    pub fn beside_b(&self, part: &str) -> Result<Place> {
        Ok(Place { cgroup: Cgroup::named(&self.name)?.child(part)?, ..self.b.clone() })
    }

    /// Another place, on a wire of its own to `a`: whatever stands there is at [`BEYOND`], and reaches [`A`].
    pub fn beyond_a(&self, part: &str) -> Result<Place> {
        let place = self.alone(part)?;
        Namespace::connect(
            &End { namespace: self.a.network()?, device: FAR, addresses: &A_BEYOND },
            &End { namespace: place.network()?, device: FAR, addresses: &BEYOND },
        )?;
        let routes = A.iter().zip(A_BEYOND).map(|(to, via)| format!("route add {to} via {via} dev {FAR}\n"));
        place.network()?.configure(&routes.collect::<String>())?;
        Ok(place)
    }

    /// Another place, in a network of its own that no wire leads to.
    pub fn alone(&self, part: &str) -> Result<Place> {
        let namespace = Namespace::create(&format!("{}-{part}", self.name))?;
        Ok(Place { namespace: Some(namespace), ..self.beside_a(part)? })
    }

    /// Two more places, each in a network of its own, with a wire between them that nobody else is on: the one at
    /// [`A_BEYOND`], and the one at [`BEYOND`].
    pub fn apart(&self, parts: [&str; 2]) -> Result<[Place; 2]> {
        let [near, far] = parts.map(|part| self.alone(part));
        let (near, far) = (near?, far?);
        Namespace::connect(
            &End { namespace: near.network()?, device: FAR, addresses: &A_BEYOND },
            &End { namespace: far.network()?, device: FAR, addresses: &BEYOND },
        )?;
        Ok([near, far])
    }

    /// Both directions between the nodes in both families: there by IPv4, there by IPv6, back by IPv4, back by IPv6.
    pub fn routes(&self) -> [Route<'_>; 4] {
        let there = |family: usize| Route { client: &self.a, server: &self.b, source: A[family], target: B[family] };
        let back = |family: usize| Route { client: &self.b, server: &self.a, source: B[family], target: A[family] };
        [there(0), there(1), back(0), back(1)]
    }

    /// Both directions and both families with two routes: there by IPv4, back by IPv6.
    pub fn there_and_back(&self) -> [Route<'_>; 2] {
        let [there, _, _, back] = self.routes();
        [there, back]
    }

    /// Starts to record what crosses the wire between the nodes.
    pub fn watch_mesh(&self) -> Result<Capture> {
        Capture::start(&self.observer, MESH, B[0])
    }

    /// Starts to record what crosses the wire to the place beyond `a`.
    pub fn watch_far(&self) -> Result<Capture> {
        Capture::start(&self.observer, FAR, BEYOND[0])
    }

    /// The same where packets between the first addresses of the nodes may be wrapped: the packet that ends the capture is
    /// for another address of `b`.
    pub fn watch_mesh_openly(&self) -> Result<Capture> {
        Capture::start(&self.observer, MESH, IMPOSTOR[0])
    }

    /// Watches the wire between the nodes and that to the place beyond `a`, for as long as one likes.
    pub fn onlooker(&self, markers: &[&str]) -> Result<Onlooker> {
        Onlooker::start(&self.observer, &[(MESH, B[0]), (FAR, BEYOND[0])], markers)
    }

    /// Starts to record what crosses the wire to the machine outside.
    pub fn watch_edge(&self) -> Result<Capture> {
        Capture::start(&self.observer, EDGE, PARTNER[0])
    }

    /// Where files go that only concern this ground.
    pub fn directory(&self, purpose: &str) -> PathBuf {
        teardown::directory(&self.name).join(purpose)
    }

    /// Where the agent of a node pins its programs.
    pub fn pins(&self, node: &str) -> PathBuf {
        teardown::pins(&self.name).join(node)
    }
}

impl Drop for Ground {
    fn drop(&mut self) {
        teardown::take_down(&self.name);
    }
}

impl fmt::Display for Route<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} -> {}", self.source, self.target)
    }
}

/// A port that no other test of this process uses; below the range that the kernel gives to clients.
pub fn unused_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(20_000);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

const fn addresses(network: u8, host: u8) -> Addresses {
    // 10.77.0.1 and fd77::1: the digits of the network are the same to the eye in both families.
    let prefix = 0xfd00 + (network / 10 * 16 + network % 10) as u16;
    [IpAddr::V4(Ipv4Addr::new(10, network, 0, host)), IpAddr::V6(Ipv6Addr::new(prefix, 0, 0, 0, 0, 0, 0, host as u16))]
}
