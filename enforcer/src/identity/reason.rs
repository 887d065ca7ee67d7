//! From a failed handshake to its numbered reason: whose fault it was.

use std::io;

use enforcer_ebpf::Reason;
use rustls::{AlertDescription, CertificateError, Error};

use super::verify::Rejection;

/// The reason for a TLS error.
#[must_use]
pub fn reason_of(error: &Error) -> Reason {
    match error {
        Error::InvalidCertificate(CertificateError::Other(other)) => match other.0.downcast_ref() {
            Some(Rejection::Identity(_)) => Reason::PeerIdentityMismatch,
            _ => Reason::PeerCertificateInvalid,
        },
        Error::InvalidCertificate(_) | Error::NoCertificatesPresented => Reason::PeerCertificateInvalid,
        Error::AlertReceived(AlertDescription::ProtocolVersion | AlertDescription::NoApplicationProtocol) => {
            Reason::PeerIncompatible
        }
        Error::AlertReceived(_) => Reason::PeerRefused,
        Error::PeerIncompatible(_) | Error::NoApplicationProtocol => Reason::PeerIncompatible,
        Error::InvalidMessage(_) => Reason::PeerNotTls,
        Error::InappropriateMessage { .. }
        | Error::InappropriateHandshakeMessage { .. }
        | Error::PeerMisbehaved(_)
        | Error::DecryptError
        | Error::PeerSentOversizedRecord => Reason::PeerProtocolError,
        _ => Reason::Internal,
    }
}

/// The reason for a handshake that ended with an I/O error, which may carry a TLS error.
#[must_use]
pub fn reason_of_io(error: &io::Error) -> Reason {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()) {
        Some(error) => reason_of(error),
        // Nothing but the peer's going away ends a read or a write on its socket.
        None => Reason::PeerClosedInHandshake,
    }
}

#[cfg(test)]
mod tests {
    use rustls::InvalidMessage;

    use super::*;

    #[test]
    fn every_failure_has_its_reason() {
        let cases = [
            (Error::InvalidCertificate(CertificateError::Expired), Reason::PeerCertificateInvalid),
            (Error::NoCertificatesPresented, Reason::PeerCertificateInvalid),
            (Error::AlertReceived(AlertDescription::UnknownCA), Reason::PeerRefused),
            (Error::AlertReceived(AlertDescription::ProtocolVersion), Reason::PeerIncompatible),
            (Error::InvalidMessage(InvalidMessage::InvalidContentType), Reason::PeerNotTls),
            (Error::DecryptError, Reason::PeerProtocolError),
        ];
        for (error, reason) in cases {
            assert_eq!(reason_of(&error), reason, "{error}");
            assert_eq!(reason_of_io(&io::Error::new(io::ErrorKind::InvalidData, error)), reason);
        }
        assert_eq!(reason_of_io(&io::ErrorKind::UnexpectedEof.into()), Reason::PeerClosedInHandshake);
    }
}
