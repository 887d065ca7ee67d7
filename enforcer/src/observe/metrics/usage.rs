//! What each workload has taken of what it may have.

use std::fmt;
use std::sync::Arc;

use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::{MetricType, TypedMetric};
use prometheus_client::registry::Unit;

/// What a workload has taken of what it may have.
#[derive(Clone, Debug)]
pub struct Usage {
    /// Its name.
    pub workload: Arc<str>,
    /// Connections of both paths, open or on their way there.
    pub connections: u64,
    /// Sockets on the direct path that are not open yet.
    pub held: u64,
    /// Handshakes of relayed connections that are being done.
    pub shaking: u64,
    /// Those that wait for their turn.
    pub waiting: u64,
    /// Octets that relayed connections may take in the agent.
    pub relay_memory: u64,
    /// How often each limit has refused somebody.
    pub refused: Vec<(&'static str, u64)>,
}

/// What workloads have taken, and what was refused.
pub(super) fn encode(all: &[Usage], encoder: &mut DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
    type Read = fn(&Usage) -> u64;
    let gauges: [(_, _, _, Read); 3] = [
        ("workload_connections", "Connections, open or on their way there", None, |usage| usage.connections),
        ("workload_held", "Sockets on the direct path that are not open yet", None, |usage| usage.held),
        (
            "workload_relay_memory",
            "What relayed connections may take in the agent at most",
            Some(&Unit::Bytes),
            |usage| usage.relay_memory,
        ),
    ];
    for (name, help, unit, read) in gauges {
        let mut family = encoder.encode_descriptor(name, help, unit, ConstGauge::<u64>::TYPE)?;
        for usage in all {
            ConstGauge::new(read(usage)).encode(family.encode_family(&[("workload", &*usage.workload)])?)?;
        }
    }
    let help = "Handshakes of relayed connections that are being done, or wait for their turn";
    let mut family = encoder.encode_descriptor("workload_handshakes", help, None, ConstGauge::<u64>::TYPE)?;
    for usage in all {
        for (state, count) in [("running", usage.shaking), ("waiting", usage.waiting)] {
            let labels = [("workload", &*usage.workload), ("state", state)];
            ConstGauge::new(count).encode(family.encode_family(&labels)?)?;
        }
    }
    let help = "Connections refused because the workload had as much as it may have of this";
    let mut family = encoder.encode_descriptor("workload_refusals", help, None, MetricType::Counter)?;
    for usage in all {
        for (limit, count) in &usage.refused {
            let labels = [("workload", &*usage.workload), ("limit", *limit)];
            ConstCounter::new(*count).encode(family.encode_family(&labels)?)?;
        }
    }
    Ok(())
}
