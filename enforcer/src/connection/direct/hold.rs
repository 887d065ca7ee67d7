//! What the kernel holds: events become offers, and accepted connections meet the offers that came for them.
//!
//! The hold table in the kernel is the truth. An agent reads it when it starts, so that connections which were opened
//! while there was none go on, and whenever the ring buffer was full.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use enforcer_ebpf::{
    DIRECTION_OUTBOUND, EVENT_ACCEPTED, EVENT_CLOSED, EVENT_CONNECTED, EVENT_LATE, EVENT_REFUSED, EVENT_SENT_MUCH,
    Event, Held, Reason, STAGE_ACCEPTED, STAGE_ESTABLISHED, STAGE_KEYED,
};
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::{Direct, Offers};
use crate::connection::Place;
use crate::connection::pair::Connection;
use crate::kernel::bpf::Events;
use crate::kernel::destroy::Destroyer;

/// How long an accepted connection waits for its offer.
const DEADLINE: Duration = Duration::from_secs(30);

/// Events that were read at once, from which on some may be lost: that happens when the ring is full, of about 9,000, and
/// those are read afterwards.
const CROWD: usize = 256;

/// A held connection that the application has accepted.
#[derive(Clone, Copy, Debug)]
pub(super) struct Accepted {
    pub(super) cookie: u64,
    pub(super) held: Held,
}

/// Where accepted connections and offers meet, whichever comes first.
#[derive(Default)]
pub struct Accepts(Mutex<HashMap<Connection, Meeting>>);

enum Meeting {
    /// It was offered, and the application has not accepted it.
    Offered(oneshot::Sender<Accepted>),
    /// The application has accepted it, and it was not offered.
    Accepted(Accepted),
}

impl Accepts {
    /// The application has accepted a connection. False when its offer is still to come.
    fn accepted(&self, accepted: Accepted) -> bool {
        let connection = Connection::from(&accepted.held);
        let mut meetings = self.locked();
        let told = match meetings.insert(connection, Meeting::Accepted(accepted)) {
            // An offer that is being withdrawn has left nobody to tell; then the next one finds it.
            Some(Meeting::Offered(answer)) => answer.send(accepted).is_ok(),
            _ => false,
        };
        if told {
            meetings.remove(&connection);
        }
        told
    }

    /// Waits until the application has accepted this connection. Dropping the future withdraws.
    ///
    /// # Errors
    ///
    /// [`Reason::OfferRepeated`], when somebody waits for it already.
    pub(super) async fn wait(&self, connection: Connection) -> Result<Accepted, Reason> {
        let answer = {
            let mut meetings = self.locked();
            match meetings.entry(connection) {
                Entry::Occupied(met) if matches!(met.get(), Meeting::Accepted(_)) => {
                    let Meeting::Accepted(accepted) = met.remove() else { return Err(Reason::Internal) };
                    return Ok(accepted);
                }
                Entry::Occupied(_) => return Err(Reason::OfferRepeated),
                Entry::Vacant(empty) => {
                    let (tell, answer) = oneshot::channel();
                    empty.insert(Meeting::Offered(tell));
                    answer
                }
            }
        };
        let _withdraw = Withdraw { accepts: self, connection };
        answer.await.map_err(|_dropped| Reason::Internal)
    }

    /// Takes an accepted connection that was not offered. `None`: it was, or it is gone.
    fn give_up(&self, connection: Connection, cookie: u64) -> Option<Accepted> {
        let mut meetings = self.locked();
        let Entry::Occupied(met) = meetings.entry(connection) else { return None };
        match met.get() {
            Meeting::Accepted(accepted) if accepted.cookie == cookie => {
                let accepted = *accepted;
                met.remove();
                Some(accepted)
            }
            _ => None,
        }
    }

    fn locked(&self) -> MutexGuard<'_, HashMap<Connection, Meeting>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes an offer out that nobody waits for any more.
struct Withdraw<'a> {
    accepts: &'a Accepts,
    connection: Connection,
}

impl Drop for Withdraw<'_> {
    fn drop(&mut self) {
        let mut meetings = self.accepts.locked();
        if let Entry::Occupied(met) = meetings.entry(self.connection)
            && matches!(met.get(), Meeting::Offered(answer) if answer.is_closed())
        {
            met.remove();
        }
    }
}

/// Follows what programs tell, until `stop`.
pub async fn watch(offers: Arc<Offers>, mut events: Events, stop: CancellationToken) {
    offers.direct.adopt();
    let mut watch = Watch { lost: offers.direct.holds.lost_events(), offers, due: VecDeque::new() };
    watch.adopt();
    loop {
        let due = watch.due.front().map(|&(due, ..)| due);
        let read = tokio::select! {
            biased;
            () = stop.cancelled() => {
                // Ends that programs have left for later; everything else is the next agent's, who finds it in the table.
                return events.rest(|event| if event.kind == EVENT_CLOSED { watch.take(event) });
            }
            read = events.read(|event| watch.take(event)) => read,
            () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {
                watch.expire(Instant::now());
                continue;
            }
        };
        match read {
            Ok(count) if count >= CROWD => watch.find_lost(),
            Ok(_) => {}
            Err(error) => {
                tracing::error!(%error, "cannot read events of eBPF programs; new direct connections stay held");
                return;
            }
        }
    }
}

struct Watch {
    offers: Arc<Offers>,
    /// Events that were lost until now.
    lost: u64,
    /// Until when accepted connections wait for their offers, in the order of time. Most have had theirs long before.
    due: VecDeque<(Instant, Connection, u64)>,
}

