//! What was seen of connections in the last 24 hours: who had how many with whom, so that another policy can be judged by it
//! (`enforcer policy impact`).
//!
//! A connection is counted when it has ended; those that are open are in the table of [`events`](super::events), and both
//! are put together when somebody asks. Nothing runs in between: what is too old is forgotten when somebody asks, or when
//! there is no more room. What had to be forgotten before its time is counted.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::record::Direction;
use crate::control::policy::Protocol;
use crate::identity::Identity;

/// How long it is remembered.
pub const KEPT: Duration = Duration::from_secs(24 * 60 * 60);
/// Different ones that are remembered.
const ROOM: usize = 65_536;
/// How many are forgotten at once when there is no more room, so that not each new one has all others looked at.
const FORGOTTEN: usize = ROOM / 16;

/// All that decides about a connection, and who was at its other end. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Sighting {
    /// Who opened it, seen from the workload.
    pub direction: Direction,
    /// The workload's name.
    pub workload: Arc<str>,
    /// In which protocol.
    pub protocol: Protocol,
    /// The other end's address; canonical.
    pub address: IpAddr,
    /// The port that it was opened to.
    pub port: u16,
    /// What the other end has proved to be, if anything.
    pub peer: Option<Identity>,
    /// Its client has called a public name.
    pub is_public: bool,
}

/// What becomes of a connection, or of another thing that wants to leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fate {
    /// Mutual TLS with the identity that is expected.
    MutualTls,
    /// TLS under a public name: the client proves nothing.
    PublicTls,
    /// In the clear, because the mode or a rule lets it pass.
    Plaintext,
    /// Nothing looks after it: it is as without an agent.
    LeftAlone,
    /// It is refused.
    Refused,
}

impl Fate {
    /// As in JSON and tables.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::MutualTls => "mutual-tls",
            Self::PublicTls => "public-tls",
            Self::Plaintext => "plaintext",
            Self::LeftAlone => "left-alone",
            Self::Refused => "refused",
        }
    }

    /// Whether what is carried is encrypted by us.
    #[must_use]
    pub fn is_encrypted(self) -> bool {
        matches!(self, Self::MutualTls | Self::PublicTls)
    }
}

/// How often, and when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tally {
    /// How many connections, with those that are open.
    pub count: u64,
    /// How many of them are open.
    pub open: u64,
    /// When the first one was opened.
    pub first: Instant,
    /// When the last one was there.
    pub last: Instant,
}

impl Tally {
    /// With those of another one.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self {
            count: self.count.saturating_add(other.count),
            open: self.open.saturating_add(other.open),
            first: self.first.min(other.first),
            last: self.last.max(other.last),
        }
    }
}

/// What is remembered at one moment.
#[derive(Debug)]
pub struct Memory {
    /// Everything, in no order.
    pub sightings: HashMap<Sighting, Tally>,
    /// How many were forgotten that would be here if there were more room.
    pub forgotten: u64,
    /// Since when there is a memory, or as long ago as it goes back.
    pub since: Instant,
}

impl Memory {
    /// Adds a connection that is open, and was opened then.
    pub(super) fn add_open(&mut self, sighting: Sighting, opened: Instant, now: Instant) {
        let tally = Tally { count: 1, open: 1, first: opened, last: now };
        self.sightings.entry(sighting).and_modify(|known| *known = known.and(tally)).or_insert(tally);
    }
}

/// The memory of what has ended.
#[derive(Debug)]
pub(super) struct Seen {
    ended: HashMap<Sighting, Tally>,
    forgotten: u64,
    /// When the last one of those was there.
    last_forgotten: Option<Instant>,
    since: Instant,
}

impl Seen {
    pub(super) fn new(now: Instant) -> Self {
        Self { ended: HashMap::new(), forgotten: 0, last_forgotten: None, since: now }
    }

    /// A connection has ended that was opened then. Where one like it is known, nothing is allocated.
    pub(super) fn ended(&mut self, sighting: Sighting, opened: Instant, now: Instant) {
        let tally = Tally { count: 1, open: 0, first: opened, last: now };
        if let Some(known) = self.ended.get_mut(&sighting) {
            *known = known.and(tally);
            return;
        }
        if self.ended.len() >= ROOM {
            self.make_room(now);
        }
        self.ended.insert(sighting, tally);
    }

    /// What has ended, as far as it is remembered.
    pub(super) fn recall(&mut self, now: Instant) -> Memory {
        self.forget_old(now);
        let since = now.checked_sub(KEPT).map_or(self.since, |oldest| oldest.max(self.since));
        Memory { sightings: self.ended.clone(), forgotten: self.forgotten, since }
    }

    fn forget_old(&mut self, now: Instant) {
        let is_old = |moment: Instant| now.saturating_duration_since(moment) >= KEPT;
        self.ended.retain(|_, tally| !is_old(tally.last));
        if self.last_forgotten.is_some_and(is_old) {
            (self.forgotten, self.last_forgotten) = (0, None);
        }
    }

