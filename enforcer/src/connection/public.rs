//! Clients without an identity, who call a workload by a public name: browsers, curl, and the authority that looks who has
//! the name.
//!
//! A port on which a workload has public names may be called by anybody, so what a client wants is looked at before anything
//! else is done with it: its ClientHello is peeked at, and taken by nobody. If it calls one of the names, and is not an
//! agent's, the connection is public; everything else goes the way that it would go without this file. Where the
//! registry says that there is an agent nobody is looked at.
//!
//! Who is looked at costs a place among this many, and no memory; none of it is taken from the mesh.

use std::collections::HashSet;
use std::io;
use std::time::Duration;

use enforcer_ebpf::Reason;
use rustls::server::Acceptor;
use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::timeout;

use crate::control::snapshot::{self, Peer, Speaks};
use crate::identity::acme::Names;
use crate::identity::tls::{ACME, is_ours};
use crate::kernel::socket;

/// From the accept to the last octet of a ClientHello.
const DEADLINE: Duration = Duration::from_secs(5);
/// Public connections of a workload, with those that are still looked at.
const CONNECTIONS: usize = 8_192;
/// Handshakes in flight, as for the mesh.
const HANDSHAKES: usize = 32;
/// Header of a TLS record, and what a record of a handshake may have (RFC 8446 5.1). A longer ClientHello is nobody's.
const HEADER: usize = 5;
const LONGEST: usize = HEADER + (1 << 14);

/// What a workload offers to everybody.
#[derive(Debug)]
pub struct Public {
    names: HashSet<String>,
    ports: Vec<u16>,
    /// What clients are answered with.
    pub certificates: Names,
    /// Turns to shake hands.
    pub answering: Semaphore,
    places: Semaphore,
}

/// What a connection is meant for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Called {
    /// One of the workload's names.
    pub name: String,
    /// What is wanted of it.
    pub purpose: Purpose,
    /// Octets of the record with the ClientHello.
    pub hello: usize,
}

/// What is wanted of a public name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// The application.
    Application,
    /// The proof that this node has the name (RFC 8737).
    Proof,
}

impl Purpose {
    /// Why such a connection is carried.
    #[must_use]
    pub fn reason(self) -> Reason {
        match self {
            Self::Application => Reason::PublicName,
            Self::Proof => Reason::AcmeChallenge,
        }
    }
}

/// Whether what comes to this port from this peer may be public, where these ports are. A peer with an agent may not: it
/// proves an identity.
pub(super) fn may_be_called(ports: &[u16], port: u16, peer: Option<&Peer>) -> bool {
    let has_agent = matches!(peer.map(|peer| &peer.speaks), Some(Speaks::Enforcer(_)));
    ports.contains(&port) && !has_agent
}

impl Public {
    /// As it is wanted, with these certificates.
    #[must_use]
    pub fn new(wanted: &snapshot::Public, certificates: Names) -> Self {
        Self {
            names: wanted.names.iter().cloned().collect(),
            ports: wanted.ports.clone(),
            certificates,
            answering: Semaphore::new(HANDSHAKES),
            places: Semaphore::new(CONNECTIONS),
        }
    }

    /// Its names, in alphabetical order.
    #[must_use]
    pub fn names(&self) -> Vec<&str> {
        let mut names: Vec<_> = self.names.iter().map(String::as_str).collect();
        names.sort_unstable();
        names
    }

    /// See [`may_be_called`].
    #[must_use]
    pub fn may_be_called(&self, port: u16, peer: Option<&Peer>) -> bool {
        may_be_called(&self.ports, port, peer)
    }

