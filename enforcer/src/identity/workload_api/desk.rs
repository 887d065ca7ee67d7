//! A key and a certificate for each workload that asks: obtained when it first asks, shared by all its calls, renewed at
//! half life and when the authority asks for it, replaced at once when revoked, and dropped a little after the last call
//! has ended.
//!
//! A workload that opens and closes calls as fast as it can costs the authority one certificate each [`LINGER`].

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustls::crypto::CryptoProvider;
use time::OffsetDateTime;
use tokio::sync::watch;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use zeroize::Zeroizing;

use super::Member;
use crate::identity::Serial;
use crate::identity::request::certify;
use crate::identity::rotate::{in_turn, next_attempt, next_renewal, wait_until};
use crate::identity::source::Source;
use crate::identity::tls::crypto_provider;
use crate::identity::trust::{Trust, Trusted};

/// How long a certificate that nobody wants any more is kept.
pub(super) const LINGER: Duration = Duration::from_secs(30);

/// What a workload is given. The key is wiped when nobody has it any more; copies on their way to the workload are not.
pub(super) struct Svid {
    /// The certificate and its issuers, DER, one after the other.
    pub(super) chain: Vec<u8>,
    /// PKCS#8, DER.
    pub(super) key: Zeroizing<Vec<u8>>,
    /// Of the certificate.
    pub(super) serial: Serial,
    not_after: OffsetDateTime,
}

/// What there is for a workload at this moment.
#[derive(Clone)]
pub(super) enum Shown {
    /// It is being obtained.
    Pending,
    /// It is there, with whom to trust.
    Valid(Arc<Svid>, Arc<Trust>),
    /// There is none: the authority did not answer, or refused. It is asked again.
    Missing,
    /// It was revoked, and the authority gives no other.
    Revoked,
}

/// Where workloads get them.
pub(super) struct Desk {
    source: Arc<dyn Source>,
    trust_domain: String,
    provider: Arc<CryptoProvider>,
    stop: CancellationToken,
    /// By workload.
    open: Mutex<HashMap<Member, watch::Sender<Shown>>>,
}

impl Desk {
    pub(super) fn new(source: Arc<dyn Source>, trust_domain: String, stop: CancellationToken) -> Self {
        Self { source, trust_domain, provider: crypto_provider(), stop, open: Mutex::default() }
    }

    /// Whom to trust.
    pub(super) fn trusted(&self) -> Trusted {
        self.source.trusted()
    }

    /// The trust domain, as the standard writes it: a SPIFFE ID without a path.
    pub(super) fn trust_domain(&self) -> String {
        format!("spiffe://{}", self.trust_domain)
    }

    /// What there is for a workload, now and later.
    pub(super) fn open(self: &Arc<Self>, member: &Member) -> watch::Receiver<Shown> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(shown) = open.get(member) {
            return shown.subscribe();
        }
        let (shown, receiver) = watch::channel(Shown::Pending);
        open.insert(member.clone(), shown.clone());
        let keeper = Keeper {
            desk: Arc::clone(self),
            member: member.clone(),
            shown,
            held: None,
            is_revoked: false,
            failures: 0,
            next: OffsetDateTime::now_utc(),
        };
        tokio::spawn(keeper.run());
        receiver
    }

    /// Forgets a workload if nobody asks for it any more.
    fn close(&self, member: &Member) -> bool {
        // Who opens does so under this lock.
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let is_unwanted = open.get(member).is_none_or(|shown| shown.receiver_count() == 0);
        if is_unwanted {
            open.remove(member);
        }
        is_unwanted
    }
}

/// Keeps the certificate of one workload fresh.
struct Keeper {
    desk: Arc<Desk>,
    member: Member,
    shown: watch::Sender<Shown>,
    held: Option<Arc<Svid>>,
    /// The last one was, and there is no other yet.
    is_revoked: bool,
    failures: u32,
    /// When the next one is asked for.
    next: OffsetDateTime,
}

impl Keeper {
    async fn run(mut self) {
        let (desk, shown) = (Arc::clone(&self.desk), self.shown.clone());
        let unwanted = || async {
            shown.closed().await;
            sleep(LINGER).await;
        };
        let mut idle = Box::pin(unwanted());
        let mut trusted = desk.source.trusted();
        let mut issuer = trusted.current().issuer.clone();
        loop {
            if self.next <= OffsetDateTime::now_utc() {
                tokio::select! {
                    biased;
                    () = desk.stop.cancelled() => return,
                    () = self.renew() => {}
                }
            }
            tokio::select! {
                biased;
                () = desk.stop.cancelled() => return,
                () = trusted.changed() => {
                    let trust = trusted.current();
                    self.judge(&trust);
                    if trust.issuer != issuer {
                        issuer.clone_from(&trust.issuer);
                        self.next = self.next.min(in_turn(OffsetDateTime::now_utc()));
                    }
                }
                () = &mut idle => {
                    if desk.close(&self.member) {
                        return;
                    }
                    idle.set(unwanted());
                }
                () = sleep(wait_until(Some(self.next), OffsetDateTime::now_utc())) => {}
            }
        }
    }

    async fn renew(&mut self) {
        let identity = &self.member.identity;
        let obtained = certify(&*self.desk.source, identity, &self.desk.provider).await;
        let now = OffsetDateTime::now_utc();
        match obtained {
            Ok(obtained) => {
                let issued = obtained.issued;
                (self.failures, self.is_revoked) = (0, false);
                self.next = next_renewal((issued.not_before, issued.not_after), now);
                let svid = Arc::new(Svid {
                    chain: issued.chain.concat_der(),
                    key: obtained.key,
                    serial: obtained.serial,
                    not_after: issued.not_after,
                });
                self.held = Some(Arc::clone(&svid));
                self.shown.send_replace(Shown::Valid(svid, obtained.trusted.current()));
            }
            Err(error) => {
                self.failures = self.failures.saturating_add(1);
                self.next = next_attempt(self.failures, now);
                let cause = std::error::Error::source(&error).map(ToString::to_string);
                tracing::warn!(workload = %self.member.name, %error, cause, "no certificate for the Workload API; trying again");
                // The old one stays as long as it is valid.
                if self.held.as_ref().is_none_or(|held| held.not_after <= now) {
                    self.held = None;
                    self.shown.send_replace(if self.is_revoked { Shown::Revoked } else { Shown::Missing });
                }
            }
        }
    }

    /// Whom to trust has changed, or what has been revoked.
    fn judge(&mut self, trust: &Arc<Trust>) {
        let Some(held) = self.held.clone() else { return };
        if trust.revokes(&held.serial) {
            tracing::warn!(workload = %self.member.name, serial = %held.serial, "certificate of the Workload API is revoked");
            (self.held, self.is_revoked, self.failures) = (None, true, 0);
            self.next = OffsetDateTime::now_utc();
            self.shown.send_replace(Shown::Pending);
        } else {
            self.shown.send_replace(Shown::Valid(held, Arc::clone(trust)));
        }
    }
}

/// Certificates as the Workload API has them: DER, one after the other.
pub(super) trait Concatenated {
    fn concat_der(&self) -> Vec<u8>;
}

impl Concatenated for [rustls::pki_types::CertificateDer<'static>] {
    fn concat_der(&self) -> Vec<u8> {
        self.iter().flat_map(|certificate| certificate.iter().copied()).collect()
    }
}
