//! The relay: standard mutual TLS in the connection itself, the agent in the middle carrying the bytes.
//!
//! `outbound` connects to the peer and then shakes hands; `inbound` shakes hands and then connects to the
//! application, so that nobody unknown reaches it; `public` does the same with clients who call a public name. All shake
//! hands in `handshake` (reading through `records`), or get their keys from a pair session where the other end may be an
//! application's own socket (`keyed`), decide in `offload` where the records are made, and carry bytes in `copy`. Every socket here closes with RST unless both sides have ended
//! in order: an error, a deadline, a dropped task and a killed agent all look like what they are.

mod copy;
mod handshake;
pub(super) mod inbound;
mod keyed;
mod offload;
pub(super) mod outbound;
pub(super) mod public;
mod records;
#[cfg(fuzzing)]
pub(crate) use records::fuzz::records as fuzz_records;

use std::io;

use enforcer_ebpf::Reason;
use tokio::net::TcpStream;

use self::copy::{Carried, Failure};
use self::offload::{Ended, Session};
use crate::identity::reason_of;
use crate::kernel::socket::close_in_order;
use crate::observe::events::Entry;

/// Carries bytes between the application and an authenticated peer.
async fn carry_session(mut application: TcpStream, mut session: Session, record: &Entry) -> Reason {
    match copy::both_ways(&mut application, &mut session, carried(record)).await {
        Ok(()) => {
            close_in_order(&application);
            close_in_order(session.stream());
            Reason::Closed
        }
        Err(failure) => ended_by(&failure),
    }
}

/// Carries bytes between the application and a peer that the mode lets speak in the clear.
async fn carry_plain(mut application: TcpStream, mut peer: TcpStream, record: &Entry) -> Reason {
    match copy::both_ways(&mut application, &mut peer, carried(record)).await {
        Ok(()) => {
            close_in_order(&application);
            close_in_order(&peer);
            Reason::Closed
        }
        Err(failure) => ended_by(&failure),
    }
}

fn carried(record: &Entry) -> Carried<'_> {
    let counters = record.counters();
    Carried { to_peer: &counters.to_peer, from_peer: &counters.from_peer }
}

fn ended_by(failure: &Failure) -> Reason {
    match failure {
        Failure::Application(_reset_or_gone) => Reason::ApplicationReset,
        Failure::Peer(error) => ended_by_peer(error),
    }
}

fn ended_by_peer(error: &io::Error) -> Reason {
    let inner = error.get_ref();
    if let Some(ended) = inner.and_then(|inner| inner.downcast_ref::<Ended>()) {
        return match ended {
            Ended::RekeyUnsupported => Reason::RekeyUnsupported,
            Ended::Alert(_) => Reason::PeerRefused,
            Ended::UnexpectedRecord => Reason::PeerProtocolError,
        };
    }
    if let Some(error) = inner.and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
        return match reason_of(error) {
            // After the handshake a record that does not parse is no longer "not TLS".
            Reason::PeerNotTls => Reason::PeerProtocolError,
            reason => reason,
        };
    }
    match (error.kind(), error.raw_os_error()) {
        (io::ErrorKind::UnexpectedEof, _) => Reason::Truncated,
        // From the kernel's record layer: a record that does not authenticate, or is none.
        (_, Some(libc::EBADMSG | libc::EINVAL | libc::EMSGSIZE)) => Reason::PeerProtocolError,
        _ => Reason::PeerReset,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_connection_has_its_reason() {
        let peer = |error: io::Error| ended_by(&Failure::Peer(error));
        assert_eq!(peer(io::ErrorKind::UnexpectedEof.into()), Reason::Truncated);
        assert_eq!(peer(io::ErrorKind::ConnectionReset.into()), Reason::PeerReset);
        assert_eq!(peer(io::Error::from_raw_os_error(libc::EBADMSG)), Reason::PeerProtocolError);
        assert_eq!(peer(Ended::RekeyUnsupported.into()), Reason::RekeyUnsupported);
        assert_eq!(peer(Ended::Alert(40).into()), Reason::PeerRefused);
        let broken = Failure::Application(io::ErrorKind::BrokenPipe.into());
        assert_eq!(ended_by(&broken), Reason::ApplicationReset);
    }
}
