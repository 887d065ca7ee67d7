//! A connection of a client that called a public name: shake hands with that name's certificate, reach the application,
//! carry. Nobody has proved an identity, so none is looked at here, and no certificate of the mesh ends it.

use enforcer_ebpf::Reason;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsStream;

use super::inbound::reach;
use super::offload::Session;
use super::{carry_session, handshake};
use crate::connection::public::{Called, Public, Purpose};
use crate::connection::{Path, Request};
use crate::kernel::socket::close_in_order;
use crate::observe::events::{self, Entry};

/// Carries one connection from its start to its end, and says how it ended.
pub(in crate::connection) async fn carry(
    client: TcpStream,
    request: &Request,
    (public, called, path): (&Public, &Called, &Path),
    record: &Entry,
) -> Result<Reason, Reason> {
    let certificates = &public.certificates;
    let config = match called.purpose {
        Purpose::Application => certificates.serve(&called.name),
        Purpose::Proof => certificates.prove(&called.name),
    };
    let Some(config) = config else {
        record.decided(events::Path::Refused, Reason::NoPublicCertificate);
        decline(client, called.hello).await;
        return Err(Reason::NoPublicCertificate);
    };
    record.decided(events::Path::Public, called.purpose.reason());
    let mut stream = handshake::as_public_server(client, config, &public.answering, record).await?;
    if called.purpose == Purpose::Proof {
        // The handshake was all of it (RFC 8737 3).
        let ended = timeout(handshake::DEADLINE, stream.shutdown()).await;
        close_in_order(stream.get_ref().0.stream());
        return if matches!(ended, Ok(Ok(()))) { Ok(Reason::Closed) } else { Err(Reason::PeerReset) };
    }
    let (application, _shown) = reach(request, &path.sources).await?;
    let session = Session::in_user_space(TlsStream::Server(stream));
    Ok(carry_session(application, session, record).await)
}

/// Says that there is nobody of this name, in the clear, as before any key it must be.
async fn decline(mut client: TcpStream, hello: usize) {
    /// Alert, TLS 1.2 as on every record, two octets: fatal, unrecognized_name (RFC 6066 3).
    const UNRECOGNIZED_NAME: [u8; 7] = [21, 3, 3, 0, 2, 2, 112];
    let mut read = vec![0; hello];
    let told = async {
        // It was seen already. What is left unread would make the end a reset, which could overtake the alert.
        client.read_exact(&mut read).await?;
        client.write_all(&UNRECOGNIZED_NAME).await
    };
    if matches!(timeout(handshake::DEADLINE, told).await, Ok(Ok(()))) {
        close_in_order(&client);
    }
}
