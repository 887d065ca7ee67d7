//! Certificates are revoked and replaced, and the root changes.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use enforcer_tests::config::identity;
use enforcer_tests::wait;

use super::Chaos;

/// What is promised: every agent knows within this time, from the moment that `enforcer ca revoke` has returned.
const KNOWN: Duration = Duration::from_secs(1);

impl Chaos<'_> {
    /// An identity is revoked, or one that is may be issued again.
    pub(crate) fn revoke_or_admit(&mut self) -> Result<()> {
        let account = match self.facts.revoked.first() {
            Some(account) => *account,
            None => self.random.of(&["b", "c"]),
        };
        let (name, mut next) = (identity(account), self.facts.clone());
        if next.revoked.remove(account) {
            return self.change(
                next,
                |_facts, _flow| false,
                |chaos, _next| {
                    chaos.control()?.done(&["ca", "admit", "--identity", &name])?;
                    let limit = wait::patience() * 3;
                    wait::until("a certificate", limit, || Ok(chaos.serial(account)?.map(drop)))
                },
            );
        }
        next.revoked.insert(account);
        self.change(
            next,
            |_facts, _flow| false,
            |chaos, _next| {
                chaos.control()?.done(&["ca", "revoke", "--identity", &name, "--reason", "keyCompromise"])?;
                let since = Instant::now();
                let is_gone = |chaos: &mut Self| Ok(chaos.serial(account)?.is_none().then_some(()));
                wait::until("no certificate", wait::patience(), || is_gone(chaos))?;
                known(since)
            },
        )
    }

    /// A certificate is revoked, and its workload gets another one.
    pub(crate) fn revoke_certificate(&mut self) -> Result<()> {
        let account = self.random.of(&["a", "b", "c"]);
        let Some(serial) = self.serial(account)? else { return Ok(()) };
        let next = self.facts.clone();
        let concerned = move |facts: &crate::model::Facts, flow| account == "a" || facts.other(flow) == Some(account);
        self.change(next, concerned, |chaos, _next| {
            chaos.control()?.done(&["ca", "revoke", "--serial", &serial])?;
            let since = Instant::now();
            wait::until("another certificate", wait::patience() * 3, || {
                Ok(chaos.serial(account)?.is_some_and(|now| now != serial).then_some(()))
            })?;
            known(since)
        })
    }

    /// Each step as soon as control lets it be taken; no connection is refused for it.
    pub(crate) fn rotate_root(&mut self) -> Result<()> {
        for step in ["prepare", "activate", "retire"] {
            // Sealing keys takes long on purpose; where the processor is slow and busy, longer than who asks waits.
            let mut may_be_done = false;
            wait::until(&format!("the moment to {step}"), wait::patience() * 6, || {
                let asked = self.control()?.ask(&["ca", "rotate", step])?;
                let (refused, is_done) = (&asked.stderr, asked.status.success());
                let is_silent = refused.contains("has not answered");
                let may_wait = is_silent || refused.contains("would refuse connections");
                let was_done = may_be_done && step == "prepare" && refused.contains("is under way");
                ensure!(is_done || may_wait || was_done, "{refused}");
                may_be_done |= is_silent;
                Ok((is_done || was_done).then_some(()))
            })?;
            self.tally.remark(step);
        }
        Ok(())
    }
}

/// Returns when the other agents know, too: nobody shows when they do.
fn known(since: Instant) -> Result<()> {
    let limit = wait::bound(KNOWN);
    wait::until("everybody to know", limit * 2, || Ok((since.elapsed() > limit).then_some(())))
}
