//! THE PATH OF A CONNECTION.
//!
//! The programs in the kernel hand every connection of an enrolled workload to one of the agent's listeners. From
//! there [`run`] is the path: learn what was wanted (`intercept`), decide by what is known before a byte is read
//! (`choose`), carry. Every connection gets one record, with the reason for its path and the reason for its end.
//! Nothing falls back to plaintext here: only [`choose`] can say `Plain`, and it never looks at the wire. The one
//! exception never leaves the host: a destination that turns out to be in the workload's own namespace.
//!
//! `pair` is what two agents say to each other: opening and accepting sessions, and the language in them. `direct` is the
//! path on which no agent carries anything. Each end has its own path: where one is direct and the other is not, the
//! relay gets its keys as an application's socket does.

mod choose;
pub mod direct;
mod intercept;
pub mod pair;
mod relay;
mod serve;
mod workload;

pub use choose::{Choice, Expected, Kernel, Means, Programs, Site, Wants, choose, means};
pub use intercept::Request;
pub use serve::{Listener, Path, Place, serve};
pub use workload::{Workload, place_records};

use std::sync::Arc;

use enforcer_ebpf::Reason;
use tokio::net::TcpStream;

use crate::observe::events::{Direction, Opening};

/// Takes one accepted connection from its start to its end.
async fn run(path: Arc<Path>, listener: Arc<Listener>, accepted: TcpStream) {
    let Some(request) = intercept::intercept(&path, &listener, &accepted) else { return };
    let choice = choose(listener.direction, request.workload.wants(), request.peer.as_ref());
    let record = path.connections.open(Opening {
        direction: listener.direction,
        workload: Arc::clone(&request.workload.name),
        local: request.workload.identity.clone(),
        source: request.source,
        destination: request.destination,
    });
    record.decided(choice.path(), choice.reason());
    let carry = async {
        let _place = request.workload.place()?;
        match (&choice, listener.direction) {
            (Choice::Refuse(reason), _) => Err(*reason),
            (_, Direction::Outbound) => {
                Ok(relay::outbound::carry(accepted, &request, (&choice, path.offers.as_deref()), &record).await)
            }
            (_, Direction::Inbound) => Ok(relay::inbound::carry(accepted, &request, (&choice, &path), &record).await),
        }
    };
    let ended = tokio::select! {
        biased;
        () = path.stop.cancelled() => Reason::AgentStopped,
        ended = carry => ended.unwrap_or_else(|reason| reason),
    };
    record.finish(ended);
}
