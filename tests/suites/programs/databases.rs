//! redis, memcached, PostgreSQL, and the load that their own benchmarks make.

use anyhow::{Context, Result, ensure};
use enforcer_tests::program::{self, Postgres};
use enforcer_tests::world::{Options, World};
use libtest_mimic::Trial;

use crate::stage::{Company, marker, on_every_route, promises, sealed};

pub(super) fn cheap(options: Options, suffix: &str) -> Vec<Trial> {
    promises![in options, called suffix, Company::Others; redis_stores_and_returns_a_value]
}

pub(super) fn thorough(options: Options, suffix: &str) -> Vec<Trial> {
    promises![in options, called suffix, Company::Others;
        redis_bears_its_benchmark,
        memcached_stores_and_returns_a_value,
        postgres_stores_and_returns_a_value,
        postgres_bears_its_benchmark,
    ]
}

fn redis_stores_and_returns_a_value(world: &World) -> Result<()> {
    on_every_route(world, |route| {
        let secret = marker();
        let redis = program::redis(route.server)?;
        sealed(&world.ground, &secret, redis.port, || {
            let at = redis.at(route.target);
            program::redis_cli(route.client, at, &["SET", "key", &secret])?;
            let value = program::redis_cli(route.client, at, &["GET", "key"])?;
            ensure!(value.trim() == secret, "redis-cli got `{value}`");
            Ok(())
        })
    })
}

/// One request at a time and sixteen at a time. The key that every request names is what must not be seen.
fn redis_bears_its_benchmark(world: &World) -> Result<()> {
    const REQUESTS: usize = 300;
    on_every_route(world, |route| {
        let redis = program::redis(route.server)?;
        sealed(&world.ground, "key:__rand_int__", redis.port, || {
            for pipeline in [1, 16] {
                let table = program::redis_benchmark(route.client, redis.at(route.target), REQUESTS, pipeline)?;
                ensure!(["\"SET\"", "\"GET\""].iter().all(|row| table.contains(row)), "it printed {table}");
            }
            let counted = program::redis_cli(route.client, redis.at(route.target), &["INFO", "commandstats"])?;
            for command in ["cmdstat_set", "cmdstat_get"] {
                let line = counted.lines().find(|line| line.starts_with(command)).context("a command is missing")?;
                // The benchmark may send a few more than it was told: what is in the pipeline is not called back.
                let calls: usize = line.split(['=', ',']).nth(1).context("no count")?.parse()?;
                ensure!(calls >= 2 * REQUESTS, "redis counted {line}");
            }
            Ok(())
        })
    })
}

fn memcached_stores_and_returns_a_value(world: &World) -> Result<()> {
    on_every_route(world, |route| {
        let secret = marker();
        let memcached = program::memcached(route.server)?;
        sealed(&world.ground, &secret, memcached.port, || {
            let said = program::memcached_client(route.client, memcached.at(route.target), &secret)?;
            let wanted = format!("STORED\r\nVALUE key 0 {}\r\n{secret}\r\nEND\r\n", secret.len());
            ensure!(said == wanted, "memcached said `{said}`");
            Ok(())
        })
    })
}

/// The server forks for every connection; its child serves on the descriptor of its parent.
fn postgres_stores_and_returns_a_value(world: &World) -> Result<()> {
    on_every_route(world, |route| {
        let secret = marker();
        let postgres = Postgres::start(route.server)?.server;
        sealed(&world.ground, &secret, postgres.port, || {
            let at = postgres.at(route.target);
            program::psql(route.client, at, &format!("CREATE TABLE kept AS SELECT '{secret}' AS value"))?;
            let value = program::psql(route.client, at, "SELECT value FROM kept")?;
            ensure!(value.trim() == secret, "psql got `{value}`");
            Ok(())
        })
    })
}

/// The tables come over the wire, ten MiB in one stream; then four clients with many small statements each. One
/// server on each node, for both families.
fn postgres_bears_its_benchmark(world: &World) -> Result<()> {
    const SECRET: &str = "pgbench_accounts";
    for routes in world.ground.routes().chunks(2) {
        let postgres = Postgres::start(routes[0].server)?.server;
        sealed(&world.ground, SECRET, postgres.port, || {
            program::pgbench(routes[0].client, postgres.at(routes[0].target), &["--initialize", "--quiet"])?;
            for route in routes {
                let load = ["--client=4", "--jobs=2", "--transactions=25", "--protocol=extended"];
                let report = program::pgbench(route.client, postgres.at(route.target), &load)?;
                let all = report.contains("number of transactions actually processed: 100/100");
                ensure!(all && report.contains("failed transactions: 0 "), "{route}: pgbench says {report}");
            }
            Ok(())
        })?;
    }
    Ok(())
}
