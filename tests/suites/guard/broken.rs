//! Each table that programs look into is broken, one at a time: what they cannot find, they refuse.

use std::net::SocketAddr;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use aya::Pod;
use aya::maps::lpm_trie::LpmTrie;
use aya::maps::{HashMap, Map, MapData, SockHash};
use enforcer_tests::ground::{A, A_EDGE, B, STRANGER};
use enforcer_tests::leaks::LAYOUT;
use enforcer_tests::peer::reach;
use enforcer_tests::program;
use enforcer_tests::settings::{Depth, direct_depth};
use enforcer_tests::world::World;
use libtest_mimic::Trial;

use super::{EPERM, usual};
use crate::stage::{marker, page_comes_sealed, promises};

pub(super) fn trials() -> Vec<Trial> {
    match direct_depth() {
        // The programs are the same on every kernel.
        Depth::Everyday => Vec::new(),
        Depth::Nothing | Depth::Thorough => promises![beside others; what_programs_do_not_find_they_refuse],
    }
}

/// Empties a map of the node's programs.
type Break = fn(&Path) -> Result<()>;

/// Maps that are asked before something may leave or arrive, and how they are emptied. Sizes of keys and values, octets, are
/// those of the types in `enforcer-ebpf`.
const BREAKS: [(&str, Break); 5] = [
    ("WORKLOADS", |pins| empty_hash::<[u8; 8], [u8; 24]>(pins, "WORKLOADS")),
    ("PEERS", |pins| empty_trie::<[u8; 16], u32>(pins, "PEERS")),
    ("EGRESS", |pins| empty_trie::<[u8; 20], [u8; 260]>(pins, "EGRESS")),
    ("LISTENERS", |pins| empty_listeners(pins)),
    ("PORTS", |pins| empty_hash::<[u8; 16], u32>(pins, "PORTS")),
];

fn what_programs_do_not_find_they_refuse() -> Result<()> {
    let mut world = World::create(usual())?;
    for (name, empty) in BREAKS {
        world.explain(nothing_is_in_the_clear(&world, empty)).with_context(|| format!("without {name}"))?;
        // It writes down all of them anew.
        world.a.agent.stop()?;
        world.a.agent.restart()?;
        let mut routes = world.ground.routes().into_iter().filter(|route| route.source.is_ipv4());
        let whole = routes.try_for_each(|route| page_comes_sealed(&world, route));
        world.explain(whole).with_context(|| format!("{name} is whole again"))?;
    }
    Ok(())
}

/// Breaks a table of node `a` under running servers. Whatever still works is encrypted, and nothing leaves or arrives that was
/// to be refused.
fn nothing_is_in_the_clear(world: &World, empty: Break) -> Result<()> {
    let (secret, [a, b]) = (marker(), [&world.ground.a, &world.ground.b]);
    let [at_a, at_b] = [program::nginx(a, &secret)?, program::nginx(b, &secret)?];
    empty(&world.a.config.bpf.join(LAYOUT))?;
    let capture = world.ground.watch_mesh()?;
    for (client, server) in [(a, at_b.at(B[0])), (b, at_a.at(A[0]))] {
        // It may fail, and it may come sealed.
        let _page = program::curl(client, server)?.finish()?;
    }
    capture.stop()?.prove_absent(&secret)?;
    let stranger = SocketAddr::new(STRANGER[0], 4);
    let outcomes = reach(a, &[("tcp", stranger), ("udp", stranger), ("raw", stranger)])?;
    ensure!(outcomes == [EPERM; 3], "{outcomes:?}");
    let page = program::curl(&world.ground.outside, at_a.at(A_EDGE[0]))?;
    page.finish()?.failure().context("a stranger was served")?;
    Ok(())
}

fn open(pins: &Path, name: &str) -> Result<MapData> {
    MapData::from_pin(pins.join(name)).with_context(|| format!("open map {name}"))
}

fn empty_hash<K: Pod, V: Pod>(pins: &Path, name: &str) -> Result<()> {
    let mut map: HashMap<_, K, V> = HashMap::try_from(Map::HashMap(open(pins, name)?))?;
    let keys: Vec<K> = map.keys().collect::<Result<_, _>>()?;
    ensure!(!keys.is_empty(), "it was empty");
    Ok(keys.iter().try_for_each(|key| map.remove(key))?)
}

fn empty_trie<K: Pod, V: Pod>(pins: &Path, name: &str) -> Result<()> {
    let mut map: LpmTrie<_, K, V> = LpmTrie::try_from(Map::LpmTrie(open(pins, name)?))?;
    let keys: Vec<_> = map.keys().collect::<Result<_, _>>()?;
    ensure!(!keys.is_empty(), "it was empty");
    Ok(keys.iter().try_for_each(|key| map.remove(key))?)
}

fn empty_listeners(pins: &Path) -> Result<()> {
    let mut map: SockHash<_, [u8; 16]> = SockHash::try_from(Map::SockHash(open(pins, "LISTENERS")?))?;
    let keys: Vec<_> = map.keys().collect::<Result<_, _>>()?;
    ensure!(!keys.is_empty(), "it was empty");
    Ok(keys.iter().try_for_each(|key| map.remove(key))?)
}