impl Watch {
    /// Goes on with everything that is held and not known yet.
    fn adopt(&mut self) {
        let held = match self.offers.direct.holds.held() {
            Ok(held) => held,
            Err(error) => return tracing::error!(%error, "cannot read the hold table"),
        };
        for (cookie, held) in held {
            match (held.direction, held.stage) {
                (DIRECTION_OUTBOUND, STAGE_ESTABLISHED) => self.offers.start(cookie, held),
                (_, STAGE_ACCEPTED) => self.accepted(Accepted { cookie, held }),
                // Whoever gave it keys is gone, and nobody else has them.
                (_, STAGE_KEYED) if !self.offers.direct.lives.knows(cookie) => {
                    self.offers.direct.destroy(cookie, &held, Reason::AgentStopped);
                }
                _ => {}
            }
        }
    }

    fn find_lost(&mut self) {
        let lost = self.offers.direct.holds.lost_events();
        if lost != self.lost {
            tracing::warn!(lost = lost - self.lost, "events were lost; reading the hold table");
            self.lost = lost;
            self.adopt();
        }
    }

    fn take(&mut self, event: &Event) {
        let Event { cookie, held, .. } = *event;
        match event.kind {
            EVENT_CONNECTED => self.offers.start(cookie, held),
            EVENT_ACCEPTED => self.accepted(Accepted { cookie, held }),
            EVENT_CLOSED => {
                self.offers.direct.accepts.give_up(Connection::from(&held), cookie);
                self.offers.direct.lives.closed(event);
            }
            EVENT_SENT_MUCH => self.offers.direct.weigh(cookie, event.sent),
            EVENT_LATE => self.offers.direct.restart_late(event.sent),
            EVENT_REFUSED => self.offers.direct.refused(cookie, &held),
            _ => {}
        }
    }

    fn accepted(&mut self, accepted: Accepted) {
        if !self.offers.direct.accepts.accepted(accepted) {
            self.due.push_back((Instant::now() + DEADLINE, Connection::from(&accepted.held), accepted.cookie));
        }
    }

    /// Ends accepted connections that nobody has offered in time.
    fn expire(&mut self, now: Instant) {
        while let Some((_, connection, cookie)) = self.due.pop_front_if(|&mut (due, ..)| due <= now) {
            let Some(accepted) = self.offers.direct.accepts.give_up(connection, cookie) else { continue };
            // What is not in the table any more was settled, or is gone.
            if self.offers.direct.holds.held_one(cookie).is_some() {
                self.offers.direct.destroy(cookie, &accepted.held, Reason::HandshakeTimeout);
            }
        }
    }
}

impl Direct {
    /// A held connection that a process has accepted, whether programs have seen it or not. Nobody knows which process.
    pub(super) fn find_accepted(&self, connection: Connection) -> Option<Accepted> {
        let Connection { source, destination } = connection;
        let of_workload = |(place, _): &&(Arc<Place>, Destroyer)| place.workload_at(destination.port()).is_some();
        self.places.values().filter(of_workload).find_map(|(_, destroyer)| {
            let cookie = match destroyer.accepted((destination, source)) {
                Ok(cookie) => cookie?,
                Err(error) => {
                    tracing::warn!(%error, %source, %destination, "cannot ask whether a connection is accepted");
                    return None;
                }
            };
            let held = self.holds.held_one(cookie)?;
            (Connection::from(&held) == connection).then_some(Accepted { cookie, held })
        })
    }
}

#[cfg(test)]
mod tests {
    use enforcer_ebpf::{DIRECTION_INBOUND, Endpoint};

    use super::*;

    fn connection(port: u16) -> Connection {
        Connection { source: "10.0.0.1:4000".parse().unwrap(), destination: ([10, 0, 0, 2], port).into() }
    }

    fn accepted(connection: Connection) -> Accepted {
        let held = Held {
            netns: 1,
            cgroup: 0,
            source: Endpoint::from(connection.source),
            destination: Endpoint::from(connection.destination),
            direction: DIRECTION_INBOUND,
            stage: STAGE_ACCEPTED,
            process: 7,
            descriptor: 5,
        };
        Accepted { cookie: 9, held }
    }

    #[tokio::test]
    async fn offer_and_accepted_connection_meet_in_either_order() {
        let accepts = Accepts::default();
        assert!(!accepts.accepted(accepted(connection(1))));
        assert_eq!(accepts.wait(connection(1)).await.unwrap().cookie, 9);
        let accept = async {
            tokio::task::yield_now().await;
            assert!(accepts.accepted(accepted(connection(2))));
        };
        let (found, ()) = tokio::join!(accepts.wait(connection(2)), accept);
        assert_eq!(found.unwrap().cookie, 9);
        assert!(accepts.locked().is_empty());
    }

    #[tokio::test]
    async fn a_withdrawn_offer_leaves_nothing_and_a_second_one_is_refused() {
        let accepts = Accepts::default();
        {
            let mut first = std::pin::pin!(accepts.wait(connection(1)));
            assert!(poll_once(first.as_mut()).await.is_none());
            assert_eq!(accepts.wait(connection(1)).await.unwrap_err(), Reason::OfferRepeated);
        }
        assert!(accepts.locked().is_empty());
        assert!(!accepts.accepted(accepted(connection(1))));
        assert!(accepts.give_up(connection(1), 8).is_none(), "another socket with the same addresses");
        assert!(accepts.give_up(connection(1), 9).is_some());
    }

    async fn poll_once<T>(mut future: std::pin::Pin<&mut impl Future<Output = T>>) -> Option<T> {
        std::future::poll_fn(|cx| match future.as_mut().poll(cx) {
            std::task::Poll::Ready(value) => std::task::Poll::Ready(Some(value)),
            std::task::Poll::Pending => std::task::Poll::Ready(None),
        })
        .await
    }
}
