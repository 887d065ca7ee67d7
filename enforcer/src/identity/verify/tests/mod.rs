//! Chains that must and must not be accepted, each with the reason, and with what webpki says when it is asked alone.

mod authorities;
mod forge;
mod forged;
mod limits;
mod paths;
mod revoked;
mod workloads;

use rustls::pki_types::{CertificateRevocationListDer, UnixTime};
use time::OffsetDateTime;
use webpki::{
    CertRevocationList, EndEntityCert, ExpirationPolicy, OwnedCertRevocationList, RevocationOptionsBuilder,
    anchor_from_trusted_cert,
};

use self::forge::{Der, NOW, Signer, WEB};
use super::*;
use crate::identity::fixture::uri;
use crate::identity::tls::crypto_provider;

/// What webpki says when nobody else is asked: the reason for all that is done here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Alone {
    Accepts,
    Refuses,
}

/// A row of a table whose cases are made from its second column.
type Row<T> = (&'static str, T, Result<(), Rejection>, Alone);

/// A chain with the terms on which it is judged.
struct Case {
    name: &'static str,
    chain: Vec<Der>,
    bundle: Vec<Der>,
    lists: Option<Vec<CertificateRevocationListDer<'static>>>,
    now: OffsetDateTime,
    role: Role,
    expected: Expected,
}

impl Case {
    /// As either end, without revocation lists.
    fn new(name: &'static str, chain: Vec<Der>, bundle: &[&Signer]) -> Self {
        Self {
            name,
            chain,
            bundle: bundle.iter().map(|root| root.der.clone()).collect(),
            lists: None,
            now: NOW,
            role: Role::Both,
            expected: Expected::One(web()),
        }
    }

    fn playing(self, role: Role) -> Self {
        Self { role, ..self }
    }

    fn at(self, now: OffsetDateTime) -> Self {
        Self { now, ..self }
    }

    fn expecting(self, expected: Expected) -> Self {
        Self { expected, ..self }
    }

    fn with(self, lists: Vec<CertificateRevocationListDer<'static>>) -> Self {
        Self { lists: Some(lists), ..self }
    }

    fn verdict(&self) -> Result<Proven, Rejection> {
        let anchors = Anchors::new(&self.bundle).unwrap();
        let lists = self.lists.as_ref().map(|lists| Revocations::new(lists, Uncovered::Refuse).unwrap());
        let now = unix(self.now);
        let (role, expected) = (self.role, &self.expected);
        let terms = Terms { anchors: &anchors, revocations: lists.as_ref(), now, role, expected };
        let (workload, intermediates) = self.chain.split_first().ok_or(Rejection::NoCertificate)?;
        verify(workload, intermediates, &terms)
    }

    /// As an application would ask webpki that knows nothing better.
    fn webpki(&self) -> Result<(), webpki::Error> {
        let anchors: Vec<_> = self.bundle.iter().map(anchor_from_trusted_cert).collect::<Result<_, _>>()?;
        let lists: Vec<CertRevocationList<'_>> = self
            .lists
            .iter()
            .flatten()
            .map(|list| OwnedCertRevocationList::from_der(list).map(Into::into))
            .collect::<Result<_, _>>()?;
        let lists: Vec<_> = lists.iter().collect();
        let options = RevocationOptionsBuilder::new(&lists).ok();
        let options = options.map(|options| options.with_expiration_policy(ExpirationPolicy::Enforce).build());
        let algorithms = crypto_provider().signature_verification_algorithms.all;
        let (now, usage) = (unix(self.now), self.role.usage());
        let workload = EndEntityCert::try_from(&self.chain[0])?;
        workload.verify_for_usage(algorithms, &anchors, &self.chain[1..], now, usage, options, None).map(drop)
    }

    fn check(&self, expected: &Result<(), Rejection>, alone: Alone) {
        assert_eq!(self.verdict().map(drop), *expected, "{}", self.name);
        if let Err(rejection) = expected {
            let code = rejection.code();
            let word = !code.is_empty() && code.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-');
            assert!(word, "{code} is no word for {rejection}");
        }
        let webpki = self.webpki();
        let found = if webpki.is_ok() { Alone::Accepts } else { Alone::Refuses };
        assert_eq!(found, alone, "{}, webpki alone: {webpki:?}", self.name);
    }
}

fn web() -> Identity {
    WEB.parse().unwrap()
}

fn unix(at: OffsetDateTime) -> UnixTime {
    UnixTime::since_unix_epoch(std::time::Duration::from_secs(at.unix_timestamp().unsigned_abs()))
}

/// Checks a table; its length is said, so that a row that is lost is noticed.
fn check<const ROWS: usize>(table: [(Case, Result<(), Rejection>, Alone); ROWS]) {
    for (case, expected, alone) in table {
        case.check(&expected, alone);
    }
}

fn workload_is(flaw: Flaw) -> Result<(), Rejection> {
    Err(Rejection::workload(flaw))
}

fn intermediate_is(flaw: Flaw) -> Result<(), Rejection> {
    Err(Rejection::Flawed { position: Position::Intermediate, flaw })
}

fn root_is(flaw: Flaw) -> Result<(), Rejection> {
    Err(Rejection::Flawed { position: Position::Root, flaw })
}
