//! curl, wget, nginx, HAProxy, Python's HTTP server: pages, many pages, long pages, and proxies in between.

use anyhow::{Result, ensure};
use enforcer_tests::ground::Route;
use enforcer_tests::program::{self, Server};
use enforcer_tests::world::{Options, World};
use libtest_mimic::Trial;

use crate::stage::{Company, marker, on_every_route, pages_come_sealed, promises, sealed, sealed_on};

pub(super) fn cheap(options: Options, suffix: &str) -> Vec<Trial> {
    promises![in options, called suffix, Company::Others;
        curl_gets_a_page_from_nginx,
        curl_gets_a_page_from_python,
    ]
}

pub(super) fn thorough(options: Options, suffix: &str) -> Vec<Trial> {
    promises![in options, called suffix, Company::Others;
        wget_gets_a_page_from_nginx,
        curl_gets_many_pages_over_one_connection,
        long_pages_side_by_side_arrive_unchanged_from_the_workers_of_nginx,
        nginx_passes_requests_on_to_nginx,
        haproxy_passes_requests_on_to_nginx,
        haproxy_passes_bytes_on_to_nginx,
    ]
}

fn curl_gets_a_page_from_nginx(world: &World) -> Result<()> {
    pages_come_sealed(world)
}

fn curl_gets_a_page_from_python(world: &World) -> Result<()> {
    on_every_route(world, |route| {
        let secret = marker();
        let python = program::python_http(route.server, &secret)?;
        sealed(&world.ground, &secret, python.port, || {
            let page = program::curl(route.client, python.at(route.target))?.finish()?.success()?;
            ensure!(page == secret, "curl got `{page}`");
            Ok(())
        })
    })
}

fn wget_gets_a_page_from_nginx(world: &World) -> Result<()> {
    on_every_route(world, |route| {
        let secret = marker();
        let nginx = program::nginx(route.server, &secret)?;
        sealed(&world.ground, &secret, nginx.port, || {
            let page = program::wget(route.client, nginx.at(route.target))?;
            ensure!(page == secret, "wget got `{page}`");
            Ok(())
        })
    })
}

fn curl_gets_many_pages_over_one_connection(world: &World) -> Result<()> {
    const TIMES: usize = 50;
    on_every_route(world, |route| {
        let secret = marker();
        let nginx = program::nginx(route.server, &secret)?;
        sealed(&world.ground, &secret, nginx.port, || {
            let pages = program::curl_over_one_connection(route.client, nginx.at(route.target), TIMES)?;
            ensure!(pages.connections == 1, "it took {} connections", pages.connections);
            ensure!(pages.contents.iter().all(|page| *page == secret), "curl got {:?}", pages.contents);
            Ok(())
        })
    })
}

/// Four workers with a queue each; the file goes from the page cache to the socket by sendfile.
fn long_pages_side_by_side_arrive_unchanged_from_the_workers_of_nginx(world: &World) -> Result<()> {
    const TIMES: usize = 4;
    on_every_route(world, |route| {
        let secret = marker();
        let long = long_page(&secret);
        let nginx = program::nginx_with_workers(route.server, &long)?;
        sealed(&world.ground, &secret, nginx.port, || {
            let pages = program::curl_side_by_side(route.client, nginx.at(route.target), TIMES)?;
            ensure!(pages.connections == TIMES, "it took {} connections", pages.connections);
            for page in pages.contents {
                ensure!(page == long, "{} bytes of {} came, or others", page.len(), long.len());
            }
            Ok(())
        })
    })
}

fn nginx_passes_requests_on_to_nginx(world: &World) -> Result<()> {
    there_and_back(world, |route, origin| program::nginx_before(route.server, origin.at(route.source)))
}

fn haproxy_passes_requests_on_to_nginx(world: &World) -> Result<()> {
    there_and_back(world, |route, origin| program::haproxy_before(route.server, "http", origin.at(route.source)))
}

fn haproxy_passes_bytes_on_to_nginx(world: &World) -> Result<()> {
    there_and_back(world, |route, origin| program::haproxy_before(route.server, "tcp", origin.at(route.source)))
}

/// The page lies on the client's own node, the proxy on the other: each request crosses the wire twice.
fn there_and_back(world: &World, proxy: impl Fn(&Route<'_>, &Server) -> Result<Server>) -> Result<()> {
    const TIMES: usize = 10;
    on_every_route(world, |route| {
        let secret = marker();
        let long = long_page(&secret);
        let origin = program::nginx(route.client, &long)?;
        let proxy = proxy(&route, &origin)?;
        sealed_on(&world.ground, &secret, &[proxy.port, origin.port], || {
            let pages = program::curl_over_one_connection(route.client, proxy.at(route.target), TIMES)?;
            for page in pages.contents {
                ensure!(page == long, "{} bytes of {} came, or others", page.len(), long.len());
            }
            Ok(())
        })
    })
}

/// Half a MiB of lines that are all different, each with the secret.
fn long_page(secret: &str) -> String {
    const LENGTH: usize = 512 * 1024;
    (0..LENGTH / (secret.len() + 10)).map(|line| format!("{secret} {line:08}\n")).collect()
}
