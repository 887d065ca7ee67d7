//! One enrolled workload with what belongs to it in the kernel.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

use crate::agent::Error;
use crate::connection::Workload;
use crate::control::snapshot;
use crate::kernel::cgroup::{Cgroup, Whereabouts};
use crate::kernel::netns::Id;
use crate::observe::events::Offloaded;

/// A workload, as the file has it and as it was found here.
#[derive(Clone)]
pub(super) struct Member {
    pub(super) wanted: snapshot::Workload,
    pub(super) workload: Arc<Workload>,
    pub(super) cgroup: Arc<Cgroup>,
    /// It may have direct connections, or may have had some since it was enrolled.
    pub(super) has_direct: bool,
}

impl Member {
    /// Whether it is the workload that the file has now, in the same places. Who has made its cgroup or its namespace anew
    /// under the old name has made another.
    pub(super) fn is(&self, wanted: &snapshot::Workload) -> bool {
        let Self { wanted: was, workload, cgroup, .. } = self;
        let is_there = || {
            let found = fs::metadata(&wanted.cgroup).is_ok_and(|found| found.ino() == cgroup.id());
            found && Id::of_file(&wanted.network.path()).is_ok_and(|found| found == workload.home.id)
        };
        (&was.identity, &was.cgroup, &was.network, &was.ports)
            == (&wanted.identity, &wanted.cgroup, &wanted.network, &wanted.ports)
            && is_there()
    }

    /// The same, with what may be another thing while it is enrolled.
    pub(super) fn with(&self, wanted: &snapshot::Workload, offload: Offloaded) -> Self {
        let is_same = self.workload.offload == offload;
        let workload = if is_same { Arc::clone(&self.workload) } else { Arc::new(self.workload.with_offload(offload)) };
        Self { wanted: wanted.clone(), workload, cgroup: Arc::clone(&self.cgroup), has_direct: self.has_direct }
    }
}

/// Where this process is.
pub(super) fn whereabouts() -> Result<Whereabouts, Error> {
    let failed = |cause| Error::Path { operation: "look for cgroup of", path: "/proc/self".into(), cause };
    Whereabouts::of_this_process().map_err(failed)
}

/// Opens a cgroup that is to be guarded.
pub(super) fn open_cgroup(path: &Path, here: &Whereabouts) -> Result<Cgroup, Error> {
    let failed = |cause| Error::Path { operation: "open cgroup", path: path.to_owned(), cause };
    let cgroup = Cgroup::open(path).map_err(failed)?;
    if cgroup.contains(here).map_err(failed)? {
        return Err(Error::OwnCgroup { cgroup: path.to_owned() });
    }
    Ok(cgroup)
}
