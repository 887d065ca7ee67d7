//! The maps of the direct path as the agent uses them: what is held, the gates of sockets, and what is open.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::sync::{Arc, Mutex, PoisonError};

use aya::Ebpf;
use aya::maps::{HashMap, MapData, PerCpuArray, SkStorage};
use enforcer_ebpf::{Callers, Gate, Held, Live, Reason};

use super::Error;
use super::maps::{failed, take};

/// Flag of BPF_MAP_UPDATE_ELEM in linux/bpf.h: only what is there.
const BPF_EXIST: u64 = 2;
/// And: where it is, and not in its place.
const BPF_F_LOCK: u64 = 4;

/// The tables and the sockets' own storage. Clones are the same maps.
#[derive(Clone)]
pub struct Holds(Arc<Tables>);

struct Tables {
    held: Mutex<HashMap<MapData, u64, Held>>,
    live: Mutex<HashMap<MapData, u64, Live>>,
    gates: Mutex<SkStorage<MapData, Gate>>,
    callers: SkStorage<MapData, Callers>,
    refusals: Arc<PerCpuArray<MapData, u64>>,
}

impl Holds {
    pub(super) fn take(programs: &mut Ebpf, refusals: Arc<PerCpuArray<MapData, u64>>) -> Result<Self, Error> {
        Ok(Self(Arc::new(Tables {
            refusals,
            held: Mutex::new(take(programs, "HELD")?),
            live: Mutex::new(take(programs, "LIVE")?),
            gates: Mutex::new(take(programs, "GATES")?),
            callers: take(programs, "CALLERS")?,
        })))
    }

    /// Events for which the ring buffer had no room, until now.
    #[must_use]
    pub fn lost_events(&self) -> u64 {
        self.0.refusals.get(&(Reason::EventLost as u32), 0).map_or(0, |counts| counts.iter().sum())
    }

    /// What is held now, by the cookies of the sockets.
    ///
    /// # Errors
    ///
    /// [`Error::Map`].
    pub fn held(&self) -> Result<Vec<(u64, Held)>, Error> {
        let held = self.0.held.lock().unwrap_or_else(PoisonError::into_inner);
        held.iter().collect::<Result<_, _>>().map_err(|cause| failed("list", "HELD", cause))
    }

    /// One held connection, as the programs know it now.
    #[must_use]
    pub fn held_one(&self, cookie: u64) -> Option<Held> {
        self.0.held.lock().unwrap_or_else(PoisonError::into_inner).get(&cookie, 0).ok()
    }

    /// One open connection.
    #[must_use]
    pub fn live_one(&self, cookie: u64) -> Option<Live> {
        self.0.live.lock().unwrap_or_else(PoisonError::into_inner).get(&cookie, 0).ok()
    }

    /// What is open now, by the cookies of the sockets.
    ///
    /// # Errors
    ///
    /// [`Error::Map`].
    pub fn live(&self) -> Result<Vec<(u64, Live)>, Error> {
        let live = self.0.live.lock().unwrap_or_else(PoisonError::into_inner);
        live.iter().collect::<Result<_, _>>().map_err(|cause| failed("list", "LIVE", cause))
    }

    /// Says how far a held connection has come, one of the `STAGE_` numbers. One that is gone stays gone.
    pub fn set_stage(&self, cookie: u64, held: &Held, stage: u32) {
        let mut table = self.0.held.lock().unwrap_or_else(PoisonError::into_inner);
        // Programs remove it when the socket is closed; what is left to say then has nobody to hear it.
        let _gone = table.insert(cookie, Held { stage, ..*held }, BPF_EXIST);
    }

    /// Takes a connection out of the hold table. False: programs have done so before, because it has ended.
    pub fn forget_held(&self, cookie: u64) -> bool {
        self.0.held.lock().unwrap_or_else(PoisonError::into_inner).remove(&cookie).is_ok()
    }

    /// Takes a connection out of the table of open ones.
    pub fn forget_live(&self, cookie: u64) {
        // Programs remove it too, when the socket is closed.
        let _gone = self.0.live.lock().unwrap_or_else(PoisonError::into_inner).remove(&cookie);
    }

    /// Writes a connection into the table of open ones. It stays in the hold table, until its gate is open.
    ///
    /// # Errors
    ///
    /// [`Error::Map`], when the table is full.
    pub fn goes_live(&self, cookie: u64, live: &Live) -> Result<(), Error> {
        let mut table = self.0.live.lock().unwrap_or_else(PoisonError::into_inner);
        table.insert(cookie, live, 0).map_err(|cause| failed("insert", "LIVE", cause))
    }

    /// Rewrites the entry of an open connection, if it is still open.
    pub fn stays_live(&self, cookie: u64, live: &Live) {
        // As in `set_stage`.
        let _gone = self.0.live.lock().unwrap_or_else(PoisonError::into_inner).insert(cookie, live, BPF_EXIST);
    }

    /// A socket's gate.
    #[must_use]
    pub fn gate(&self, socket: &impl AsFd) -> Option<Gate> {
        let gates = self.0.gates.lock().unwrap_or_else(PoisonError::into_inner);
        gates.get(&Raw(socket.as_fd()), BPF_F_LOCK).ok()
    }

    /// Overwrites a socket's gate.
    ///
    /// # Errors
    ///
    /// [`Error::Map`].
    pub fn set_gate(&self, socket: &impl AsFd, gate: Gate) -> Result<(), Error> {
        let mut gates = self.0.gates.lock().unwrap_or_else(PoisonError::into_inner);
        gates.insert(&Raw(socket.as_fd()), gate, BPF_F_LOCK).map_err(|cause| failed("write", "GATES", cause))
    }

    /// The threads that entered a call on the socket while it was held, and have not left it.
    #[must_use]
    pub fn callers(&self, socket: &impl AsFd) -> Option<Callers> {
        self.0.callers.get(&Raw(socket.as_fd()), 0).ok()
    }
}

/// What aya takes for a descriptor.
struct Raw<'a>(BorrowedFd<'a>);

impl AsRawFd for Raw<'_> {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}
