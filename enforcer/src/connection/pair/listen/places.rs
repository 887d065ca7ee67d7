//! The places that accepted sessions take, so that no peer has more of them than is good for all.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio_util::sync::CancellationToken;

use crate::connection::pair::Pair;
use crate::identity::Identity;

/// Sessions of one pair from one address: the current one, and those that were renewed while connections under them
/// go on, which a certificate's hour ends.
const FROM_ONE_AGENT: usize = 8;
/// Sessions of one remote identity, which may be on many nodes and talk to several workloads of this one.
const OF_ONE_IDENTITY: usize = 1024;

/// Who has a place.
#[derive(Clone, Default)]
pub(in super::super) struct Places(Arc<Mutex<HashMap<Identity, VecDeque<Taken>>>>);

struct Taken {
    local: Identity,
    address: IpAddr,
    unwanted: CancellationToken,
}

/// A place. It is free again when this is dropped.
pub(super) struct Place {
    places: Places,
    remote: Identity,
    unwanted: CancellationToken,
}

impl Places {
    /// Takes a place. If there is none, the oldest session that is in the way becomes unwanted. All do with `stop`.
    pub(super) fn take(&self, pair: &Pair, address: IpAddr, stop: &CancellationToken) -> Place {
        let unwanted = stop.child_token();
        let taken = Taken { local: pair.local.clone(), address, unwanted: unwanted.clone() };
        let mut places = self.lock();
        let sessions = places.entry(pair.remote.clone()).or_default();
        let same = |other: &Taken| other.address == address && other.local == pair.local;
        let oldest = if sessions.iter().filter(|other| same(other)).count() >= FROM_ONE_AGENT {
            sessions.iter().position(same)
        } else {
            (sessions.len() >= OF_ONE_IDENTITY).then_some(0)
        };
        if let Some(given_up) = oldest.and_then(|position| sessions.remove(position)) {
            given_up.unwanted.cancel();
        }
        sessions.push_back(taken);
        Place { places: self.clone(), remote: pair.remote.clone(), unwanted }
    }

    /// What it protects stays whole when a holder panics: every change is one insert or removal.
    fn lock(&self) -> MutexGuard<'_, HashMap<Identity, VecDeque<Taken>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place {
    /// Cancelled when the session must go.
    pub(super) fn unwanted(&self) -> &CancellationToken {
        &self.unwanted
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut places = self.places.lock();
        let Some(sessions) = places.get_mut(&self.remote) else { return };
        // Cancelling says which it is, and nobody listens to it any more.
        self.unwanted.cancel();
        sessions.retain(|taken| !taken.unwanted.is_cancelled());
        if sessions.is_empty() {
            places.remove(&self.remote);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(local: &str, remote: &str) -> Pair {
        let identity = |name| format!("spiffe://example.org/{name}").parse().unwrap();
        Pair { local: identity(local), remote: identity(remote) }
    }

    #[test]
    fn one_agent_has_few_places_and_loses_the_oldest() {
        let (places, stop) = (Places::default(), CancellationToken::new());
        let [here, there] = ["10.0.0.1", "10.0.0.2"].map(|address| address.parse().unwrap());
        let other_agent = places.take(&pair("web", "db"), there, &stop);
        let other_workload = places.take(&pair("job", "db"), here, &stop);
        let mut taken: Vec<_> = (0..FROM_ONE_AGENT).map(|_| places.take(&pair("web", "db"), here, &stop)).collect();
        assert!(taken.iter().all(|place| !place.unwanted().is_cancelled()));
        taken.push(places.take(&pair("web", "db"), here, &stop));
        let gone: Vec<_> = taken.iter().map(|place| place.unwanted().is_cancelled()).collect();
        assert_eq!(gone.iter().position(|gone| *gone), Some(0));
        assert_eq!(gone.iter().filter(|gone| **gone).count(), 1);
        assert!(!other_agent.unwanted().is_cancelled() && !other_workload.unwanted().is_cancelled());
        stop.cancel();
        assert!(other_agent.unwanted().is_cancelled());
        drop((taken, other_agent, other_workload));
        assert!(places.lock().is_empty());
    }

    #[test]
    fn one_identity_has_many_places_and_loses_the_oldest() {
        let (places, stop) = (Places::default(), CancellationToken::new());
        let address = |host: usize| IpAddr::from(u32::try_from(host).unwrap().to_be_bytes());
        let taken: Vec<_> =
            (0..=OF_ONE_IDENTITY).map(|host| places.take(&pair("web", "db"), address(host), &stop)).collect();
        let other = places.take(&pair("web", "cache"), address(0), &stop);
        let gone = taken.iter().filter(|place| place.unwanted().is_cancelled()).count();
        assert_eq!((gone, taken[0].unwanted().is_cancelled(), other.unwanted().is_cancelled()), (1, true, false));
        drop(taken);
        assert_eq!(places.lock().len(), 1);
    }
}
