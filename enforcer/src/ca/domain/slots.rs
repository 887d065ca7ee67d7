//! Which authorities a trust domain has, and how one follows another: the state of a root rotation, and nothing else.
//!
//! ```text
//! prepare    a second root is made; everybody trusts both, the first one issues
//! activate   the second one issues; everybody trusts both
//! retire     the first one is trusted no more
//! ```
//!
//! Each step is a pure function from one state to the next, and none happens by itself. Whether the world is ready for
//! a step (who trusts what by now, which certificates are still alive) is asked by the caller.

use serde::{Deserialize, Serialize};

/// The authorities of a trust domain. At most two; exactly one of them is active.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Slots {
    /// Oldest first.
    pub slots: Vec<Slot>,
    /// The version of the trust in which they became as they are.
    pub since: u64,
}

/// A root with the intermediate that issues under it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Slot {
    /// Unique for ever, and part of the names in its certificates.
    pub id: String,
    /// Where in its life it is.
    pub state: State,
    /// Its certificate, PEM.
    pub root: String,
    /// It is somebody else's, who alone can make intermediates under it.
    #[serde(default)]
    pub is_upstream: bool,
    /// The intermediates that were made under it and have not expired, newest first: the first one issues. A revocation
    /// list is signed by each of them.
    pub intermediates: Vec<Intermediate>,
}

/// An issuing certificate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Intermediate {
    /// The label of its key.
    pub key: String,
    /// PEM.
    pub certificate: String,
    /// Those between it and the root, PEM.
    #[serde(default)]
    pub above: Vec<String>,
}

/// Where in its life an authority is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// Trusted; issues nothing yet.
    Prepared,
    /// Trusted, and issues.
    Active,
    /// Trusted for those certificates that it has issued.
    Retiring,
}

impl State {
    /// As it is written and shown.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Prepared => "prepared",
            Self::Active => "active",
            Self::Retiring => "retiring",
        }
    }
}

/// A step that cannot be taken from here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OutOfStep {
    /// There are two authorities already.
    #[error("a rotation is under way: finish it with `enforcer ca rotate activate` and `enforcer ca rotate retire`")]
    UnderWay,
    /// Nothing is prepared.
    #[error("no next authority is prepared: make one with `enforcer ca rotate prepare`")]
    NothingPrepared,
    /// There is no former authority.
    #[error("no former authority is left to retire")]
    NothingToRetire,
}

impl Slots {
    /// The first authority of a trust domain.
    #[must_use]
    pub fn first(slot: Slot) -> Self {
        Self { slots: vec![Slot { state: State::Active, ..slot }], since: 1 }
    }

    /// The one that issues.
    #[must_use]
    pub fn active(&self) -> Option<&Slot> {
        self.slots.iter().find(|slot| slot.state == State::Active)
    }

    /// The one that is about to follow or to go.
    fn other(&self, state: State) -> Option<&Slot> {
        self.slots.iter().find(|slot| slot.state == state)
    }

    /// Whether another may be prepared.
    ///
    /// # Errors
    ///
    /// [`OutOfStep::UnderWay`].
    pub fn may_prepare(&self) -> Result<(), OutOfStep> {
        if self.slots.len() > 1 { Err(OutOfStep::UnderWay) } else { Ok(()) }
    }

    /// With another one that is trusted.
    ///
    /// # Errors
    ///
    /// [`OutOfStep::UnderWay`].
    pub fn prepared(&self, slot: Slot) -> Result<Self, OutOfStep> {
        self.may_prepare()?;
        let mut slots = self.slots.clone();
        slots.push(Slot { state: State::Prepared, ..slot });
        Ok(Self { slots, ..*self })
    }

    /// With the prepared one issuing.
    ///
    /// # Errors
    ///
    /// [`OutOfStep::NothingPrepared`].
    pub fn activated(&self) -> Result<Self, OutOfStep> {
        self.other(State::Prepared).ok_or(OutOfStep::NothingPrepared)?;
        let moved = |slot: &Slot| match slot.state {
            State::Prepared => Slot { state: State::Active, ..slot.clone() },
            State::Active | State::Retiring => Slot { state: State::Retiring, ..slot.clone() },
        };
        Ok(Self { slots: self.slots.iter().map(moved).collect(), ..*self })
    }

    /// Without the former one; and that one.
    ///
    /// # Errors
    ///
    /// [`OutOfStep::NothingToRetire`].
    pub fn retired(&self) -> Result<(Self, Slot), OutOfStep> {
        let former = self.other(State::Retiring).ok_or(OutOfStep::NothingToRetire)?.clone();
        let slots = self.slots.iter().filter(|slot| slot.id != former.id).cloned().collect();
        Ok((Self { slots, ..*self }, former))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slot(id: &str) -> Slot {
        Slot {
            id: id.to_owned(),
            state: State::Prepared,
            root: String::new(),
            is_upstream: false,
            intermediates: Vec::new(),
        }
    }

    fn states(slots: &Slots) -> Vec<(&str, &str)> {
        slots.slots.iter().map(|slot| (slot.id.as_str(), slot.state.label())).collect()
    }

    #[test]
    fn one_authority_follows_another_step_by_step() {
        let first = Slots::first(slot("a"));
        assert_eq!(states(&first), [("a", "active")]);
        let prepared = first.prepared(slot("b")).unwrap();
        assert_eq!(states(&prepared), [("a", "active"), ("b", "prepared")]);
        let activated = prepared.activated().unwrap();
        assert_eq!(states(&activated), [("a", "retiring"), ("b", "active")]);
        let (retired, former) = activated.retired().unwrap();
        assert_eq!((states(&retired), former.id.as_str()), (vec![("b", "active")], "a"));
    }

    #[test]
    fn no_step_is_taken_out_of_turn() {
        let first = Slots::first(slot("a"));
        assert_eq!(first.activated(), Err(OutOfStep::NothingPrepared));
        assert_eq!(first.retired(), Err(OutOfStep::NothingToRetire));
        let prepared = first.prepared(slot("b")).unwrap();
        assert_eq!(prepared.prepared(slot("c")), Err(OutOfStep::UnderWay));
        assert_eq!(prepared.retired(), Err(OutOfStep::NothingToRetire));
        let activated = prepared.activated().unwrap();
        assert_eq!(activated.prepared(slot("c")), Err(OutOfStep::UnderWay));
        assert_eq!(activated.activated(), Err(OutOfStep::NothingPrepared));
    }
}
