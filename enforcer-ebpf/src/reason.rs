//! Why a connection took its path, was refused, or ended. Numbered once, here; the kernel's counters, the log, the
//! metrics and `enforcer status` all use these numbers and labels.

use core::fmt;

macro_rules! reasons {
    ($($(#[doc = $doc:literal])+ $name:ident = $number:literal, $label:literal;)+) => {
        /// A numbered reason. Numbers are never used again for something else.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u32)]
        pub enum Reason {
            $($(#[doc = $doc])+ $name = $number,)+
        }

        impl Reason {
            /// Every reason, in the order of the numbers.
            pub const ALL: &'static [Self] = &[$(Self::$name,)+];

            /// The label: kebab case, as in logs and metrics.
            pub const fn label(self) -> &'static str {
                match self {
                    $(Self::$name => $label,)+
                }
            }
        }

        impl TryFrom<u32> for Reason {
            type Error = UnknownReason;

            fn try_from(number: u32) -> Result<Self, UnknownReason> {
                match number {
                    $($number => Ok(Self::$name),)+
                    _ => Err(UnknownReason(number)),
                }
            }
        }
    };
}

reasons! {
    /// Both ends are enrolled: mutual TLS.
    PeerEnrolled = 1, "peer-enrolled";
    /// The peer is registered as speaking plaintext and the mode is permissive: passed in the clear.
    PermissivePlaintextPeer = 2, "permissive-plaintext-peer";
    /// The source is not registered and the mode is permissive: passed in the clear.
    PermissiveUnknownSource = 3, "permissive-unknown-source";

    /// Kernel: the destination is not registered and the mode is permissive: let pass.
    PermissiveUnknownDestination = 14, "permissive-unknown-destination";
    /// Kernel: let pass, because only rules under audit would refuse it.
    EgressAudited = 15, "egress-audited";

    /// The destination is in the workload's own namespace: it passed in the clear and never left the host.
    SameNamespace = 4, "same-namespace";

    /// Relayed, because the workload's policy says so.
    RelayWanted = 5, "relay-wanted";
    /// Relayed, because this kernel cannot do direct connections.
    KernelUnable = 6, "kernel-unable";
    /// Relayed, because the workload is in the host's network namespace, whose sockets cannot be gated.
    HostNamespace = 7, "host-namespace";
    /// Relayed, because the registry names no agent for the peer.
    PeerWithoutAgent = 8, "peer-without-agent";
    /// Relayed, because the peer speaks mutual TLS without an agent.
    PeerForeign = 9, "peer-foreign";
    /// Relayed, because this kernel may drop the end of what is sent without blocking on a direct connection.
    KernelLosesTheEnd = 10, "kernel-loses-the-end";
    /// Relayed, because a program of the workload has closed a direct connection after MSG_MORE, which loses data.
    ProgramLosesTheEnd = 11, "program-loses-the-end";

    /// Carried under a public name: TLS with a certificate that everybody trusts, and a client that proves nothing.
    PublicName = 12, "public-name";
    /// An authority looked whether this node has a public name, and was shown that it has.
    AcmeChallenge = 13, "acme-challenge";

    /// Kernel: no enrolled workload belongs to the calling cgroup.
    WorkloadUnknown = 16, "workload-unknown";
    /// Kernel: the agent is not listening in the workload's namespace.
    AgentAway = 17, "agent-away";
    /// Kernel: a map that must hold the connection is full.
    MapFull = 18, "map-full";

    /// Kernel: neither registered nor let pass by a rule in `outbound.plaintext`, or a protocol that we do not encrypt.
    EgressRefused = 22, "egress-refused";

    /// Kernel: let pass, because a rule in `outbound.plaintext` says so. Not counted.
    PlaintextAllowed = 23, "plaintext-allowed";

    /// Kernel: payload or an end of data met a held socket, and did not pass.
    HeldPayload = 19, "held-payload";
    /// Kernel: the first payload of a direct connection was no TLS record; it did not leave, and the connection ended.
    PlaintextStopped = 21, "plaintext-stopped";
    /// Kernel: the ring buffer is full; the agent will find the connection in the hold table.
    EventLost = 20, "event-lost";

    /// The peer is registered as speaking plaintext and the mode is strict.
    StrictPlaintextPeer = 32, "strict-plaintext-peer";
    /// The source is not registered and the mode is strict.
    StrictUnknownSource = 33, "strict-unknown-source";
    /// Somebody connected to the agent's listener directly; no program sent the connection there.
    NotRedirected = 34, "not-redirected";
    /// The workload has as many connections as it may have.
    TooManyConnections = 35, "too-many-connections";
    /// The agent holds no valid certificate for the workload.
    NoCertificate = 36, "no-certificate";
    /// No workload is registered for the port on which the connection arrived.
    PortUnknown = 37, "port-unknown";
    /// The destination was registered when the program looked, and is not any more.
    DestinationUnknown = 38, "destination-unknown";

    /// The workload's policy wants direct connections only, and this one cannot be.
    DirectImpossible = 39, "direct-impossible";
    /// The identity is longer than the table of direct connections has room for.
    IdentityTooLong = 40, "identity-too-long";

    /// A public name was called for which there is no valid certificate, or no proof that somebody wants.
    NoPublicCertificate = 41, "no-public-certificate";
    /// A rule of the workload's policies denies it; the record names the rule.
    PolicyDenied = 43, "policy-denied";
    /// The workload's policies have rules that allow, and none allows this; the record names their list.
    PolicyNotAllowed = 44, "policy-not-allowed";

    /// The handshake, or the wait for its turn, took longer than its deadline.
    HandshakeTimeout = 48, "handshake-timeout";
    /// The peer answered with something that is not TLS 1.3.
    PeerNotTls = 49, "peer-not-tls";
    /// The peer's certificate does not verify against the trust bundle.
    PeerCertificateInvalid = 50, "peer-certificate-invalid";
    /// The peer's certificate is valid but names another identity than the registry expects.
    PeerIdentityMismatch = 51, "peer-identity-mismatch";
    /// The peer refused us with a TLS alert.
    PeerRefused = 52, "peer-refused";
    /// The peer shares no protocol version, cipher suite, key exchange or application protocol with us.
    PeerIncompatible = 53, "peer-incompatible";
    /// The peer closed or reset the connection during the handshake.
    PeerClosedInHandshake = 54, "peer-closed-in-handshake";
    /// The agent of the peer's node could not be reached: refused, unreachable or timed out.
    PeerAgentUnreachable = 55, "peer-agent-unreachable";

    /// The same connection was offered twice.
    OfferRepeated = 56, "offer-repeated";
    /// The connection ended before it had its keys.
    EndedBeforeKeys = 57, "ended-before-keys";
    /// Data was on its way before the connection had its keys.
    EarlyData = 58, "early-data";
    /// Nobody could be found who has the connection's socket.
    DescriptorUnknown = 59, "descriptor-unknown";
    /// A thread that waits in a call on the socket is being traced by somebody else.
    ProcessTraced = 60, "process-traced";
    /// More threads wait in calls on the socket than can be followed.
    TooManyWaiters = 61, "too-many-waiters";

    /// The destination could not be reached: refused, unreachable or timed out.
    DestinationUnreachable = 64, "destination-unreachable";

    /// The peer ended the stream without close_notify (RFC 8446 6.1): the data may be cut short.
    Truncated = 80, "truncated";
    /// The peer reset the connection.
    PeerReset = 81, "peer-reset";
    /// The application reset the connection.
    ApplicationReset = 82, "application-reset";
    /// The peer sent a record or an alert that ends the session.
    PeerProtocolError = 83, "peer-protocol-error";
    /// The record layer is in the kernel and the session needs a rekey that this kernel cannot do.
    RekeyUnsupported = 84, "rekey-unsupported";
    /// The agent stopped before the connection ended.
    AgentStopped = 85, "agent-stopped";
    /// Both sides closed in order.
    Closed = 86, "closed";
    /// The certificate of one end has run out, and there is no new one.
    CertificateExpired = 87, "certificate-expired";
    /// The registry or the policy does not allow it any more.
    PolicyChanged = 88, "policy-changed";
    /// The application announced more with MSG_MORE and closed: the last of what it wrote was dropped by kernel TLS.
    OpenRecordLost = 89, "open-record-lost";
    /// The certificate of one end is revoked.
    CertificateRevoked = 90, "certificate-revoked";
    /// A system call failed on our side.
    Internal = 95, "internal-error";
}

/// A number that is no reason: an older or newer object wrote the map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnknownReason(pub u32);

impl fmt::Display for UnknownReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "unknown reason number {}", self.0)
    }
}

impl core::error::Error for UnknownReason {}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.label())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_labels_are_unique_and_round_trip() {
        for (index, reason) in Reason::ALL.iter().enumerate() {
            assert_eq!(Reason::try_from(*reason as u32), Ok(*reason));
            assert!(Reason::ALL[..index].iter().all(|other| other.label() != reason.label()));
        }
        assert_eq!(Reason::try_from(0), Err(UnknownReason(0)));
    }
}
