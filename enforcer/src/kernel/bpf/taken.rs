//! Which connections the programs take, and how: the workloads and their ports.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use aya::Ebpf;
use aya::maps::{HashMap, MapData};
use enforcer_ebpf::{PORT_RELAY, PortKey, WorkloadValue};

use super::Error;
use super::maps::{failed, retain, take};

/// The tables. Clones are the same maps.
#[derive(Clone)]
pub struct Taken(Arc<Mutex<Tables>>);

struct Tables {
    workloads: HashMap<MapData, u64, WorkloadValue>,
    ports: HashMap<MapData, PortKey, u32>,
}

impl Taken {
    pub(super) fn take(programs: &mut Ebpf) -> Result<Self, Error> {
        let tables = Tables { workloads: take(programs, "WORKLOADS")?, ports: take(programs, "PORTS")? };
        Ok(Self(Arc::new(Mutex::new(tables))))
    }

    /// Makes the enrolled workloads exactly these, by the ids of their cgroups.
    ///
    /// # Errors
    ///
    /// [`Error::Map`], when the map is full.
    pub fn set_workloads(&self, wanted: &std::collections::HashMap<u64, WorkloadValue>) -> Result<(), Error> {
        let workloads = &mut self.locked().workloads;
        for (cgroup, value) in wanted {
            workloads.insert(cgroup, value, 0).map_err(|cause| failed("insert", "WORKLOADS", cause))?;
        }
        retain("WORKLOADS", workloads, |cgroup| wanted.contains_key(cgroup))
    }

    /// Makes the ports on which connections are taken exactly these, each with `PORT_RELAY` or `PORT_DIRECT`.
    ///
    /// # Errors
    ///
    /// [`Error::Map`], when the map is full.
    pub fn set_ports(&self, wanted: &std::collections::HashMap<PortKey, u32>) -> Result<(), Error> {
        let ports = &mut self.locked().ports;
        for (port, kind) in wanted {
            ports.insert(port, kind, 0).map_err(|cause| failed("insert", "PORTS", cause))?;
        }
        retain("PORTS", ports, |port| wanted.contains_key(port))
    }

    /// Whether a program of this workload has lost data on a direct connection, as this agent or one before has seen.
    #[must_use]
    pub fn loses_the_end(&self, cgroup: u64) -> bool {
        self.locked().workloads.get(&cgroup, 0).is_ok_and(|value| value.loses_the_end != 0)
    }

    /// From now on the connections of this workload to and from these ports are relayed, because one of its programs has
    /// lost data. Those that have begun go on as they are.
    ///
    /// # Errors
    ///
    /// [`Error::Map`].
    pub fn relay(&self, cgroup: u64, ports: &[PortKey]) -> Result<(), Error> {
        let Tables { workloads, ports: table } = &mut *self.locked();
        let before = workloads.get(&cgroup, 0).map_err(|cause| failed("read", "WORKLOADS", cause))?;
        let value = WorkloadValue { direct: 0, loses_the_end: 1, ..before };
        workloads.insert(cgroup, value, 0).map_err(|cause| failed("write", "WORKLOADS", cause))?;
        for port in ports {
            table.insert(port, PORT_RELAY, 0).map_err(|cause| failed("write", "PORTS", cause))?;
        }
        Ok(())
    }

    /// From now on the workload reaches what is outside the mesh on the terms with this number, and `others` becomes of
    /// other protocols.
    ///
    /// # Errors
    ///
    /// [`Error::Map`].
    pub fn set_terms(&self, cgroup: u64, number: u32, others: u8) -> Result<(), Error> {
        let workloads = &mut self.locked().workloads;
        let before = workloads.get(&cgroup, 0).map_err(|cause| failed("read", "WORKLOADS", cause))?;
        let value = WorkloadValue { egress: number, others: others.into(), ..before };
        workloads.insert(cgroup, value, 0).map_err(|cause| failed("write", "WORKLOADS", cause))
    }

    /// The numbers of all terms that workloads have.
    ///
    /// # Errors
    ///
    /// [`Error::Map`].
    pub fn terms(&self) -> Result<HashSet<u32>, Error> {
        let tables = self.locked();
        let numbers = tables.workloads.iter().map(|entry| entry.map(|(_, value)| value.egress));
        numbers.collect::<Result<_, _>>().map_err(|cause| failed("list", "WORKLOADS", cause))
    }

    fn locked(&self) -> MutexGuard<'_, Tables> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
