//! Counts, as OpenMetrics text.
//!
//! Connections are counted from their records, once, at their end. What other parts already know (the kernel's
//! refusals, the certificates in use) is asked for at each scrape and not stored again. Every label is a closed enum,
//! except identities and names, which are those of this node's workloads.

mod usage;

pub use usage::Usage;

use std::fmt;
use std::sync::Arc;

use enforcer_ebpf::{Missed, Reason};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric, text};
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::metrics::{MetricType, TypedMetric};
use prometheus_client::registry::{Registry, Unit};

use super::record::{Direction, Path, Record};
use crate::identity::Identity;
use crate::identity::acme::Names;

/// What is asked for at each scrape. The functions must be quick: a scrape waits for them.
pub struct Sources {
    /// How often the programs in the kernel have refused, by reason.
    pub refusals: Box<dyn Fn() -> Vec<(Reason, u64)> + Send + Sync>,
    /// What programs have missed on direct connections.
    pub missed: Box<dyn Fn() -> Vec<MissedBy> + Send + Sync>,
    /// What workloads have taken of what they may have.
    pub usage: Box<dyn Fn() -> Vec<Usage> + Send + Sync>,
    /// The certificates in use, each with the end of its validity in seconds since 1970.
    pub certificates: Box<dyn Fn() -> Vec<(Identity, i64)> + Send + Sync>,
}

/// A workload's name, what its programs have missed, and how often.
pub type MissedBy = (Arc<str>, Missed, u64);

/// The agent's metrics.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    connections: Family<Outcome, Counter>,
    open: Gauge,
    /// By direction.
    handshakes: [Histogram; 2],
    to_peer: Counter,
    from_peer: Counter,
    searches: Counter,
    restarts: Counter,
    workload_api: Family<Asked, Counter>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Outcome {
    direction: &'static str,
    path: &'static str,
    /// Why this path.
    reason: &'static str,
    /// Why it ended.
    end: &'static str,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Opened {
    direction: &'static str,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Carried {
    direction: &'static str,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Asked {
    answer: &'static str,
}

/// What a workload that asked for an identity of its own got.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Answer {
    /// Its certificate and key, once more with each renewal.
    Certificate,
    /// Whom to trust, once more with each change.
    Bundle,
    /// Nothing: it is no enrolled workload.
    NotEnrolled,
    /// Nothing: it does not say that it means the Workload API.
    NoHeader,
    /// Nothing: it, or all of them, ask too often at once.
    TooMany,
    /// Nothing: there is no valid certificate for it.
    NoCertificate,
    /// Nothing: it wants what is not offered.
    NotOffered,
}

impl Answer {
    /// As a label.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Certificate => "certificate",
            Self::Bundle => "bundle",
            Self::NotEnrolled => "not-enrolled",
            Self::NoHeader => "no-header",
            Self::TooMany => "too-many",
            Self::NoCertificate => "no-certificate",
            Self::NotOffered => "not-offered",
        }
    }
}

impl Metrics {
    /// All counts at zero.
    #[must_use]
    pub fn new(sources: Sources) -> Self {
        let mut metrics = Self {
            registry: Registry::with_prefix("enforcer"),
            connections: Family::default(),
            open: Gauge::default(),
            handshakes: [handshake_histogram(), handshake_histogram()],
            to_peer: Counter::default(),
            from_peer: Counter::default(),
            searches: Counter::default(),
            restarts: Counter::default(),
            workload_api: Family::default(),
        };
        metrics.register(sources);
        metrics
    }

    /// The same with what is known of the node's public names, if it has any.
    #[must_use]
    pub fn with_public_names(mut self, names: Option<&Names>) -> Self {
        if let Some(names) = names {
            self.registry.register_collector(Box::new(PublicNames(names.clone())));
        }
        self
    }

