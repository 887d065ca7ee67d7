//! The table of live connections, and the guard that makes sure each gets its one record.
//!
//! [`Connections::open`] gives an [`Entry`]; the steps of the path write into it; [`Entry::finish`] takes it out of
//! the table, remembers it as seen, logs it and counts it. An entry that is dropped on the way is recorded too. No lock is
//! held across an await, and a connection takes the table's lock twice in its life.

use std::collections::BTreeMap;
use std::mem;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use enforcer_ebpf::Reason;

use super::metrics::Metrics;
pub use super::record::{Counters, Direction, Offloaded, Opening, Path, Tls, UserSpace};
use super::record::{Progress, Record};
use super::report::ConnectionReport;
use super::seen::{Memory, Seen, Sighting};
use crate::control::policy::{Decision, Protocol};
use crate::identity::Identity;

/// The connections that are open now. Clones are the same table.
#[derive(Clone, Debug)]
pub struct Connections(Arc<Table>);

#[derive(Debug)]
struct Table {
    known: Mutex<Known>,
    next_id: AtomicU64,
    metrics: Arc<Metrics>,
}

/// What is open, and what was. One lock for both, so that nobody finds a connection in both or in none.
#[derive(Debug)]
struct Known {
    live: BTreeMap<u64, Arc<Live>>,
    seen: Seen,
}

/// An open connection.
#[derive(Debug)]
struct Live {
    id: u64,
    opening: Opening,
    opened: Instant,
    counters: Counters,
    progress: Mutex<Progress>,
}

impl Connections {
    /// An empty table, whose ended connections are counted in `metrics`.
    #[must_use]
    pub fn new(metrics: Arc<Metrics>) -> Self {
        let known = Known { live: BTreeMap::new(), seen: Seen::new(Instant::now()) };
        Self(Arc::new(Table { known: Mutex::new(known), next_id: AtomicU64::new(1), metrics }))
    }

    /// Writes down a new connection.
    pub fn open(&self, opening: Opening) -> Entry {
        let live = Arc::new(Live {
            id: self.0.next_id.fetch_add(1, Ordering::Relaxed),
            opening,
            opened: Instant::now(),
            counters: Counters::default(),
            progress: Mutex::default(),
        });
        locked(&self.0.known).live.insert(live.id, Arc::clone(&live));
        self.0.metrics.opened();
        Entry { live, table: Arc::clone(&self.0), end: None }
    }

    /// Counts a connection that was reset before anybody could say whose it was.
    pub fn refused(&self, direction: Direction, reason: Reason) {
        let (path, why) = (Path::Refused.label(), reason.label());
        let direction_label = direction.label();
        tracing::info!(target: "connection", direction = direction_label, path, reason = why, end = why, "ended");
        self.0.metrics.refused(direction, reason);
    }

    /// The open connections, oldest first.
    #[must_use]
    pub fn report(&self) -> Vec<ConnectionReport> {
        let live: Vec<_> = locked(&self.0.known).live.values().cloned().collect();
        live.iter().map(|live| live.report()).collect()
    }

    /// What was seen in the last 24 hours, with what is open.
    #[must_use]
    pub fn seen(&self) -> Memory {
        let now = Instant::now();
        let (mut memory, live) = {
            let mut known = locked(&self.0.known);
            (known.seen.recall(now), known.live.values().cloned().collect::<Vec<_>>())
        };
        live.iter().for_each(|live| memory.add_open(live.sighting(), live.opened, now));
        memory
    }
}

/// The place of one open connection. Whoever holds it writes; dropping it ends the record.
#[derive(Debug)]
#[must_use = "dropping it records the end of the connection"]
pub struct Entry {
    live: Arc<Live>,
    table: Arc<Table>,
    end: Option<Reason>,
}

impl Entry {
    /// The agent has opened the connection to the peer, from this address.
    pub fn leaves_from(&self, source: SocketAddr) {
        locked(&self.live.progress).source = Some(source);
    }

    /// The path is chosen. A later decision replaces an earlier one.
    pub fn decided(&self, path: Path, reason: Reason) {
        locked(&self.live.progress).decision = Some((path, reason));
    }

    /// Rules have spoken.
    pub fn ruled(&self, ruling: Decision) {
        locked(&self.live.progress).ruling = Some(ruling);
    }

    /// The handshake is over, and took this long.
    pub fn handshake_took(&self, duration: Duration) {
        locked(&self.live.progress).handshake = Some(duration);
    }

    /// The peer has proved its identity.
    pub fn authenticated(&self, peer: &Identity, tls: Tls) {
        let mut progress = locked(&self.live.progress);
        progress.peer = Some(peer.clone());
        progress.tls = Some(tls);
    }

    /// The handshake has agreed on this, and the other end has proved nothing.
    pub fn agreed(&self, tls: Tls) {
        locked(&self.live.progress).tls = Some(tls);
    }

