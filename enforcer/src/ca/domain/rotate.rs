//! The steps of a root rotation, each refused as long as it would refuse a connection.

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::journal::{self, Issuance};
use super::slots::{OutOfStep, Slots};
use super::trust::VERSION;
use super::{ATTEMPTS, Asker, Domain, Error, Event, SLOTS};
use crate::ca::store::{Outcome, Transaction};

const NODES: &str = "node/";
/// Names in a message.
const SHOWN: usize = 10;

/// A step of a rotation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Make the next authority, and have everybody trust it.
    Prepare,
    /// Issue under it.
    Activate,
    /// Trust the former one no more.
    Retire,
}

impl Step {
    fn label(self) -> &'static str {
        match self {
            Self::Prepare => "prepare",
            Self::Activate => "activate",
            Self::Retire => "retire",
        }
    }
}

/// What a node has said of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// Its name.
    #[serde(skip)]
    pub name: String,
    /// The version of the trust by which it judges.
    pub version: u64,
    /// The authority of every certificate that it uses; empty when they are of several.
    #[serde(default)]
    pub issuer: String,
}

impl Domain {
    /// A node judges by this version of the trust, and uses certificates of this authority alone.
    ///
    /// # Errors
    ///
    /// [`Error`].
    pub async fn in_force(&self, node: &str, version: u64, issuer: &str) -> Result<(), Error> {
        let entry = Node { name: String::new(), version, issuer: issuer.to_owned() };
        let _done = self.commit(Transaction::new().put(format!("{NODES}{node}"), journal::write(&entry))).await?;
        Ok(())
    }

    /// What nodes have said of themselves, by name.
    ///
    /// # Errors
    ///
    /// [`Error`].
    pub async fn nodes(&self) -> Result<Vec<Node>, Error> {
        let entries = self.parts.store.list(NODES).await?;
        let read = |(key, value): &(String, Vec<u8>)| {
            let node: Node = journal::read(key, value)?;
            Ok(Node { name: key.trim_start_matches(NODES).to_owned(), ..node })
        };
        entries.iter().map(read).collect()
    }

    /// Takes a step. With `force` also when it would refuse connections.
    ///
    /// # Errors
    ///
    /// [`Error::OutOfStep`], [`Error::TooEarly`]; others when it cannot be done.
    pub async fn rotate(&self, step: Step, force: bool, who: &Asker) -> Result<(), Error> {
        let slots = self.slots().await?;
        match step {
            Step::Prepare => slots.may_prepare()?,
            Step::Activate => {
                slots.activated()?;
                self.ready_to_activate(&slots, force).await?;
            }
            Step::Retire => {
                slots.retired()?;
                self.ready_to_retire(&slots, force).await?;
            }
        }
        let made = if step == Step::Prepare { Some(self.make_slot().await?) } else { None };
        self.note(Event::Rotated, who, (&self.parts.trust_domain, step.label()))?;
        let next = |slots: &Slots| match (step, &made) {
            (Step::Prepare, Some(slot)) => slots.prepared(slot.clone()),
            (Step::Activate, _) => slots.activated(),
            (Step::Retire, _) => slots.retired().map(|(slots, _former)| slots),
            (Step::Prepare, None) => Err(OutOfStep::UnderWay),
        };
        let result = self.replace_slots(next).await;
        match (&result, made, slots.retired()) {
            // Another replica was faster.
            (Err(_), Some(slot), _) => self.forget(&slot).await,
            (Ok(()), None, Ok((_, former))) if step == Step::Retire => self.forget(&former).await,
            _ => {}
        }
        result
    }

    pub(super) async fn replace_slots(&self, next: impl Fn(&Slots) -> Result<Slots, OutOfStep>) -> Result<(), Error> {
        for _ in 0..ATTEMPTS {
            let (told, version) = self.held::<u64>(VERSION).await?;
            let (before, slots) = self.held_slots().await?;
            let version = version.unwrap_or_default() + 1;
            let slots = Slots { since: version, ..next(&slots)? };
            let changed = Transaction::new().replace(SLOTS, before, Some(journal::write(&slots))).replace(
                VERSION,
                told,
                Some(journal::write(&version)),
            );
            if self.commit(changed).await? == Outcome::Committed {
                return Ok(());
            }
        }
        Err(Error::Busy)
    }

    /// Everybody who has certificates must trust the next root before one appears that it has signed.
    async fn ready_to_activate(&self, slots: &Slots, force: bool) -> Result<(), Error> {
        let nodes = self.nodes().await?;
        let knows = |name: &str| nodes.iter().any(|node| node.name == name && node.version >= slots.since);
        let alive = self.alive(OffsetDateTime::now_utc()).await?;
        let owners = alive.iter().map(|issuance| issuance.node.as_str());
        let mut behind: Vec<&str> = owners.filter(|node| !node.is_empty() && !knows(node)).collect();
        behind.sort_unstable();
        behind.dedup();
        if behind.is_empty() || force {
            return Ok(());
        }
        let why = format!(
            "{} of the nodes do not trust the prepared root yet: {}; wait for them, revoke them, or use --force",
            behind.len(),
            shortened(&behind)
        );
        Err(Error::TooEarly { step: "activate", why })
    }

    /// Nobody may have a certificate any more that only the former root vouches for.
    async fn ready_to_retire(&self, slots: &Slots, force: bool) -> Result<(), Error> {
        let (_, former) = slots.retired()?;
        let alive = self.alive(OffsetDateTime::now_utc()).await?;
        // What was issued since may not be in use yet, so a node has to say that it is. Control itself uses it at once.
        let nodes = self.nodes().await?;
        let active = slots.active().map(|slot| slot.id.as_str()).unwrap_or_default();
        let has_moved = |node: &str| nodes.iter().any(|known| known.name == node && known.issuer == active);
        let needs = |issuance: &&Issuance| match issuance.node.as_str() {
            _ if issuance.slot != former.id => false,
            "" => !alive.iter().any(|later| later.supersedes(issuance, &former.id)),
            node => !has_moved(node),
        };
        let needing: Vec<String> =
            alive.iter().filter(needs).map(|alive| format!("{} ({})", alive.name, alive.serial)).collect();
        if needing.is_empty() || force {
            return Ok(());
        }
        let shown: Vec<&str> = needing.iter().map(String::as_str).collect();
        let why = format!(
            "{} live certificates need the former root: {}; wait until they are renewed, revoke them, or use --force",
            needing.len(),
            shortened(&shown)
        );
        Err(Error::TooEarly { step: "retire", why })
    }
}

fn shortened(names: &[&str]) -> String {
    let more = if names.len() > SHOWN { ", ..." } else { "" };
    format!("{}{more}", names.iter().take(SHOWN).copied().collect::<Vec<_>>().join(", "))
}
