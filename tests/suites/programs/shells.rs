//! OpenSSH, whose server speaks first, and socat.

use std::fs;

use anyhow::{Context, Result, ensure};
use enforcer_tests::program::{self, Ssh};
use enforcer_tests::world::{Options, World};
use libtest_mimic::Trial;

use crate::stage::{Company, marker, on_every_route, promises, sealed};

/// The server says in the clear who it is: that is what an onlooker must not see.
const GREETING: &str = "SSH-2.0-";

pub(super) fn cheap(options: Options, suffix: &str) -> Vec<Trial> {
    promises![in options, called suffix, Company::Others;
        ssh_runs_a_command,
        socat_gets_its_bytes_back,
    ]
}

pub(super) fn thorough(options: Options, suffix: &str) -> Vec<Trial> {
    promises![in options, called suffix, Company::Others; ssh_carries_two_million_bytes_there_and_back]
}

fn ssh_runs_a_command(world: &World) -> Result<()> {
    on_every_route(world, |route| {
        let secret = marker();
        let ssh = Ssh::start(route.server)?;
        sealed(&world.ground, GREETING, ssh.server.port, || {
            let said = ssh.run(route.client, route.target, &format!("echo {secret}"))?;
            ensure!(said.trim() == secret, "ssh got `{said}`");
            Ok(())
        })
    })
}

fn ssh_carries_two_million_bytes_there_and_back(world: &World) -> Result<()> {
    const BYTES: usize = 2_000_000;
    let file = world.ground.directory("two-million-bytes");
    let text: String = (0..).map(|number: u32| format!("{number:x},")).take(BYTES / 3).collect();
    fs::write(&file, &text.as_bytes()[..BYTES]).context("write the bytes")?;
    let wanted = program::sha256(&file)?;
    on_every_route(world, |route| {
        let ssh = Ssh::start(route.server)?;
        sealed(&world.ground, GREETING, ssh.server.port, || {
            let got = ssh.send_and_return(route.client, route.target, &file)?;
            ensure!(got == wanted, "the checksum is {got} instead of {wanted}");
            Ok(())
        })
    })
}

fn socat_gets_its_bytes_back(world: &World) -> Result<()> {
    on_every_route(world, |route| {
        let secret = marker();
        let echo = program::socat_echo(route.server)?;
        sealed(&world.ground, &secret, echo.port, || {
            let said = program::socat(route.client, echo.at(route.target), secret.as_bytes())?;
            ensure!(said == secret, "socat got `{said}`");
            Ok(())
        })
    })
}
