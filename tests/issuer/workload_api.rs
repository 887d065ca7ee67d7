//! The SPIFFE Workload API from both ends: what we serve, to the source that Rust workloads use and that looks after
//! itself; and an agent that has its certificates from it, as from any other.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use enforcer::ca;
use enforcer::control::snapshot::Cipher;
use enforcer::identity::Identity;
use enforcer::identity::roster::Roster;
use enforcer::identity::source::{Local, Source};
use enforcer::identity::store::Store;
use enforcer::identity::workload_api::{Endpoint, Member, Parts, Roll};
use enforcer::identity::workload_source::{self, Wanted};
use enforcer::kernel::{cgroup, netns};
use enforcer::observe::metrics::{Metrics, Sources};
use enforcer_tests::config::{TRUST_DOMAIN, identity};
use enforcer_tests::wait;
use libtest_mimic::Trial;
use spiffe::X509Source;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::stage::promises;

pub(crate) fn trials() -> Vec<Trial> {
    promises![a_source_has_its_certificate_and_survives_the_agent, an_agent_may_have_its_certificates_from_another,]
}

async fn a_source_has_its_certificate_and_survives_the_agent(directory: PathBuf) -> Result<()> {
    let mut served = Served::start(&directory, "web")?;
    let socket = format!("unix://{}", served.socket.display());
    let source = X509Source::builder().endpoint(&socket).initial_sync_timeout(wait::patience()).build().await?;
    let first = source.svid()?;
    ensure!(first.spiffe_id().to_string() == identity("web"), "it names {}", first.spiffe_id());
    served.stop().await?;
    ensure!(source.is_healthy(), "what it has is of use until its end");
    served.serve()?;
    // The next agent has a key of its own for it.
    until("the certificate of the next agent", || {
        ensure!(source.is_healthy(), "there was a gap");
        Ok(source.svid()?.leaf() != first.leaf())
    })
    .await?;
    source.shutdown().await;
    served.stop().await
}

async fn an_agent_may_have_its_certificates_from_another(directory: PathBuf) -> Result<()> {
    let mut served = Served::start(&directory, "web")?;
    let (socket, stop) = (served.socket.clone(), CancellationToken::new());
    let wanted = |account: &str| -> Result<Wanted> {
        Ok(Wanted {
            socket: socket.clone(),
            trust_domain: TRUST_DOMAIN.to_owned(),
            identities: Roster::new([identity(account).parse()?]),
            cipher: Cipher::default(),
            federation: Arc::default(),
        })
    };
    let (store, trusted) = workload_source::start(wanted("web")?, stop.clone()).await;
    let held = store.get(&identity("web").parse()?)?;
    ensure!(trusted.current().roots == served.source.trusted().current().roots, "other roots");
    ensure!(held.trusted.current().roots == trusted.current().roots, "other roots in handshakes");
    // Who has no entry has no certificate, and is not given another's.
    let (others, _trusted) = workload_source::start(wanted("db")?, stop.clone()).await;
    ensure!(others.current().is_empty(), "somebody else's certificate: {:?}", others.current());
    served.stop().await?;
    ensure!(is_held(&store, &held.identity), "forgotten with the other end");
    stop.cancel();
    Ok(())
}

fn is_held(store: &Store, identity: &Identity) -> bool {
    store.get(identity).is_ok()
}

/// The Workload API of an agent whose one workload this process is.
struct Served {
    socket: PathBuf,
    account: String,
    source: Arc<dyn Source>,
    running: Option<(CancellationToken, JoinHandle<()>)>,
}

impl Served {
    fn start(directory: &Path, account: &str) -> Result<Self> {
        let authority = ca::open_or_create(&directory.join("state"), TRUST_DOMAIN)?;
        let source: Arc<dyn Source> = Arc::new(Local::new(authority)?);
        let socket = directory.join("run/workload.sock");
        let mut served = Self { socket, account: account.to_owned(), source, running: None };
        served.serve()?;
        Ok(served)
    }

    fn serve(&mut self) -> Result<()> {
        let own = std::process::id();
        let group = *cgroup::ids_of(own)?.first().context("this process is in no control group")?;
        let namespace = netns::Id::of_process(own)?;
        let member =
            Member { name: self.account.as_str().into(), identity: identity(&self.account).parse()?, namespace };
        let sources = Sources {
            refusals: Box::new(Vec::new),
            missed: Box::new(Vec::new),
            usage: Box::new(Vec::new),
            certificates: Box::new(Vec::new),
        };
        let parts = Parts {
            source: Arc::clone(&self.source),
            trust_domain: TRUST_DOMAIN.to_owned(),
            members: Roll::new(HashMap::from([(group, member)])),
            metrics: Arc::new(Metrics::new(sources)),
        };
        let stop = CancellationToken::new();
        // A process that another test is about to start has this one's sockets for a moment.
        let endpoint =
            wait::until("the socket to be free", wait::patience(), || Ok(Endpoint::bind(&self.socket).ok()))?;
        let serving = tokio::spawn(endpoint.serve(parts, stop.clone()));
        self.running = Some((stop, serving));
        Ok(())
    }

    async fn stop(&mut self) -> Result<()> {
        let (stop, serving) = self.running.take().context("nothing is served")?;
        stop.cancel();
        timeout(wait::patience(), serving).await.context("it does not stop")?.context("it has panicked")
    }
}

async fn until(what: &str, state: impl Fn() -> Result<bool>) -> Result<()> {
    let reached = async {
        while !state()? {
            sleep(Duration::from_millis(10)).await;
        }
        Ok(())
    };
    timeout(wait::patience(), reached).await.with_context(|| format!("wait for {what}"))?
}
