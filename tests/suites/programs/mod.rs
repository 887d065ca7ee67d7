//! Unmodified programs talk through the agents as they do without them, and an onlooker sees TLS only.
//!
//! Every promise is kept on every way through the mesh. `trials_in` gives all of them in any world.

mod databases;
mod languages;
mod shells;
mod web;

use enforcer_tests::settings::{Depth, direct_depth};
use enforcer_tests::world::Options;
use libtest_mimic::Trial;

use crate::stage::every_offload;

pub(crate) fn trials() -> Vec<Trial> {
    let cheap = every_offload().flat_map(|(suffix, options)| cheap_in(options, suffix));
    // The thorough ones take long in an emulated processor. There they are direct; on this machine they are relayed.
    let thorough = match direct_depth() {
        Depth::Thorough => trials_in(Options::DIRECT, " (direct)"),
        Depth::Everyday => cheap_in(Options::DIRECT, " (direct)"),
        Depth::Nothing => {
            let relayed = [thorough_in(Options::STRICT, ""), languages::without_direct(Options::STRICT, "")];
            relayed.into_iter().flatten().collect()
        }
    };
    cheap.chain(thorough).collect()
}

/// All programs in the world with these options; `suffix` tells their names apart from those in other worlds.
fn trials_in(options: Options, suffix: &str) -> Vec<Trial> {
    cheap_in(options, suffix).into_iter().chain(thorough_in(options, suffix)).collect()
}

/// One exchange of each kind of program: no more than can be afforded in several worlds.
fn cheap_in(options: Options, suffix: &str) -> Vec<Trial> {
    [web::cheap(options, suffix), databases::cheap(options, suffix), shells::cheap(options, suffix)]
        .into_iter()
        .flatten()
        .collect()
}

/// What goes further: many connections, much to carry, proxies in between, every way to call the kernel.
fn thorough_in(options: Options, suffix: &str) -> Vec<Trial> {
    [
        web::thorough(options, suffix),
        databases::thorough(options, suffix),
        shells::thorough(options, suffix),
        languages::thorough(options, suffix),
    ]
    .into_iter()
    .flatten()
    .collect()
}
