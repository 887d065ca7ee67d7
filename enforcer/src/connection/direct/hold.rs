//! What the kernel holds: events become offers, and accepted connections wait for the offers of the other end.
//!
//! The hold table in the kernel is the truth. An agent reads it when it starts, so that connections which were opened
//! while there was none go on, and whenever the ring buffer was full.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use enforcer_ebpf::{
    DIRECTION_OUTBOUND, EVENT_ACCEPTED, EVENT_CLOSED, EVENT_CONNECTED, EVENT_LATE, EVENT_REFUSED, EVENT_SENT_MUCH,
    Event, Held, Live, Reason, STAGE_ACCEPTED, STAGE_ESTABLISHED,
};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::accepts::Accepted;
use super::{Direct, Offers, workload_of, written};
use crate::connection::limits::Limit;
use crate::connection::pair::Connection;
use crate::kernel::bpf::Events;

/// How long an accepted connection waits for its offer.
const DEADLINE: Duration = Duration::from_secs(30);

/// Events that were read at once, from which on some may be lost: that happens when the ring is full, of about 9,000, and
/// those are read afterwards.
const CROWD: usize = 256;

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
                _ if self.offers.direct.lives.knows(cookie) => {}
                (DIRECTION_OUTBOUND, STAGE_ESTABLISHED) => self.offers.start(cookie, held),
                (_, STAGE_ACCEPTED) => self.accepted(cookie, held),
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
            EVENT_ACCEPTED => self.accepted(cookie, held),
            EVENT_CLOSED => {
                // An open connection has met its offer long ago.
                if !event.can_wait() {
                    self.offers.direct.accepts.give_up(Connection::from(&held), cookie);
                }
                if let Some(workload) = self.offers.direct.lives.closed(event) {
                    self.offers.direct.spare(&workload);
                }
            }
            EVENT_SENT_MUCH => self.offers.direct.weigh(cookie, event.sent),
            EVENT_LATE => self.offers.direct.restart_late(event.sent),
            EVENT_REFUSED => self.offers.direct.refused(cookie, &held),
            _ => {}
        }
    }

    fn accepted(&mut self, cookie: u64, held: Held) {
        let direct = &self.offers.direct;
        match direct.seat(cookie, held) {
            Ok(accepted) => {
                if !direct.accepts.accepted(accepted) {
                    self.due.push_back((Instant::now() + DEADLINE, Connection::from(&held), cookie));
                }
            }
            Err(reason) => direct.destroy(cookie, &held, reason),
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
    /// An open connection to a workload of this node.
    pub(super) fn find_open(&self, connection: Connection) -> Option<Live> {
        let live = self.holds.live_one(self.find_cookie(connection)?)?;
        (Connection::from(&written::held(&live)) == connection).then_some(live)
    }

    /// A held connection that a process has accepted, whether programs have seen it or not. Nobody knows which process.
    pub(super) fn find_accepted(&self, connection: Connection) -> Option<Accepted> {
        let cookie = self.find_cookie(connection)?;
        let held = self.holds.held_one(cookie)?;
        // One too many is asked for again, as one that is not accepted.
        (Connection::from(&held) == connection).then(|| self.seat(cookie, held).ok())?
    }

    /// Gives an accepted connection a place among the held sockets of its workload. Whose it is may be another one's when its
    /// offer comes, which is judged then.
    fn seat(&self, cookie: u64, held: Held) -> Result<Accepted, Reason> {
        let picture = self.current.picture();
        let workload = workload_of(&picture, &held);
        let _place = workload.map(|workload| workload.limits.take(Limit::Held)).transpose()?;
        Ok(Accepted { cookie, held, _place })
    }

    /// The socket that a process here has of a connection to it, as the kernel tells.
    fn find_cookie(&self, connection: Connection) -> Option<u64> {
        let Connection { source, destination } = connection;
        let picture = self.current.picture();
        let homes = self.homes.all().into_iter();
        let mut homes = homes.filter(|home| picture.workload_at(home.namespace.cookie(), destination.port()).is_some());
        homes.find_map(|home| {
            home.destroyer.accepted((destination, source)).unwrap_or_else(|error| {
                tracing::warn!(%error, %source, %destination, "cannot ask whether a connection is accepted");
                None
            })
        })
    }
}
