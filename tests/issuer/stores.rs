//! What an authority must not forget, in both stores: the same promises, and what each does when it is killed or lost.

mod conformance;
pub(crate) mod full;
pub(crate) mod killed;
mod lost;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use enforcer::ca::store::embedded::Embedded;
use enforcer::ca::store::etcd::{ANSWERED_WITHIN, Config, Etcd};
use enforcer::ca::store::{Store, Transaction};
use libtest_mimic::Trial;

use crate::etcd;
use crate::stage::promises;

pub(crate) fn trials() -> Vec<Trial> {
    let mut trials = promises![
        the_embedded_store_keeps_the_promises_of_a_store,
        etcd_keeps_the_promises_of_a_store,
        etcd_with_certificates_keeps_the_promises_of_a_store,
        etcd_with_certificates_refuses_those_of_others,
    ];
    trials.extend(killed::trials());
    trials.extend(full::trials());
    trials.extend(lost::trials());
    trials
}

async fn the_embedded_store_keeps_the_promises_of_a_store(directory: PathBuf) -> Result<()> {
    let store: Arc<dyn Store> = Arc::new(Embedded::open(&directory.join("state/store.redb"))?);
    conformance::check(&store, &store).await
}

async fn etcd_keeps_the_promises_of_a_store(directory: PathBuf) -> Result<()> {
    let server = etcd::Etcd::start(&directory)?;
    // Neighbours, whose keys are not ours.
    for neighbour in ["/tes", "/test0", "/testing"] {
        let outcome =
            Etcd::connect(server.config(neighbour)).await?.commit(Transaction::new().put("z", "theirs")).await?;
        conformance::committed(outcome)?;
    }
    conforms(server.config("/test")).await
}

async fn etcd_with_certificates_keeps_the_promises_of_a_store(directory: PathBuf) -> Result<()> {
    let server = etcd::Etcd::start_with_tls(&directory)?;
    conforms(server.config("/test")).await
}

/// Two connections, as two replicas have them.
async fn conforms(config: Config) -> Result<()> {
    let store: Arc<dyn Store> = Arc::new(Etcd::connect(config.clone()).await?);
    let other: Arc<dyn Store> = Arc::new(Etcd::connect(config).await?);
    conformance::check(&store, &other).await
}

async fn etcd_with_certificates_refuses_those_of_others(directory: PathBuf) -> Result<()> {
    let server = etcd::Etcd::start_with_tls(&directory)?;
    let others = etcd::certificates(&directory.join("others"))?;
    let config = server.config("/test");
    let ours = config.tls.clone().context("no certificates")?;
    let stranger = enforcer::ca::store::etcd::Tls { ca: ours.ca.clone(), ..others.clone() };
    let impostor = enforcer::ca::store::etcd::Tls { ca: others.ca, ..ours };
    for (tls, what) in [(stranger, "a client's certificate"), (impostor, "the server's certificate")] {
        let begun = Instant::now();
        let connected = Etcd::connect(Config { tls: Some(tls), ..config.clone() }).await;
        ensure!(connected.is_err(), "{what} from another CA is accepted");
        ensure!(begun.elapsed() < 2 * ANSWERED_WITHIN, "{what}: refused after {:?}", begun.elapsed());
    }
    Ok(())
}
