//! Unmodified programs talk through the agents as they do without them, and an onlooker sees TLS only.

use anyhow::{Context, Result, ensure};
use enforcer_tests::program::{self, Ssh};
use enforcer_tests::world::World;
use libtest_mimic::Trial;

use crate::stage::{Company, marker, promises, sealed};

pub(crate) fn trials() -> Vec<Trial> {
    promises![with every offload, Company::Others;
        curl_gets_a_page_from_nginx,
        curl_gets_a_page_from_python,
        redis_stores_and_returns_a_value,
        ssh_runs_a_command,
        socat_gets_its_bytes_back,
    ]
    .collect()
}

fn curl_gets_a_page_from_nginx(world: &World) -> Result<()> {
    for route in world.ground.routes() {
        let secret = marker();
        let nginx = program::nginx(route.server, &secret)?;
        sealed(&world.ground, &secret, nginx.port, || {
            let page = program::curl(route.client, nginx.at(route.target))?.finish()?.success()?;
            ensure!(page == secret, "curl got `{page}`");
            Ok(())
        })
        .with_context(|| route.to_string())?;
    }
    Ok(())
}

fn curl_gets_a_page_from_python(world: &World) -> Result<()> {
    for route in world.ground.routes() {
        let secret = marker();
        let python = program::python_http(route.server, &secret)?;
        sealed(&world.ground, &secret, python.port, || {
            let page = program::curl(route.client, python.at(route.target))?.finish()?.success()?;
            ensure!(page == secret, "curl got `{page}`");
            Ok(())
        })
        .with_context(|| route.to_string())?;
    }
    Ok(())
}

fn redis_stores_and_returns_a_value(world: &World) -> Result<()> {
    for route in world.ground.routes() {
        let secret = marker();
        let redis = program::redis(route.server)?;
        sealed(&world.ground, &secret, redis.port, || {
            let at = redis.at(route.target);
            program::redis_cli(route.client, at, &["SET", "key", &secret])?;
            let value = program::redis_cli(route.client, at, &["GET", "key"])?;
            ensure!(value.trim() == secret, "redis-cli got `{value}`");
            Ok(())
        })
        .with_context(|| route.to_string())?;
    }
    Ok(())
}

/// The server speaks first, and says in the clear who it is: that is what an onlooker must not see.
fn ssh_runs_a_command(world: &World) -> Result<()> {
    for route in world.ground.routes() {
        let secret = marker();
        let ssh = Ssh::start(route.server)?;
        sealed(&world.ground, "SSH-2.0-", ssh.server.port, || {
            let said = ssh.run(route.client, route.target, &format!("echo {secret}"))?;
            ensure!(said.trim() == secret, "ssh got `{said}`");
            Ok(())
        })
        .with_context(|| route.to_string())?;
    }
    Ok(())
}

fn socat_gets_its_bytes_back(world: &World) -> Result<()> {
    for route in world.ground.routes() {
        let secret = marker();
        let echo = program::socat_echo(route.server)?;
        sealed(&world.ground, &secret, echo.port, || {
            let target = format!("TCP:{},shut-down", echo.at(route.target));
            let mut socat = route.client.start("socat", &["-t", "30", "-", &target])?;
            socat.feed(secret.as_bytes())?;
            socat.close_input();
            let said = socat.finish()?.success()?;
            ensure!(said == secret, "socat got `{said}`");
            Ok(())
        })
        .with_context(|| route.to_string())?;
    }
    Ok(())
}
