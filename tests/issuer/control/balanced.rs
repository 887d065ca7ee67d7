//! Two controls on one etcd behind one address: what a node is told comes from either, and it goes on when the one that it
//! talks to is killed.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use enforcer::ca::domain::node_identity;
use enforcer::identity::Serial;
use enforcer::identity::source::Source;
use enforcer_tests::config::TRUST_DOMAIN;
use enforcer_tests::control::Control;
use enforcer_tests::wait;
use libtest_mimic::Trial;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{sleep, timeout};
use tokio_util::task::AbortOnDropHandle;

use super::replicas::replica;
use super::{Node, known};
use crate::etcd::Etcd;
use crate::stage::promises;

/// From the moment that `enforcer ca revoke` has returned.
const SEEN_WITHIN: Duration = Duration::from_secs(1);

pub(super) fn trials() -> Vec<Trial> {
    promises![a_node_goes_on_at_the_other_replica_behind_the_same_address]
}

async fn a_node_goes_on_at_the_other_replica_behind_the_same_address(directory: PathBuf) -> Result<()> {
    let etcd = Etcd::start(&directory)?;
    let [mut one, two] = [replica(&directory, &etcd, "one")?, replica(&directory, &etcd, "two")?];
    let balancer = Balancer::start([one.address, two.address]).await?;
    let token = two.token("node-a")?;
    let node = Node::join_at(balancer.address, "node-a", &directory, &token).await?;
    ensure!(node.client.told(wait::patience()).await, "it is told nothing");
    let doomed = [node.issue("a").await?.serial, node.issue("a").await?.serial, node.issue("a").await?.serial];
    ensure!(balancer.carried(1) == 0, "it is not the first replica that it talks to");

    let took = learns(&node, &two, &doomed[0], SEEN_WITHIN).await?;
    eprintln!("a node of the other replica knew it {} ms after the revocation", took.as_millis());

    one.kill()?;
    let since = Instant::now();
    learns(&node, &two, &doomed[1], wait::patience()).await.context("revoked while it had lost its replica")?;
    eprintln!("{} ms after its replica was killed it hears the other one", since.elapsed().as_millis());
    learns(&node, &two, &doomed[2], SEEN_WITHIN).await?;
    ensure!(balancer.carried(1) > 0, "whom does it talk to?");
    let issued = node.issue("a").await?.serial;
    ensure!(known(&two)?.contains(&issued), "the second replica has not issued it");
    renews(&node, &two).await
}

/// Revokes a certificate, and gives how long it took from then until the node knew it.
async fn learns(node: &Node, control: &Control, serial: &str, limit: Duration) -> Result<Duration> {
    let (mut trusted, parsed): (_, Serial) = (node.client.trusted(), serial.parse()?);
    control.done(&["ca", "revoke", "--serial", serial])?;
    let since = Instant::now();
    let learning = async {
        while !trusted.current().revokes(&parsed) {
            trusted.changed().await;
        }
    };
    timeout(limit, learning).await.with_context(|| format!("the node has not learned it within {limit:?}"))?;
    Ok(since.elapsed())
}

/// A new root makes every node renew its certificate at once.
async fn renews(node: &Node, control: &Control) -> Result<()> {
    let before = of_the_node(control)?;
    control.done(&["ca", "rotate", "prepare"])?;
    let activated = async {
        while let Err(early) = control.ask(&["ca", "rotate", "activate"])?.success() {
            ensure!(format!("{early}").contains("would refuse connections"), "{early}");
            sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    };
    timeout(wait::patience(), activated).await.context("the node does not confirm the next root")??;
    let renewed = async {
        while of_the_node(control)? == before {
            sleep(Duration::from_millis(20)).await;
        }
        anyhow::Ok(())
    };
    timeout(wait::patience(), renewed).await.context("the node does not renew its certificate")??;
    node.issue("a").await.map(drop)
}

/// How many certificates the node itself has had.
fn of_the_node(control: &Control) -> Result<usize> {
    let name = node_identity(TRUST_DOMAIN, "node-a")?;
    let list = control.told(&["ca", "list"])?;
    Ok(list.as_array().context("no list")?.iter().filter(|listed| listed["name"] == name.as_str()).count())
}

/// One address before several servers: each connection goes to the first that accepts it.
struct Balancer {
    address: SocketAddr,
    carried: Arc<[AtomicUsize; 2]>,
    _serving: AbortOnDropHandle<()>,
}

impl Balancer {
    async fn start(servers: [SocketAddr; 2]) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.context("listen")?;
        let address = listener.local_addr()?;
        let carried = Arc::<[AtomicUsize; 2]>::default();
        let counts = Arc::clone(&carried);
        let serving = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(carry(client, servers, Arc::clone(&counts)));
            }
        });
        Ok(Self { address, carried, _serving: AbortOnDropHandle::new(serving) })
    }

    /// How many connections went to a server.
    fn carried(&self, server: usize) -> usize {
        self.carried[server].load(Ordering::Relaxed)
    }
}

async fn carry(mut client: TcpStream, servers: [SocketAddr; 2], counts: Arc<[AtomicUsize; 2]>) -> io::Result<()> {
    for (address, count) in servers.into_iter().zip(&*counts) {
        if let Ok(mut server) = TcpStream::connect(address).await {
            count.fetch_add(1, Ordering::Relaxed);
            copy_bidirectional(&mut client, &mut server).await?;
            break;
        }
    }
    Ok(())
}