    /// The records have their place.
    pub fn offloaded(&self, offloaded: Offloaded) {
        locked(&self.live.progress).offloaded = Some(offloaded);
    }

    /// Whose connection it is.
    #[must_use]
    pub fn workload(&self) -> &Arc<str> {
        &self.live.opening.workload
    }

    /// Where the relay counts payload bytes.
    #[must_use]
    pub fn counters(&self) -> &Counters {
        &self.live.counters
    }

    /// The connection is over, for this reason.
    pub fn finish(mut self, end: Reason) {
        self.end = Some(end);
    }

    /// The connection goes on without this agent: its record is the next one's to write.
    pub fn hand_over(self) {
        locked(&self.table.known).live.remove(&self.live.id);
        mem::forget(self);
    }
}

impl Drop for Entry {
    /// Writes the record. An entry without an end belonged to a task that panicked, or that the runtime dropped
    /// because the agent stops.
    fn drop(&mut self) {
        let lost = if thread::panicking() { Reason::Internal } else { Reason::AgentStopped };
        let sighting = self.live.sighting();
        let mut known = locked(&self.table.known);
        known.live.remove(&self.live.id);
        known.seen.ended(sighting, self.live.opened, Instant::now());
        drop(known);
        let progress = locked(&self.live.progress);
        let record = Record {
            opening: &self.live.opening,
            progress: &progress,
            end: self.end.unwrap_or(lost),
            to_peer: self.live.counters.to_peer.load(Ordering::Relaxed),
            from_peer: self.live.counters.from_peer.load(Ordering::Relaxed),
            duration: self.live.opened.elapsed(),
        };
        record.log();
        self.table.metrics.ended(&record);
    }
}

impl Live {
    fn sighting(&self) -> Sighting {
        let Opening { direction, workload, source, destination, .. } = &self.opening;
        let other = if *direction == Direction::Outbound { destination } else { source };
        let progress = locked(&self.progress);
        Sighting {
            direction: *direction,
            workload: Arc::clone(workload),
            protocol: Protocol::Tcp,
            address: other.ip().to_canonical(),
            port: destination.port(),
            peer: progress.peer.clone(),
            is_public: progress.decision.is_some_and(|(path, _)| path == Path::Public),
        }
    }

    fn report(&self) -> ConnectionReport {
        let progress = locked(&self.progress);
        let tls = progress.tls.as_ref();
        ConnectionReport {
            id: self.id,
            direction: self.opening.direction.label().into(),
            workload: self.opening.workload.to_string(),
            local: self.opening.local.to_string(),
            peer: progress.peer.as_ref().map(Identity::to_string),
            source: progress.source.unwrap_or(self.opening.source),
            application: progress.source.map(|_| self.opening.source),
            destination: self.opening.destination,
            path: progress.decision.map(|(path, _)| path.label().into()),
            reason: progress.decision.map(|(_, reason)| reason.label().into()),
            cipher: tls.and_then(Tls::cipher_label).map(Into::into),
            group: tls.and_then(Tls::group_label).map(Into::into),
            local_serial: tls.and_then(|tls| tls.local_serial).map(|serial| serial.to_string()),
            peer_serial: tls.and_then(|tls| tls.peer_serial).map(|serial| serial.to_string()),
            offload: progress.offloaded.map(|offloaded| offloaded.label().into()),
            rule: progress.ruling.as_ref().and_then(|ruling| ruling.rule.as_deref()).map(Into::into),
            audited: progress.ruling.as_ref().is_some_and(Decision::is_audited),
            to_peer: self.counters.to_peer.load(Ordering::Relaxed),
            from_peer: self.counters.from_peer.load(Ordering::Relaxed),
            age_seconds: self.opened.elapsed().as_secs_f64(),
        }
    }
}