    fn register(&mut self, sources: Sources) {
        let registry = &mut self.registry;
        registry.register("build", "This agent", Info::new([("version", env!("CARGO_PKG_VERSION"))]));
        registry.register(
            "connections",
            "Connections that ended, by why they took their path and why they ended",
            self.connections.clone(),
        );
        registry.register("connections_open", "Connections open now", self.open.clone());
        let handshakes = Family::<Opened, Histogram, fn() -> Histogram>::new_with_constructor(handshake_histogram);
        registry.register_with_unit(
            "handshake",
            "Time from the first to the last byte of handshakes that succeeded",
            Unit::Seconds,
            handshakes.clone(),
        );
        let bytes = Family::<Carried, Counter>::default();
        registry.register("bytes", "Payload of connections that ended", bytes.clone());
        // Looked up once, and not at each end of a connection.
        self.handshakes = [Direction::Inbound, Direction::Outbound]
            .map(|direction| handshakes.get_or_create(&Opened { direction: direction.label() }).clone());
        self.to_peer = bytes.get_or_create(&Carried { direction: "to_peer" }).clone();
        self.from_peer = bytes.get_or_create(&Carried { direction: "from_peer" }).clone();
        registry.register(
            "descriptor_searches",
            "Sockets of direct connections that had to be searched for in /proc",
            self.searches.clone(),
        );
        registry.register(
            "call_restarts",
            "Threads that were inside a call on a socket when it got its keys, and were made to start it again",
            self.restarts.clone(),
        );
        registry.register(
            "workload_api_answers",
            "What workloads that asked for an identity of their own were answered",
            self.workload_api.clone(),
        );
        registry.register_collector(Box::new(sources));
    }

    /// A connection opened.
    pub(super) fn opened(&self) {
        self.open.inc();
    }

    /// A connection ended.
    pub(super) fn ended(&self, record: &Record<'_>) {
        let (path, reason) = record.decision();
        let direction = record.opening.direction.label();
        self.open.dec();
        let end = record.end.label();
        let outcome = Outcome { direction, path: path.label(), reason: reason.label(), end };
        self.connections.get_or_create(&outcome).inc();
        if let Some(handshake) = record.progress.handshake {
            self.handshakes[record.opening.direction as usize].observe(handshake.as_secs_f64());
        }
        self.to_peer.inc_by(record.to_peer);
        self.from_peer.inc_by(record.from_peer);
    }

    /// A connection was reset before it could be opened.
    pub(super) fn refused(&self, direction: Direction, reason: Reason) {
        let (path, reason) = (Path::Refused.label(), reason.label());
        let outcome = Outcome { direction: direction.label(), path, reason, end: reason };
        self.connections.get_or_create(&outcome).inc();
    }

    /// A socket was not where programs had seen it.
    pub fn searched(&self) {
        self.searches.inc();
    }

    /// A thread was made to start its call again.
    pub fn restarted(&self) {
        self.restarts.inc();
    }

    /// The Workload API has answered.
    pub fn answered(&self, answer: Answer) {
        self.workload_api.get_or_create(&Asked { answer: answer.label() }).inc();
    }

    /// Everything as OpenMetrics text 1.0.
    ///
    /// # Errors
    ///
    /// Never in practice: writing to a string does not fail.
    pub fn render(&self) -> Result<String, fmt::Error> {
        let mut out = String::new();
        text::encode(&mut out, &self.registry)?;
        Ok(out)
    }
}

/// From half a millisecond to the handshake deadline of five seconds.
fn handshake_histogram() -> Histogram {
    Histogram::new([0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0])
}

impl Collector for Sources {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let help = "Connections refused by the programs in the kernel";
        let mut family = encoder.encode_descriptor("kernel_refusals", help, None, MetricType::Counter)?;
        for (reason, count) in (self.refusals)() {
            let counter = ConstCounter::new(count);
            counter.encode(family.encode_family(&[("reason", reason.label())])?)?;
        }
        let help = "What programs wanted of TCP that a direct connection does not do; `enforcer status` says more";
        let mut family = encoder.encode_descriptor("missed_features", help, None, MetricType::Counter)?;
        for (workload, missed, count) in (self.missed)() {
            let labels = [("workload", &*workload), ("feature", missed.label())];
            ConstCounter::new(count).encode(family.encode_family(&labels)?)?;
        }
        usage::encode(&(self.usage)(), &mut encoder)?;
        let help = "When the certificate in use expires, in seconds since 1970";
        let kind = ConstGauge::<i64>::TYPE;
        let mut family = encoder.encode_descriptor("certificate_expiry", help, Some(&Unit::Seconds), kind)?;
        for (identity, expires) in (self.certificates)() {
            let gauge = ConstGauge::new(expires);
            gauge.encode(family.encode_family(&[("identity", identity.to_string())])?)?;
        }
        Ok(())
    }
}

