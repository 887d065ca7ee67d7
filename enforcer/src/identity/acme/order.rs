//! One certificate for one name: order, prove, request, take (RFC 8555 7.4). The caller has a deadline for it.

use std::sync::Arc;
use std::time::Duration;

use instant_acme::{
    Account, AuthorizationHandle, AuthorizationStatus, ChallengeType, Identifier, NewOrder, Order, OrderStatus,
};
use rcgen::{CertificateParams, DistinguishedName, KeyPair};
use rustls::pki_types::PrivatePkcs8KeyDer;
use time::OffsetDateTime;
use tokio::time::sleep;

use super::chain::{Held, LONGEST, Unusable};
use super::challenge::answer;
use super::error::Error;
use super::http::Told;
use super::names::{Staged, Writer};
use crate::identity::request::blocking;

/// Between two looks at an order: at first, and at most. The authority may ask for more.
const FIRST_LOOK: Duration = Duration::from_millis(250);
const LONGEST_LOOK: Duration = Duration::from_secs(5);

/// A certificate that has just come, as it is used and as it is kept.
pub(super) struct Obtained {
    pub(super) held: Held,
    pub(super) chain: String,
    pub(super) key: PrivatePkcs8KeyDer<'static>,
}

/// Has a certificate issued for a name and a new key.
pub(super) async fn obtain(account: &Account, name: &str, (names, told): (&Writer, &Told)) -> Result<Obtained, Error> {
    let identifiers = [Identifier::Dns(name.to_owned())];
    let mut order = account.new_order(&NewOrder::new(&identifiers)).await?;
    if order.state().authorizations.len() != 1 {
        return Err(unexpected("an order for one name has not one authorization"));
    }
    let staged = prove(&mut order, name, names).await?;
    settle(&mut order, told, OrderStatus::Ready).await?;
    drop(staged);
    let (key, request) = request(name).await?;
    order.finalize_csr(&request).await?;
    settle(&mut order, told, OrderStatus::Valid).await?;
    let chain = order.certificate().await?.ok_or_else(|| unexpected("a valid order has no certificate"))?;
    check(name, chain, key).await
}

/// Shows the authority that we have the name, unless it has seen that already.
async fn prove<'a>(order: &mut Order, name: &'a str, names: &'a Writer) -> Result<Option<Staged<'a>>, Error> {
    let mut authorizations = order.authorizations();
    let mut authorization =
        authorizations.next().await.unwrap_or_else(|| Err(instant_acme::Error::Str("no authorization")))?;
    let identifier = authorization.identifier();
    if identifier.wildcard || *identifier.identifier != Identifier::Dns(name.to_owned()) {
        return Err(unexpected("the authorization is for another name"));
    }
    match authorization.status {
        AuthorizationStatus::Valid => return Ok(None),
        AuthorizationStatus::Pending => {}
        _ => return Err(why_invalid(&authorization)),
    }
    let Some(mut challenge) = authorization.challenge(ChallengeType::TlsAlpn01) else {
        return Err(unexpected("the authority offers no tls-alpn-01 challenge"));
    };
    let digest = challenge.key_authorization().digest();
    let digest = digest.as_ref().try_into().map_err(|_other_length| unexpected("a digest is not one of SHA-256"))?;
    let answer = answer(name, digest)?;
    let staged = names.stage(name, answer);
    challenge.set_ready().await?;
    Ok(Some(staged))
}

/// Waits until an order is there.
async fn settle(order: &mut Order, told: &Told, there: OrderStatus) -> Result<(), Error> {
    let mut pause = FIRST_LOOK;
    loop {
        let state = order.state();
        let status = state.status;
        if let Some(problem) = &state.error {
            return Err(Error::of_problem(problem));
        }
        match status {
            status if status == there => return Ok(()),
            OrderStatus::Invalid => return Err(refusal(order).await),
            // Before it was asked to issue.
            OrderStatus::Valid => return Err(unexpected("an order is valid before its request")),
            OrderStatus::Pending | OrderStatus::Ready | OrderStatus::Processing => {}
        }
        // The caller's deadline bounds this, whatever the authority asks for.
        sleep(told.last().unwrap_or_default().max(pause)).await;
        pause = (pause * 2).min(LONGEST_LOOK);
        order.refresh().await?;
    }
}

/// Why an order is invalid: most authorities say so in its authorization alone.
async fn refusal(order: &mut Order) -> Error {
    match order.authorizations().next().await {
        Some(Ok(authorization)) => why_invalid(&authorization),
        _ => unexpected("the order is invalid, and nothing says why"),
    }
}

fn why_invalid(authorization: &AuthorizationHandle<'_>) -> Error {
    let problem = authorization.challenges.iter().find_map(|challenge| challenge.error.as_ref());
    problem.map_or_else(|| unexpected("the authorization is invalid, and nothing says why"), Error::of_problem)
}

/// A new key, and a request for it.
async fn request(name: &str) -> Result<(PrivatePkcs8KeyDer<'static>, Vec<u8>), Error> {
    let name = name.to_owned();
    let made = blocking(move || {
        let mut params = CertificateParams::new([name])?;
        params.distinguished_name = DistinguishedName::new();
        let key = KeyPair::generate()?;
        let request = params.serialize_request(&key)?;
        Ok((PrivatePkcs8KeyDer::from(key.serialize_der()), request.der().to_vec()))
    });
    made.await.map_err(Error::Key)
}

/// What has come is not kept before it was found to be of use.
async fn check(name: &str, chain: String, key: PrivatePkcs8KeyDer<'static>) -> Result<Obtained, Error> {
    if chain.len() > LONGEST {
        return Err(Unusable::TooLong.into());
    }
    let name = Arc::<str>::from(name);
    blocking(move || {
        let held = Held::read(&name, &chain, &key)?;
        held.check_validity(OffsetDateTime::now_utc())?;
        Ok(Obtained { held, chain, key })
    })
    .await
}

fn unexpected(what: &str) -> Error {
    Error::Unexpected(what.to_owned())
}
