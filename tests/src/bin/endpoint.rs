//! The program behind `enforcer_tests::peer`: see `enforcer_tests::endpoint`.

use anyhow::Result;
use clap::Parser;
use enforcer_tests::endpoint::Endpoint;

fn main() -> Result<()> {
    Endpoint::parse().run()
}
