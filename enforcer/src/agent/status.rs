//! What the agent tells about itself: asked for at each request, from those who know.

use std::sync::Arc;

use crate::connection::{Means, Workload};
use crate::control::snapshot::{Mode, Snapshot};
use crate::identity::store::Store;
use crate::kernel::bpf::Guard;
use crate::kernel::probe::Abilities;
use crate::observe::metrics::Sources;
use crate::observe::report::{CertificateReport, KernelReport, StatusReport, WorkloadReport};

/// What the metrics ask for at each scrape.
pub(super) fn sources(store: &Arc<Store>, guard: &Guard) -> Sources {
    let store = Arc::clone(store);
    let expiries = move || {
        let current = store.current();
        current.iter().map(|held| (held.identity.clone(), held.not_after.unix_timestamp())).collect()
    };
    Sources { refusals: Box::new(guard.maps.refusals()), certificates: Box::new(expiries) }
}

/// A function that reports the agent's state.
pub(super) fn status(
    snapshot: Arc<Snapshot>,
    workloads: Vec<Arc<Workload>>,
    store: Arc<Store>,
    abilities: Abilities,
) -> Box<dyn Fn() -> StatusReport + Send + Sync> {
    Box::new(move || StatusReport {
        node: snapshot.node().name.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        kernel: KernelReport::from(&abilities),
        workloads: workloads.iter().map(|workload| report(workload, &store)).collect(),
    })
}

fn report(workload: &Workload, store: &Store) -> WorkloadReport {
    let mode = match workload.mode {
        Mode::Strict => "strict",
        Mode::Permissive => "permissive",
    };
    let held = store.get(&workload.identity).ok();
    WorkloadReport {
        name: workload.name.to_string(),
        identity: workload.identity.to_string(),
        mode: mode.to_owned(),
        path: match workload.means() {
            Means::Direct => "direct",
            Means::Relay(reason) => reason.label(),
        }
        .to_owned(),
        offload: workload.offload.label().to_owned(),
        offload_explanation: workload.offload.explanation().to_owned(),
        certificate: held
            .map(|held| CertificateReport { serial: held.serial.clone(), expires: held.not_after.unix_timestamp() }),
    }
}