    /// A place among the public connections, until it is dropped.
    ///
    /// # Errors
    ///
    /// [`Reason::TooManyConnections`].
    pub fn place(&self) -> Result<SemaphorePermit<'_>, Reason> {
        self.places.try_acquire().map_err(|_full| Reason::TooManyConnections)
    }

    /// Looks whom a client calls, and takes nothing. `None`: none of these names; or it has not said so in time.
    pub async fn called(&self, client: &TcpStream) -> Option<Called> {
        let looking = client.async_io(Interest::READABLE, || match peek(client)? {
            Look::Hello(hello) => Ok(self.judge(hello)),
            Look::Part => Err(io::ErrorKind::WouldBlock.into()),
            Look::Other => Ok(None),
        });
        timeout(DEADLINE, looking).await.ok()?.ok()?
    }

    fn judge(&self, Hello { name, protocols, octets }: Hello) -> Option<Called> {
        let name = name.filter(|name| self.names.contains(name))?;
        if protocols.iter().any(|protocol| is_ours(protocol)) {
            return None;
        }
        let asks_for_proof = protocols.iter().any(|protocol| protocol == ACME);
        let purpose = if asks_for_proof { Purpose::Proof } else { Purpose::Application };
        Some(Called { name, purpose, hello: octets })
    }
}

/// What is there of a connection's beginning.
enum Look {
    Hello(Hello),
    /// Not enough of it to say.
    Part,
    /// No ClientHello.
    Other,
}

struct Hello {
    name: Option<String>,
    protocols: Vec<Vec<u8>>,
    octets: usize,
}

/// Looks at what has come. `WouldBlock` makes tokio wait for more: it is told of each arrival, also behind what is there.
fn peek(client: &TcpStream) -> io::Result<Look> {
    let mut seen = [0; LONGEST];
    let count = socket::peek(client, &mut seen)?;
    Ok(read(&seen[..count]))
}

/// A whole ClientHello is in one record, unless somebody takes pains.
fn read(seen: &[u8]) -> Look {
    /// Content type of a handshake (RFC 8446 5.1).
    const HANDSHAKE: u8 = 22;
    let [content, _, _, high, low, ..] = *seen else {
        return if matches!(seen.first(), Some(&HANDSHAKE)) { Look::Part } else { Look::Other };
    };
    let octets = HEADER + usize::from(u16::from_be_bytes([high, low]));
    if content != HANDSHAKE || octets > LONGEST {
        return Look::Other;
    }
    let Some(mut record) = seen.get(..octets) else { return Look::Part };
    let mut acceptor = Acceptor::default();
    let accepted = acceptor.read_tls(&mut record).ok().and_then(|_read| acceptor.accept().ok().flatten());
    let Some(accepted) = accepted else { return Look::Other };
    let hello = accepted.client_hello();
    let name = hello.server_name().map(str::to_ascii_lowercase);
    let protocols = hello.alpn().map(|offered| offered.map(<[u8]>::to_vec).collect()).unwrap_or_default();
    Look::Hello(Hello { name, protocols, octets })
}

