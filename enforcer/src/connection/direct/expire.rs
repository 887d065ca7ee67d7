//! Ending what may not go on: connections whose certificates run out and cannot be had anew, those of a certificate that
//! is revoked, and those that rules do not let be any more.

use std::sync::Arc;

use enforcer_ebpf::{Live, Reason};
use time::OffsetDateTime;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::written::{Opened, Proof, held, identity};
use super::{Direct, Offers, attempt};
use crate::connection::Workload;
use crate::connection::bonds::Revoked;
use crate::connection::pair::{Connection, Pair};
use crate::control::policy::{Policy, Verdict};

/// Ends connections whose certificates run out, unless both ends can prove themselves anew; until `stop`.
pub async fn expire(offers: Arc<Offers>, stop: CancellationToken) {
    let lives = &offers.direct.lives;
    loop {
        let wait = lives.wait(now());
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            () = lives.sooner() => continue,
            () = sleep(wait) => {}
        }
        let due = lives.due(now());
        if !due.is_empty() {
            renew(&offers, &due).await;
        }
    }
}

async fn renew(offers: &Arc<Offers>, due: &[u64]) {
    let direct = &offers.direct;
    let Ok(table) = direct.holds.live() else { return };
    for (cookie, live) in table.into_iter().filter(|(cookie, _)| due.contains(cookie)) {
        let Some(proof) = prove(offers, &live).await else {
            direct.end(cookie, Reason::CertificateExpired);
            continue;
        };
        direct.holds.stays_live(cookie, &proof.renews(&live));
        direct.lives.is_proved(cookie, proof);
        // A revocation that came since has not found it under these certificates.
        if direct.bonds.are_revoked(&proof.serials) {
            direct.end(cookie, Reason::CertificateRevoked);
        }
    }
    // What is due and not in the kernel's table is closed; the event that says so is on its way, or was lost.
    due.iter().filter(|cookie| direct.lives.due(now()).contains(cookie)).for_each(|&cookie| {
        direct.lives.failed(cookie, Reason::Closed);
    });
}

/// What proves both identities now. A session proves them, and is opened for it if there is none.
async fn prove(offers: &Offers, live: &Live) -> Option<Proof> {
    let pair = Pair { local: identity(&live.local)?, remote: identity(&live.peer)? };
    let agent = offers.direct.agent_of(live, &pair.remote)?;
    let session = offers.sessions.get(&pair, agent).await.ok()?;
    Some(Proof::from(session.facts())).filter(|proof| proof.expires > now())
}

impl Direct {
    /// Ends what is open under a certificate that is revoked, and says how many that were. Blocks: the kernel waits for each
    /// socket's lock, which its application has now and then.
    ///
    /// What becomes open meanwhile is written down in `lives` first, and asks then whether it is revoked; what is revoked is
    /// known before this looks there. So one of both finds it.
    pub(in crate::connection) fn revoke(&self, revoked: &Revoked) -> usize {
        let cookies = self.lives.proved_by(|serial| revoked(serial));
        cookies.iter().for_each(|&cookie| self.end(cookie, Reason::CertificateRevoked));
        cookies.len()
    }

    /// Ends what is open and what rules do not let be any more, and says how many that were. Blocks, as [`Self::revoke`]
    /// does.
    ///
    /// What becomes open meanwhile is written down first, and looks then whether rules have changed; they have changed
    /// before this looks there.
    pub(in crate::connection) fn judge_again(&self) -> usize {
        let table = self.holds.live().unwrap_or_else(|error| {
            tracing::error!(%error, "cannot read the table of direct connections: rules that changed end none of them");
            Vec::new()
        });
        let refused = table.into_iter().filter(|(_, live)| !self.lets_be(live));
        refused.map(|(cookie, _)| self.end(cookie, Reason::PolicyChanged)).count()
    }

    /// Whether rules let an open connection be. One of nobody who is known is not let be.
    fn lets_be(&self, live: &Live) -> bool {
        let Some((local, peer)) = identity(&live.local).zip(identity(&live.peer)) else { return false };
        let Some(workload) = self.owner(live, &local) else { return false };
        let decision = workload.policy().decide(&attempt(live.direction, Connection::from(&held(live)), &peer));
        !matches!(decision.verdict, Verdict::Refused(_))
    }

    /// Judges a connection once more that was just written down as open, if rules have changed since it was `judged`.
    pub(super) fn still_stands(
        &self,
        opened: &Opened<'_>,
        workload: &Workload,
        judged: &Arc<Policy>,
    ) -> Result<(), Reason> {
        if Arc::ptr_eq(judged, &workload.policy()) {
            return Ok(());
        }
        self.judge((opened.cookie, opened.held), workload, opened.peer).map(drop)
    }

    /// Ends an open connection.
    fn end(&self, cookie: u64, reason: Reason) {
        // First, so that the event of its end has nothing left to write.
        self.lives.failed(cookie, reason);
        if let Some(live) = self.holds.live_one(cookie) {
            self.destroy(cookie, &held(&live), reason);
        }
    }
}

fn now() -> u64 {
    OffsetDateTime::now_utc().unix_timestamp().unsigned_abs()
}
