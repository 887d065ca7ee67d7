//! THE PATH OF A CONNECTION.
//!
//! The programs in the kernel hand every connection of an enrolled workload to one of the agent's listeners. From
//! there [`run`] is the path: learn what was wanted (`intercept`), decide by what is known before a byte is read
//! (`choose`, and the rules of the workload's policies), carry. Where a workload has a public name, the first bytes are
//! looked at before (`public`): a client that calls it is carried under that name's certificate, whatever was chosen, if
//! no rule denies it. Every connection gets one record, with the reason for its path and the reason for its end.
//! Nothing falls back to plaintext here: only [`choose`] can say `Plain`, and it never looks at the wire. The one
//! exception never leaves the host: a destination that turns out to be in the workload's own namespace.
//!
//! `pair` is what two agents say to each other: opening and accepting sessions, and the language in them. `direct` is the
//! path on which no agent carries anything. Each end has its own path: where one is direct and the other is not, the
//! relay gets its keys as an application's socket does. `bonds` are how all of it ends with the certificates that it was
//! made under. `foresee` says what would become of a connection that there is not.

pub mod bonds;
mod choose;
pub mod direct;
pub mod foresee;
mod intercept;
pub mod limits;
pub mod pair;
mod picture;
pub mod public;
mod relay;
mod serve;
pub mod turns;
mod workload;

#[cfg(fuzzing)]
pub(crate) use relay::fuzz_records;

pub use choose::{Choice, Expected, Kernel, Means, Programs, Site, Wants, choose, means, refused};
pub use intercept::Request;
pub use picture::{Current, Home, Homes, Picture};
pub use serve::{Listener, Path, serve};
pub use workload::{Seat, Workload, place_records};

use std::future::pending;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use enforcer_ebpf::Reason;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use bonds::{Bond, Revoked};

use crate::control::policy::{Refusal, Verdict};
use crate::identity::request::blocking;
use crate::observe::events::{Direction, Opening};

/// Takes one accepted connection from its start to its end.
async fn run(path: Arc<Path>, listener: Arc<Listener>, accepted: TcpStream) {
    // Before it is judged, so that no change is missed.
    let changes = path.current.changes();
    let picture = path.current.picture();
    let Some(request) = intercept::intercept(&path, &picture, (&listener, &accepted)) else { return };
    let (decision, choice) = request.judge(&picture, listener.direction);
    // Rules that allow are about those who prove an identity; that clients prove none is what a public name is for.
    let is_denied = decision.verdict == Verdict::Refused(Refusal::Denied);
    let public = request.public(&picture, listener.direction).filter(|_| !is_denied);
    drop(picture);
    let record = path.connections.open(Opening {
        direction: listener.direction,
        workload: Arc::clone(&request.workload.name),
        local: request.workload.identity.clone(),
        source: request.source,
        destination: request.destination,
    });
    let standing = Standing { is_public: AtomicBool::new(false), choice };
    // A place is taken before a turn is waited for, so that what waits is bounded too.
    let lane = &request.workload.lane;
    let carry = async {
        if let Some(public) = public {
            let _guest = public.place()?;
            if let Some(called) = public.called(&accepted).await {
                standing.is_public.store(true, Ordering::Relaxed);
                let carried = relay::public::carry(accepted, &request, (public, &called, &path), &record);
                return lane.in_turns(carried).await;
            }
        }
        let choice = &standing.choice;
        record.ruled(decision);
        record.decided(choice.path(), choice.reason());
        let _taken = request.workload.limits.take_relay()?;
        match (choice, listener.direction) {
            (Choice::Refuse(reason), _) => Err(*reason),
            (_, Direction::Outbound) => {
                let carried = relay::outbound::carry(accepted, &request, (choice, &path.offers), &record);
                Ok(lane.in_turns(carried).await)
            }
            (_, Direction::Inbound) => {
                let carried = relay::inbound::carry(accepted, &request, (choice, &path), &record);
                Ok(lane.in_turns(carried).await)
            }
        }
    };
    let ended = tokio::select! {
        biased;
        () = forbidden((&path.current, changes), (&request, listener.direction), &standing) => Reason::PolicyChanged,
        ended = until_ended(carry, (&path.stop, &request.bond)) => ended,
    };
    record.finish(ended);
}

/// What a connection was let be as.
struct Standing {
    /// A client without an identity, under a public name.
    is_public: AtomicBool,
    /// All others.
    choice: Choice,
}

impl Standing {
    /// Whether what is in force now lets it be too.
    fn holds(&self, picture: &Picture, (request, direction): (&Request, Direction)) -> bool {
        if !picture.has(&request.workload) {
            return false;
        }
        let (decision, choice) = request.judge_again(picture, direction);
        match self.is_public.load(Ordering::Relaxed) {
            true => {
                let is_denied = decision.verdict == Verdict::Refused(Refusal::Denied);
                !is_denied && request.public(picture, direction).is_some()
            }
            false => self.choice.goes_on_by(&choice),
        }
    }
}

