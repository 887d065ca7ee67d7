//! Ending what may not go on: connections whose certificates run out and cannot be had anew, those of a certificate that
//! is revoked, and those that what is in force does not let be any more.

use std::future::pending;
use std::sync::Arc;

use enforcer_ebpf::{Held, Live, Reason};
use time::OffsetDateTime;
use tokio::sync::watch;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::live::agent_of;
use super::written::{Proof, held, identity};
use super::{Direct, Ends, Offers, is_let_be, owner_of, peer_of, workload_of};
use crate::connection::Picture;
use crate::connection::bonds::Revoked;
use crate::connection::pair::{Connection, Pair};

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
    let agent = agent_of(&offers.direct.current.picture(), live, &pair.remote)?;
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

    /// Ends what is open and what is not let be any more by what is in force now, and says how many that were; and what is
    /// held for nobody. Blocks, as [`Self::revoke`] does.
    ///
    /// What becomes open meanwhile is written down first, and looks then whether something else is in force; it was so
    /// before this looks there.
    pub(in crate::connection) fn judge_again(&self) -> usize {
        let picture = self.current.picture();
        self.end_unknown(&picture);
        let table = self.holds.live().unwrap_or_else(|error| {
            tracing::error!(%error, "cannot read the table of direct connections: the change ends none of them");
            Vec::new()
        });
        let refused = table.into_iter().filter(|(cookie, live)| !self.lets_be(&picture, (*cookie, live)));
        refused.map(|(cookie, _)| self.end(cookie, Reason::PolicyChanged)).count()
    }

    /// Whether an open connection is let be. One of nobody who is known is not.
    fn lets_be(&self, picture: &Picture, (cookie, live): (u64, &Live)) -> bool {
        let Some((local, peer)) = identity(&live.local).zip(identity(&live.peer)) else { return false };
        let workload = self.lives.workload(cookie).or_else(|| owner_of(picture, live, &local).map(Arc::clone));
        let Some(workload) = workload else { return false };
        is_let_be(picture, &workload, (live.direction, Connection::from(&held(live))), &peer)
    }

    /// Ends what is held for a workload that is not enrolled any more, or for a peer without an agent. Whoever is at it is
    /// told too, but the locks may go before that is noticed.
    fn end_unknown(&self, picture: &Picture) {
        let table = self.holds.held().unwrap_or_else(|error| {
            tracing::error!(%error, "cannot read the hold table: what is held for nobody ends later");
            Vec::new()
        });
        for (cookie, held) in table {
            let is_enrolled = match self.lives.workload(cookie) {
                Some(workload) => picture.has(&workload),
                None => workload_of(picture, &held).is_some(),
            };
            if !is_enrolled || peer_of(picture, &held).is_none() {
                self.destroy(cookie, &held, Reason::PolicyChanged);
            }
        }
    }

    /// Returns when what is in force has changed, and does not let a connection be that is on its way.
    pub(super) async fn forbidden(&self, mut changes: watch::Receiver<u64>, held: &Held, ends: &Ends) {
        while changes.changed().await.is_ok() {
            let connection = (held.direction, Connection::from(held));
            if !is_let_be(&self.current.picture(), &ends.workload, connection, &ends.remote) {
                return;
            }
        }
        pending().await
    }

    /// Judges a connection once more that was just written down as open, if something else is in force since it was judged.
    pub(super) fn still_stands(&self, (cookie, held): (u64, &Held), ends: &Ends) -> Result<(), Reason> {
        let picture = self.current.picture();
        if Arc::ptr_eq(&ends.picture, &picture) {
            return Ok(());
        }
        if !is_let_be(&picture, &ends.workload, (held.direction, Connection::from(held)), &ends.remote) {
            return Err(Reason::PolicyChanged);
        }
        let ends = Ends { picture, workload: Arc::clone(&ends.workload), remote: ends.remote.clone() };
        self.judge((cookie, held), &ends)
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