#[cfg(fuzzing)]
pub(crate) mod fuzz;

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rustls::pki_types::ServerName;
    use rustls::{ClientConfig, ClientConnection, RootCertStore};
    use tokio::io::AsyncWriteExt;
    use tokio::net::TcpListener;

    use super::*;
    use crate::identity::tls::crypto_provider;

    const NAME: &str = "www.example.org";

    fn public() -> Public {
        let wanted = snapshot::Public { names: vec![NAME.to_owned()], ports: vec![443] };
        Public::new(&wanted, Names::none())
    }

    /// What a client sends first.
    fn hello(name: Option<&str>, protocols: &[&str]) -> Vec<u8> {
        let builder = ClientConfig::builder_with_provider(crypto_provider());
        let builder = builder.with_protocol_versions(&[&rustls::version::TLS13]).unwrap();
        let mut config = builder.with_root_certificates(RootCertStore::empty()).with_no_client_auth();
        config.alpn_protocols = protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
        config.enable_sni = name.is_some();
        let server = ServerName::try_from(name.unwrap_or(NAME).to_owned()).unwrap();
        let mut octets = Vec::new();
        ClientConnection::new(Arc::new(config), server).unwrap().write_tls(&mut octets).unwrap();
        octets
    }

    fn judged(octets: &[u8]) -> Option<(String, Purpose)> {
        match read(octets) {
            Look::Hello(hello) => public().judge(hello).map(|called| (called.name, called.purpose)),
            Look::Part | Look::Other => None,
        }
    }

    #[test]
    fn only_a_listed_name_without_a_protocol_of_ours_is_public() {
        let called = |purpose| Some((NAME.to_owned(), purpose));
        let cases: [(Option<&str>, &[&str], _); 10] = [
            (Some(NAME), &[], called(Purpose::Application)),
            (Some("WWW.Example.Org"), &[], called(Purpose::Application)),
            (Some(NAME), &["h2", "http/1.1"], called(Purpose::Application)),
            (Some(NAME), &["acme-tls/1"], called(Purpose::Proof)),
            (Some(NAME), &["enforcer/1"], None),
            (Some(NAME), &["http/1.1", "enforcer-pair/2"], None),
            (Some("example.org"), &[], None),
            (Some("example.org"), &["acme-tls/1"], None),
            (Some("a.www.example.org"), &[], None),
            (None, &["acme-tls/1"], None),
        ];
        for (name, protocols, expected) in cases {
            assert_eq!(judged(&hello(name, protocols)), expected, "{name:?} {protocols:?}");
        }
    }

    #[test]
    fn a_part_is_waited_for_and_garbage_is_not() {
        let whole = hello(Some(NAME), &[]);
        for cut in 1..whole.len() {
            assert!(matches!(read(&whole[..cut]), Look::Part), "{cut}");
        }
        let mut more = whole.clone();
        more.extend([0; 100]);
        assert!(judged(&more).is_some(), "what comes behind it is none of its business");
        for garbage in [
            &[][..],
            b"GET / HTTP/1.1\r\n\r\n",
            &[22, 3, 1, 0xff, 0xff],
            &[22, 3, 1, 0, 2, 1, 0],
            &[21, 3, 3, 0, 2, 2, 0],
        ] {
            assert!(matches!(read(garbage), Look::Other), "{garbage:?}");
        }
        for place in 5..whole.len() {
            let mut bent = whole.clone();
            bent[place] ^= 0x55;
            judged(&bent);
        }
    }

    #[test]
    fn a_port_that_is_not_listed_and_a_peer_with_an_agent_are_never_public() {
        let identity: crate::identity::Identity = "spiffe://example.org/ns/default/sa/db".parse().unwrap();
        let peer = |speaks| Peer { name: "peer".into(), addresses: Vec::new(), speaks, agent: None };
        let public = public();
        assert!(public.may_be_called(443, None) && !public.may_be_called(80, None));
        assert!(public.may_be_called(443, Some(&peer(Speaks::Plaintext))));
        assert!(public.may_be_called(443, Some(&peer(Speaks::Mtls(identity.clone())))));
        assert!(!public.may_be_called(443, Some(&peer(Speaks::Enforcer(identity)))));
    }

    #[tokio::test]
    async fn a_hello_in_pieces_is_seen_and_not_taken() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (client, server) = tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
        let (mut client, server) = (client.unwrap(), server.unwrap().0);
        client.set_nodelay(true).unwrap();
        let (public, whole) = (public(), hello(Some(NAME), &[]));
        let sending = async {
            for piece in whole.chunks(97) {
                client.write_all(piece).await.unwrap();
                tokio::task::yield_now().await;
            }
        };
        let (called, ()) = tokio::join!(public.called(&server), sending);
        assert_eq!(called.unwrap().hello, whole.len());
        let mut seen = vec![0; whole.len()];
        assert_eq!(server.peek(&mut seen).await.unwrap(), whole.len());
        drop(client);
    }

    #[tokio::test(start_paused = true)]
    async fn silence_is_not_waited_for_long() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (client, server) = tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
        let server = server.unwrap().0;
        assert_eq!(public().called(&server).await, None);
        drop(client);
    }

    #[test]
    fn places_are_bounded() {
        let public = public();
        let held: Vec<_> = (0..CONNECTIONS).map(|_| public.place().unwrap()).collect();
        assert_eq!(public.place().map(drop), Err(Reason::TooManyConnections));
        drop(held);
        assert!(public.place().is_ok());
    }
}