/// Returns when what is in force has changed, and does not let a connection be that was.
async fn forbidden(
    (current, mut changes): (&Current, watch::Receiver<u64>),
    request: (&Request, Direction),
    standing: &Standing,
) {
    while changes.changed().await.is_ok() {
        if !standing.holds(&current.picture(), request) {
            return;
        }
    }
    pending().await
}

/// Another picture is in force, and the kernel's tables follow it: ends everything that it does not let be any more. Says
/// how many open direct connections that were; relays, pair sessions and connections on their way are told, and end when
/// they are next polled.
pub async fn changed(path: &Path) -> usize {
    path.current.tell();
    let offers = Arc::clone(&path.offers);
    offers.forget_unknown();
    // Not here: it waits for the locks of sockets, which applications have too.
    blocking(move || offers.direct.judge_again()).await
}

/// Carries until the end, or until it may not go on: what carries it is dropped then, with its sockets, which are reset.
async fn until_ended(
    carry: impl Future<Output = Result<Reason, Reason>>,
    (stop, bond): (&CancellationToken, &Bond),
) -> Reason {
    tokio::select! {
        biased;
        () = stop.cancelled() => Reason::AgentStopped,
        () = bond.broken() => Reason::CertificateRevoked,
        ended = carry => ended.unwrap_or_else(|reason| reason),
    }
}

/// From now on these certificates are revoked, and no others. Ends everything of this node that was made under one of them,
/// whichever end's it is: connections that are open, relayed or on their way, and pair sessions. Says how many that were.
/// Relays and sessions are told, and end when they are next polled; open direct connections are reset when this returns.
pub async fn revoke(path: &Path, revoked: Revoked) -> usize {
    let bound = path.bonds.revoke(Arc::clone(&revoked));
    let offers = Arc::clone(&path.offers);
    // Not here: it waits for the locks of sockets, which applications have too.
    bound + blocking(move || offers.direct.revoke(&revoked)).await
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::time::Duration;

    use socket2::SockRef;
    use tokio::io::AsyncReadExt;
    use tokio::net::TcpListener;
    use tokio::task::JoinSet;
    use tokio::time::{Instant, timeout};

    use super::bonds::Bonds;
    use super::*;
    use crate::identity::Serial;

    /// Both ends of a connection; the second one is made as the sockets of a relay are.
    async fn connection() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (far, near) = tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
        let near = near.unwrap().0;
        SockRef::from(&near).set_linger(Some(Duration::ZERO)).unwrap();
        (far.unwrap(), near)
    }

    /// Carries between a client and a peer, bound to certificates with these numbers.
    async fn relay(bonds: &Bonds, numbers: [u8; 2], relays: &mut JoinSet<Reason>) -> [TcpStream; 2] {
        let ((client, mut application), (server, mut peer)) = (connection().await, connection().await);
        let bond = bonds.bond();
        bond.tie(&numbers.map(|number| Serial::from_der(&[number]).unwrap())).unwrap();
        relays.spawn(async move {
            let carry = async {
                let _ended = tokio::io::copy_bidirectional(&mut application, &mut peer).await;
                Ok(Reason::Closed)
            };
            until_ended(carry, (&CancellationToken::new(), &bond)).await
        });
        [client, server]
    }

    async fn error_of(mut end: TcpStream) -> Option<io::ErrorKind> {
        end.read(&mut [0]).await.err().map(|error| error.kind())
    }

    #[tokio::test]
    async fn relays_of_a_revoked_certificate_are_reset_at_both_ends_and_others_go_on() {
        let (bonds, mut relays) = (Bonds::default(), JoinSet::new());
        let mut ends = Vec::new();
        for _ in 0..50 {
            ends.extend(relay(&bonds, [1, 2], &mut relays).await);
            ends.extend(relay(&bonds, [3, 1], &mut relays).await);
        }
        let [client, server] = relay(&bonds, [2, 3], &mut relays).await;
        let started = Instant::now();
        let revoked = Serial::from_der(&[1]).unwrap();
        assert_eq!(bonds.revoke(Arc::new(move |serial| *serial == revoked)), 100);
        for end in ends {
            assert_eq!(error_of(end).await, Some(io::ErrorKind::ConnectionReset));
        }
        for _ in 0..100 {
            assert_eq!(relays.join_next().await.unwrap().unwrap(), Reason::CertificateRevoked);
        }
        assert!(started.elapsed() < Duration::from_secs(1), "it took {:?}", started.elapsed());
        assert!(timeout(Duration::from_millis(50), client.readable()).await.is_err(), "it goes on");
        drop((client, server));
        assert_eq!(relays.join_next().await.unwrap().unwrap(), Reason::Closed);
    }
}