/// What a lock protects here stays whole when a holder panics: every change is one insert, remove or assignment.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::io;

    use tracing::subscriber::with_default;

    use super::*;
    use crate::observe::metrics::tests::unconnected;

    fn opening() -> Opening {
        Opening {
            direction: Direction::Outbound,
            workload: "web".into(),
            local: "spiffe://example.org/ns/default/sa/web".parse().unwrap(),
            source: "10.0.0.1:40000".parse().unwrap(),
            destination: "10.0.0.2:80".parse().unwrap(),
        }
    }

    /// Runs `act` and gives the log events of it.
    fn logged(act: impl FnOnce()) -> Vec<serde_json::Value> {
        #[derive(Clone, Default)]
        struct Lines(Arc<Mutex<Vec<u8>>>);

        impl io::Write for Lines {
            fn write(&mut self, data: &[u8]) -> io::Result<usize> {
                locked(&self.0).extend_from_slice(data);
                Ok(data.len())
            }

            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }

        let lines = Lines::default();
        let writer = lines.clone();
        let subscriber =
            tracing_subscriber::fmt().json().flatten_event(true).with_writer(move || writer.clone()).finish();
        with_default(subscriber, act);
        let bytes = locked(&lines.0);
        bytes.split(|&byte| byte == b'\n').filter_map(|line| serde_json::from_slice(line).ok()).collect()
    }

    #[test]
    fn a_connection_is_shown_while_open_and_recorded_once() {
        let metrics = unconnected();
        let connections = Connections::new(Arc::clone(&metrics));
        let peer: Identity = "spiffe://example.org/ns/default/sa/db".parse().unwrap();
        let events = logged(|| {
            let entry = connections.open(opening());
            entry.decided(Path::Relay, Reason::PeerEnrolled);
            entry.handshake_took(Duration::from_millis(2));
            let cipher = Some(rustls::CipherSuite::TLS13_AES_128_GCM_SHA256);
            let [local_serial, peer_serial] = ["0b", "0a"].map(|serial| Some(serial.parse().unwrap()));
            entry.authenticated(&peer, Tls { cipher, group: None, local_serial, peer_serial });
            entry.offloaded(Offloaded::UserSpace(UserSpace::RelayCheaper));
            entry.counters().to_peer.fetch_add(5, Ordering::Relaxed);
            assert_eq!(connections.report()[0].application, None);
            entry.leaves_from("10.0.0.1:50000".parse().unwrap());

            let open = connections.report();
            assert_eq!(open.len(), 1);
            assert_eq!(open[0].peer.as_deref(), Some("spiffe://example.org/ns/default/sa/db"));
            assert_eq!(open[0].offload.as_deref(), Some("relay-cheaper"));
            assert_eq!(open[0].to_peer, 5);
            let serials = [&open[0].local_serial, &open[0].peer_serial].map(|serial| serial.as_deref());
            assert_eq!(serials, [Some("0b"), Some("0a")]);
            assert_eq!(open[0].source, "10.0.0.1:50000".parse().unwrap());
            assert_eq!(open[0].application, Some(opening().source));
            entry.finish(Reason::Closed);
        });
        assert!(connections.report().is_empty());
        assert_eq!(events.len(), 1, "{events:?}");
        let expected = [
            ("target", "connection"),
            ("direction", "outbound"),
            ("workload", "web"),
            ("local", "spiffe://example.org/ns/default/sa/web"),
            ("peer", "spiffe://example.org/ns/default/sa/db"),
            ("source", "10.0.0.1:50000"),
            ("destination", "10.0.0.2:80"),
            ("path", "relay"),
            ("reason", "peer-enrolled"),
            ("end", "closed"),
            ("cipher", "TLS13_AES_128_GCM_SHA256"),
            ("local_serial", "0b"),
            ("peer_serial", "0a"),
            ("offload", "relay-cheaper"),
        ];
        for (field, value) in expected {
            assert_eq!(events[0][field], value, "{field}");
        }
        assert_eq!(events[0]["to_peer"], 5);
        let text = metrics.render().unwrap();
        for line in [
            "enforcer_connections_total{direction=\"outbound\",path=\"relay\",reason=\"peer-enrolled\",\
             end=\"closed\"} 1",
            "enforcer_connections_open 0",
            "enforcer_handshake_seconds_count{direction=\"outbound\"} 1",
            "enforcer_bytes_total{direction=\"to_peer\"} 5",
            "enforcer_bytes_total{direction=\"from_peer\"} 0",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} not in:\n{text}");
        }
    }

    #[test]
    fn a_lost_connection_is_recorded_with_why_it_was_lost() {
        let connections = Connections::new(unconnected());
        let events = logged(|| drop(connections.open(opening())));
        assert_eq!(events.len(), 1);
        assert_eq!((&events[0]["path"], &events[0]["end"]), (&"refused".into(), &"agent-stopped".into()));

        let events = logged(|| {
            let entry = connections.open(opening());
            entry.decided(Path::Plain, Reason::PermissiveUnknownSource);
            let task = move || {
                let _entry = entry;
                std::panic::panic_any("a bug");
            };
            assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(task)).is_err());
        });
        assert_eq!(events.len(), 1);
        assert_eq!(events[0]["reason"], "permissive-unknown-source");
        assert_eq!(events[0]["end"], "internal-error");
        assert!(connections.report().is_empty());
    }

    #[test]
    fn a_connection_that_was_never_opened_is_recorded_too() {
        let connections = Connections::new(unconnected());
        let events = logged(|| connections.refused(Direction::Inbound, Reason::NotRedirected));
        assert_eq!(events.len(), 1);
        assert_eq!((&events[0]["path"], &events[0]["end"]), (&"refused".into(), &"not-redirected".into()));
    }
}