/// Asked at each scrape too.
#[derive(Debug)]
struct PublicNames(Names);

impl Collector for PublicNames {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let all = self.0.all();
        let help = "When the certificate of a public name expires, in seconds since 1970";
        let kind = ConstGauge::<i64>::TYPE;
        let mut family = encoder.encode_descriptor("public_certificate_expiry", help, Some(&Unit::Seconds), kind)?;
        for (name, known) in &all {
            if let Some(held) = &known.held {
                let gauge = ConstGauge::new(held.not_after.unix_timestamp());
                gauge.encode(family.encode_family(&[("name", name.as_str())])?)?;
            }
        }
        let help = "Attempts to get a certificate for a public name that failed; `enforcer identity` says why";
        let mut family = encoder.encode_descriptor("public_certificate_failures", help, None, MetricType::Counter)?;
        for (name, known) in &all {
            ConstCounter::new(known.failures).encode(family.encode_family(&[("name", name.as_str())])?)?;
        }
        Ok(())
    }
}

impl fmt::Debug for Sources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sources").finish_non_exhaustive()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::sync::Arc;

    use super::*;

    /// Metrics without anything to ask.
    pub(crate) fn unconnected() -> Arc<Metrics> {
        Arc::new(Metrics::new(Sources {
            refusals: Box::new(Vec::new),
            missed: Box::new(Vec::new),
            usage: Box::new(Vec::new),
            certificates: Box::new(Vec::new),
        }))
    }

    #[test]
    fn asks_its_sources_at_each_scrape() {
        let identity: Identity = "spiffe://example.org/ns/default/sa/web".parse().unwrap();
        let metrics = Metrics::new(Sources {
            refusals: Box::new(|| vec![(Reason::AgentAway, 3), (Reason::MapFull, 0)]),
            missed: Box::new(|| vec![("web".into(), Missed::ZeroCopy, 2)]),
            usage: Box::new(|| {
                vec![Usage {
                    workload: "web".into(),
                    connections: 7,
                    held: 1,
                    shaking: 2,
                    waiting: 3,
                    relay_memory: 102_400,
                    refused: vec![("held", 4)],
                }]
            }),
            certificates: Box::new(move || vec![(identity.clone(), 1_900_000_000)]),
        });
        metrics.refused(Direction::Inbound, Reason::NotRedirected);
        let text = metrics.render().unwrap();
        for line in [
            concat!("enforcer_build_info{version=\"", env!("CARGO_PKG_VERSION"), "\"} 1"),
            "enforcer_kernel_refusals_total{reason=\"agent-away\"} 3",
            "enforcer_kernel_refusals_total{reason=\"map-full\"} 0",
            "enforcer_missed_features_total{workload=\"web\",feature=\"msg-zerocopy\"} 2",
            "enforcer_workload_connections{workload=\"web\"} 7",
            "enforcer_workload_held{workload=\"web\"} 1",
            "enforcer_workload_relay_memory_bytes{workload=\"web\"} 102400",
            "enforcer_workload_handshakes{workload=\"web\",state=\"waiting\"} 3",
            "enforcer_workload_refusals_total{workload=\"web\",limit=\"held\"} 4",
            "enforcer_certificate_expiry_seconds{identity=\"spiffe://example.org/ns/default/sa/web\"} 1900000000",
            "enforcer_connections_total{direction=\"inbound\",path=\"refused\",reason=\"not-redirected\",\
             end=\"not-redirected\"} 1",
            "enforcer_connections_open 0",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} not in:\n{text}");
        }
        assert!(text.ends_with("# EOF\n"));
    }

    #[test]
    fn no_family_is_described_twice() {
        let text = unconnected().render().unwrap();
        let mut types: Vec<_> = text.lines().filter(|line| line.starts_with("# TYPE")).collect();
        let described = types.len();
        types.sort_unstable();
        types.dedup();
        assert_eq!(types.len(), described);
    }
}
