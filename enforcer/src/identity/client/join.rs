//! Joining: a machine that has nothing but a token becomes a node.
//!
//! The token names control's root by its hash, so control is known before it gets the secret. Control has the root in the
//! chain that it presents.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use rcgen::{CertificateParams, KeyPair};
use rustls::Error as TlsError;
use rustls::pki_types::UnixTime;

use super::channel::{certificates, open, within};
use super::files::Membership;
use super::{Error, Whom};
use crate::ca::domain::Token;
use crate::identity::request::blocking;
use crate::identity::verify::{Anchors, Expected, Verifier, fingerprint, verify_at};
use crate::protocol::JoinRequest;

/// Longest token file, in octets.
const LONGEST: u64 = 4096;

/// Joins with the token in a file.
pub(super) async fn join(whom: &Whom, token: &Path) -> Result<Membership, Error> {
    let token = read(token)?;
    let verifier = Arc::new(Verifier::pinned(Expected::One(whom.control.clone()), token.roots.clone()));
    let mut control = open(&whom.address, verifier, None).map_err(Error::Tls)?;
    let (key, request) = request().await?;
    let joining = control.join(within(JoinRequest { secret: token.secret.to_vec(), request }));
    let answer = joining.await.map_err(|status| Error::control("join", &status))?.into_inner();
    let (chain, roots) = (certificates(answer.chain), certificates(answer.roots));
    let membership = Membership { chain, key, roots, issuer: answer.issuer };
    if !membership.roots.iter().any(|root| token.roots.contains(&fingerprint(root))) {
        return Err(Error::OtherRoots);
    }
    check(whom, &membership)?;
    Ok(membership)
}

/// A key and a request for it.
pub(super) async fn request() -> Result<(KeyPair, Vec<u8>), Error> {
    blocking(|| {
        let key = KeyPair::generate()?;
        let request = CertificateParams::default().serialize_request(&key)?;
        Ok((key, request.der().to_vec()))
    })
    .await
    .map_err(Error::Request)
}

/// What control has issued is checked like everybody's.
pub(super) fn check(whom: &Whom, membership: &Membership) -> Result<(), Error> {
    let anchors =
        Anchors::new(&membership.roots).map_err(|error| Error::Unusable(TlsError::General(error.to_string())))?;
    verify_at(&membership.chain, &anchors, &whom.node, UnixTime::now()).map_err(Error::Unusable)
}

fn read(path: &Path) -> Result<Token, Error> {
    let failed = |cause| Error::Read { path: path.to_owned(), cause };
    if fs::metadata(path).map_err(failed)?.len() > LONGEST {
        return Err(Error::Token { path: path.to_owned() });
    }
    let text = zeroize::Zeroizing::new(fs::read_to_string(path).map_err(failed)?);
    Token::read(&text).map_err(|_none| Error::Token { path: path.to_owned() })
}
