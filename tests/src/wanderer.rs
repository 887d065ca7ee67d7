//! Addresses that move from one workload to another, as those of pods do: of node `b`, and of a place beyond `a`.
//!
//! ```text
//!   beyond ── far ── a ── mesh ── b
//!     └────── 10.77.0.9 ──────────┘
//! ```
//!
//! Whoever has them comes from them to [`A_EDGE`], and from an address of its own to [`A`](crate::ground::A).

use std::fmt::Write as _;

use anyhow::Result;

use crate::config::identity;
use crate::ground::{A, A_BEYOND, A_EDGE, BEYOND, FAR, Ground, MESH, WANDERING};
use crate::place::Place;

/// The two places between which [`WANDERING`] moves.
#[derive(Debug)]
pub struct Wanderer {
    /// Another network, for a workload of its own.
    pub beyond: Place,
    b: Place,
    a: Place,
    keeper: Option<Keeper>,
}

/// Who has the addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keeper {
    /// The workload of node `b`.
    B,
    /// The one in the place beyond `a`.
    Beyond,
}

impl Wanderer {
    /// Makes the place beyond `a`. Nobody has the addresses yet.
    pub fn on(ground: &Ground) -> Result<Wanderer> {
        Ok(Wanderer { beyond: ground.beyond_a("beyond")?, b: ground.b.clone(), a: ground.a.clone(), keeper: None })
    }

    /// Where the workload of this keeper runs.
    pub fn place(&self, keeper: Keeper) -> &Place {
        match keeper {
            Keeper::B => &self.b,
            Keeper::Beyond => &self.beyond,
        }
    }

    /// The workload beyond `a`, as an object for the configuration of the agent that looks after it.
    pub fn workload(&self, account: &str) -> Result<String> {
        let (network, cgroup) = (self.beyond.network()?.path(), self.beyond.cgroup.path().display());
        Ok(format!(
            "---\nkind: Workload\nmetadata: {{ name: {account} }}\nspec:\n  identity: {}\n  cgroup: {cgroup}\n  \
             network: {{ path: {} }}\n",
            identity(account),
            network.display()
        ))
    }

    /// Takes the addresses from whoever has them and gives them to `keeper`; `a` sends what is for them there.
    pub fn give_to(&mut self, keeper: Keeper) -> Result<()> {
        if let Some(former) = self.keeper.take() {
            self.place(former).network()?.configure(&lines(former, ["route del", "address del"]))?;
        }
        self.place(keeper).network()?.configure(&lines(keeper, ["address add", "route add"]))?;
        self.keeper = Some(keeper);
        let mut routes = String::new();
        for (address, via) in WANDERING.iter().zip(BEYOND) {
            match keeper {
                Keeper::B => writeln!(routes, "route replace {address} dev {MESH}")?,
                Keeper::Beyond => writeln!(routes, "route replace {address} via {via} dev {FAR}")?,
            }
        }
        self.a.network()?.configure(&routes)
    }
}

/// What `ip` is to do to the addresses of this keeper, and to the routes that begin there.
fn lines(keeper: Keeper, verbs: [&str; 2]) -> String {
    let (device, ways) = if keeper == Keeper::B { (MESH, A) } else { (FAR, A_BEYOND) };
    let line = |verb: &str, family: usize| {
        let (address, bits) = (WANDERING[family], if family == 0 { 32 } else { 128 });
        match verb {
            // Nobody takes it as a source for anything else.
            "address add" if family == 1 => format!("{verb} {address}/{bits} dev {device} nodad preferred_lft 0\n"),
            "address add" | "address del" => format!("{verb} {address}/{bits} dev {device}\n"),
            _ => format!("{verb} {}/{bits} via {} dev {device} src {address}\n", A_EDGE[family], ways[family]),
        }
    };
    verbs.iter().flat_map(|verb| [line(verb, 0), line(verb, 1)]).collect()
}