    /// Forgets what is old, or else what was not seen for longest; first of those who have proved nothing, so that strangers
    /// with many addresses do not make the mesh be forgotten.
    fn make_room(&mut self, now: Instant) {
        self.forget_old(now);
        if self.ended.len() < ROOM {
            return;
        }
        let rank = |sighting: &Sighting, tally: &Tally| (sighting.peer.is_some(), tally.last);
        let mut ranks: Vec<_> = self.ended.iter().map(|(sighting, tally)| rank(sighting, tally)).collect();
        let (_, &mut highest, _) = ranks.select_nth_unstable(FORGOTTEN - 1);
        // Of those of one rank no more than are wanted: they could be all there are.
        let mut left = FORGOTTEN;
        self.ended.retain(|sighting, tally| {
            let stays = left == 0 || rank(sighting, tally) > highest;
            if !stays {
                left -= 1;
                self.forgotten += 1;
                self.last_forgotten = self.last_forgotten.max(Some(tally.last));
            }
            stays
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// One of many.
    fn number(number: u32) -> Sighting {
        Sighting {
            direction: Direction::Inbound,
            workload: "web".into(),
            protocol: Protocol::Tcp,
            address: IpAddr::from(number.to_be_bytes()),
            port: 80,
            peer: None,
            is_public: false,
        }
    }

    fn recall(seen: &mut Seen, open: &[(Sighting, Instant)], now: Instant) -> Memory {
        let mut memory = seen.recall(now);
        open.iter().for_each(|(sighting, opened)| memory.add_open(sighting.clone(), *opened, now));
        memory
    }

    #[test]
    fn what_has_ended_and_what_is_open_is_counted_together() {
        let start = Instant::now();
        let mut seen = Seen::new(start);
        for at in 1..=3 {
            seen.ended(number(1), start + at * SECOND, start + at * 10 * SECOND);
        }
        let now = start + 100 * SECOND;
        let open = [(number(1), start), (number(2), start + 50 * SECOND), (number(1), start + 60 * SECOND)];
        let memory = recall(&mut seen, &open, now);
        let expected = Tally { count: 5, open: 2, first: start, last: now };
        assert_eq!(memory.sightings[&number(1)], expected);
        let expected = Tally { count: 1, open: 1, first: start + 50 * SECOND, last: now };
        assert_eq!(memory.sightings[&number(2)], expected);
        assert_eq!((memory.sightings.len(), memory.forgotten, memory.since), (2, 0, start));

        let memory = recall(&mut seen, &[], now);
        let expected = Tally { count: 3, open: 0, first: start + SECOND, last: start + 30 * SECOND };
        assert_eq!(memory.sightings, [(number(1), expected)].into());
    }

    #[test]
    fn whatever_decides_tells_sightings_apart() {
        let now = Instant::now();
        let mut seen = Seen::new(now);
        let one = number(1);
        let others = [
            Sighting { direction: Direction::Outbound, ..one.clone() },
            Sighting { workload: "db".into(), ..one.clone() },
            Sighting { port: 81, ..one.clone() },
            Sighting { peer: "spiffe://example.org/a".parse().ok(), ..one.clone() },
            Sighting { is_public: true, ..one.clone() },
            number(2),
        ];
        for sighting in others.iter().chain([&one, &one]) {
            seen.ended(sighting.clone(), now, now);
        }
        let memory = recall(&mut seen, &[], now);
        assert_eq!((memory.sightings.len(), memory.sightings[&one].count), (7, 2));
    }

    #[test]
    fn what_is_old_is_forgotten_and_is_not_missed() {
        let start = Instant::now();
        let mut seen = Seen::new(start);
        seen.ended(number(1), start, start);
        seen.ended(number(2), start, start + SECOND);
        assert_eq!(recall(&mut seen, &[], start + KEPT - SECOND).sightings.len(), 2);
        let memory = recall(&mut seen, &[], start + KEPT);
        assert_eq!(memory.sightings.keys().collect::<Vec<_>>(), [&number(2)]);
        let memory = recall(&mut seen, &[], start + 2 * KEPT);
        assert_eq!((memory.sightings.len(), memory.forgotten), (0, 0));
        assert_eq!(memory.since, start + KEPT, "it goes no further back");
    }

    #[test]
    fn there_is_an_end_to_what_is_remembered_and_it_is_said() {
        let start = Instant::now();
        let mut seen = Seen::new(start);
        let count = u32::try_from(ROOM).unwrap();
        for at in 0..count {
            seen.ended(number(at), start, start + at * Duration::from_millis(1));
        }
        let late = start + 100 * SECOND;
        seen.ended(number(0), late, late);
        assert_eq!(recall(&mut seen, &[], late).forgotten, 0, "it has just room");

        seen.ended(number(count), late, late);
        let memory = recall(&mut seen, &[], late);
        let forgotten = u32::try_from(FORGOTTEN).unwrap();
        assert_eq!((memory.sightings.len(), memory.forgotten), (ROOM - FORGOTTEN + 1, u64::from(forgotten)));
        assert!(memory.sightings.contains_key(&number(0)), "it was seen again");
        assert!(!memory.sightings.contains_key(&number(1)) && !memory.sightings.contains_key(&number(forgotten)));
        assert!(memory.sightings.contains_key(&number(forgotten + 1)) && memory.sightings.contains_key(&number(count)));

        // All of that would be too old by now.
        assert_eq!(recall(&mut seen, &[], late + KEPT).forgotten, 0);
    }

    #[test]
    fn strangers_do_not_make_the_mesh_be_forgotten() {
        let start = Instant::now();
        let mut seen = Seen::new(start);
        let known = Sighting { peer: "spiffe://example.org/a".parse().ok(), ..number(0) };
        seen.ended(known.clone(), start, start);
        let many = u32::try_from(3 * ROOM).unwrap();
        (0..many).for_each(|at| seen.ended(number(at), start, start + SECOND));
        let memory = recall(&mut seen, &[], start + SECOND);
        assert!(memory.sightings.contains_key(&known));
        assert_eq!(memory.forgotten + u64::try_from(memory.sightings.len()).unwrap(), u64::from(many) + 1);
    }

    #[test]
    fn many_of_one_moment_are_not_all_forgotten() {
        let now = Instant::now();
        let mut seen = Seen::new(now);
        (0..=u32::try_from(ROOM).unwrap()).for_each(|at| seen.ended(number(at), now, now));
        assert_eq!(recall(&mut seen, &[], now).sightings.len(), ROOM - FORGOTTEN + 1);
    }
}
