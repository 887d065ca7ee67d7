//! What each connection may do at every moment: it must succeed, must be refused, or, while a change is under way, either.
//!
//! [`Facts`] are what is in force; what follows from them is pure. The [`Book`] has what is expected of each flow now, and
//! remembers for every open ticket whether that has been the same all the time.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};

use enforcer_tests::config::{Mode, Path};
use enforcer_tests::wanderer::Keeper;

/// From whom to whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Flow {
    AToB,
    BToA,
    AToC,
    CToA,
    /// To the addresses that move, whoever has them.
    AToWandering,
    /// From the addresses that move.
    WanderingToA,
    /// From a workload in the network of `a` that has an identity which no registry gives to these addresses.
    ImpostorToB,
    ImpostorToC,
}

impl Flow {
    pub(crate) const ALL: [Flow; 8] = [
        Flow::AToB,
        Flow::BToA,
        Flow::AToC,
        Flow::CToA,
        Flow::AToWandering,
        Flow::WanderingToA,
        Flow::ImpostorToB,
        Flow::ImpostorToC,
    ];
    /// Those on which connections are kept open.
    pub(crate) const KEPT: [Flow; 4] = [Flow::AToB, Flow::BToA, Flow::AToC, Flow::CToA];

    pub(crate) fn begins_on_a(self) -> bool {
        !matches!(self, Flow::BToA | Flow::CToA | Flow::WanderingToA)
    }
}

/// What a connection may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Expected {
    Success,
    Refusal,
    Either,
}

/// What is in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Facts {
    /// Of `a` and `b`.
    pub(crate) paths: [Path; 2],
    /// Which of [`RULES`] each has.
    pub(crate) rules: [usize; 2],
    /// Of `b`.
    pub(crate) mode: Mode,
    /// Whether the registry of `a` has `c`.
    pub(crate) has_c: bool,
    /// Accounts whose identities are revoked.
    pub(crate) revoked: BTreeSet<&'static str>,
    /// Who has the addresses that move, and who has them in the registry of `a`.
    pub(crate) keeper: Keeper,
    pub(crate) registered: Keeper,
}

/// Rules of one node, and the flows that they deny; the first has none.
pub(crate) const RULES: [[(&str, &[Denied]); 3]; 2] = [
    [
        ("", &[]),
        (
            "inbound: { deny: [{ name: from-c, identities: ['spiffe://example.org/ns/default/sa/c'] }] }",
            &[Denied::From("c")],
        ),
        (
            "outbound: { deny: [{ name: to-b, identities: ['spiffe://example.org/ns/default/sa/b'] }] }",
            &[Denied::To("b")],
        ),
    ],
    [
        ("", &[]),
        (
            "selector: { workloads: [c] }, inbound: { deny: [{ name: from-a, namespaces: [default] }] }",
            &[Denied::To("c")],
        ),
        (
            "selector: { workloads: [b] }, outbound: { deny: [{ name: to-a, identities: \
             ['spiffe://example.org/ns/default/sa/a'] }] }",
            &[Denied::From("b")],
        ),
    ],
];

/// All connections between `a` and another account in one direction, as seen from `a`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Denied {
    To(&'static str),
    From(&'static str),
}

impl Facts {
    /// At the beginning: everything is as it should be.
    pub(crate) fn new(path: Path) -> Facts {
        Facts {
            paths: [path; 2],
            rules: [0; 2],
            mode: Mode::Strict,
            has_c: true,
            revoked: BTreeSet::new(),
            keeper: Keeper::B,
            registered: Keeper::B,
        }
    }

    pub(crate) fn expected(&self, flow: Flow) -> Expected {
        if self.succeeds(flow) { Expected::Success } else { Expected::Refusal }
    }

    fn succeeds(&self, flow: Flow) -> bool {
        let Some(direction) = self.direction(flow) else { return false };
        let (Denied::To(other) | Denied::From(other)) = direction;
        let is_registered = match flow {
            Flow::AToWandering | Flow::WanderingToA => {
                self.keeper == self.registered && (self.has_c || self.registered == Keeper::B)
            }
            _ => other != "c" || self.has_c,
        };
        let is_denied = (0..2).any(|node| RULES[node][self.rules[node]].1.contains(&direction));
        is_registered && !is_denied && !["a", other].iter().any(|account| self.revoked.contains(account))
    }

    /// The account at the other end of a flow of `a`.
    pub(crate) fn other(&self, flow: Flow) -> Option<&'static str> {
        self.direction(flow).map(|(Denied::To(other) | Denied::From(other))| other)
    }

    fn direction(&self, flow: Flow) -> Option<Denied> {
        let keeper = if self.keeper == Keeper::B { "b" } else { "c" };
        Some(match flow {
            Flow::AToB => Denied::To("b"),
            Flow::BToA => Denied::From("b"),
            Flow::AToC => Denied::To("c"),
            Flow::CToA => Denied::From("c"),
            Flow::AToWandering => Denied::To(keeper),
            Flow::WanderingToA => Denied::From(keeper),
            Flow::ImpostorToB | Flow::ImpostorToC => return None,
        })
    }

    /// Whether no agent carries the connections.
    pub(crate) fn is_direct(&self) -> bool {
        self.paths == [Path::Direct; 2]
    }
}

/// What is expected now, and was expected since each ticket was taken.
#[derive(Debug)]
pub(crate) struct Book(Mutex<Pages>);

#[derive(Debug)]
struct Pages {
    expected: HashMap<Flow, Expected>,
    tickets: HashMap<u64, (Flow, Expected)>,
    next: u64,
    path_changes: u64,
}

/// Of something that began and has not ended.
#[derive(Debug)]
pub(crate) struct Ticket(u64);

impl Book {
    pub(crate) fn new(facts: &Facts) -> Book {
        let expected = Flow::ALL.into_iter().map(|flow| (flow, facts.expected(flow))).collect();
        Book(Mutex::new(Pages { expected, tickets: HashMap::new(), next: 0, path_changes: 0 }))
    }

    pub(crate) fn now(&self, flow: Flow) -> Expected {
        self.pages().expected[&flow]
    }

    pub(crate) fn begin(&self, flow: Flow) -> Ticket {
        let mut pages = self.pages();
        let (number, expected) = (pages.next, pages.expected[&flow]);
        pages.next += 1;
        pages.tickets.insert(number, (flow, expected));
        Ticket(number)
    }

    /// What was expected from beginning to end; if that was not one thing, either.
    pub(crate) fn end(&self, ticket: Ticket) -> Expected {
        self.pages().tickets.remove(&ticket.0).map_or(Expected::Either, |(_, expected)| expected)
    }

    /// A change begins. What both sides of it allow goes on, unless it is `disturbed`; what both refuse stays refused.
    pub(crate) fn change(&self, facts: &Facts, next: &Facts, disturbed: impl Fn(Flow) -> bool) {
        if facts.paths != next.paths {
            self.pages().path_changes += 1;
        }
        for flow in Flow::ALL {
            let expected = match (facts.expected(flow), next.expected(flow)) {
                (Expected::Refusal, Expected::Refusal) => Expected::Refusal,
                (Expected::Success, Expected::Success) if !disturbed(flow) => Expected::Success,
                _ => Expected::Either,
            };
            self.pages().expect(flow, expected);
        }
    }

    /// How often another path was wanted. A connection from before goes on on the one that it has.
    pub(crate) fn path_changes(&self) -> u64 {
        self.pages().path_changes
    }

    /// It is in force.
    pub(crate) fn settle(&self, facts: &Facts) {
        Flow::ALL.into_iter().for_each(|flow| self.pages().expect(flow, facts.expected(flow)));
    }

    fn pages(&self) -> MutexGuard<'_, Pages> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pages {
    fn expect(&mut self, flow: Flow, now: Expected) {
        self.expected.insert(flow, now);
        for (of, expected) in self.tickets.values_mut().filter(|(of, expected)| *of == flow && *expected != now) {
            (*of, *expected) = (flow, Expected::Either);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_expected_follows_from_the_facts() {
        let facts = Facts::new(Path::Relay);
        assert_eq!(facts.expected(Flow::AToB), Expected::Success);
        assert_eq!(facts.expected(Flow::ImpostorToB), Expected::Refusal);
        let moved = Facts { keeper: Keeper::Beyond, ..facts.clone() };
        assert_eq!(moved.expected(Flow::AToWandering), Expected::Refusal);
        let told = Facts { registered: Keeper::Beyond, ..moved };
        assert_eq!(told.expected(Flow::WanderingToA), Expected::Success);
        assert_eq!(Facts { has_c: false, ..told.clone() }.expected(Flow::WanderingToA), Expected::Refusal);
        let denied = Facts { rules: [1, 0], ..told };
        assert_eq!(denied.expected(Flow::WanderingToA), Expected::Refusal);
        assert_eq!(denied.expected(Flow::AToWandering), Expected::Success);
        assert_eq!(denied.expected(Flow::CToA), Expected::Refusal);
    }

    #[test]
    fn a_ticket_knows_whether_anything_changed() {
        let facts = Facts::new(Path::Relay);
        let denied = Facts { rules: [1, 0], ..facts.clone() };
        let book = Book::new(&facts);
        let [concerned, other, refused] = [Flow::CToA, Flow::AToC, Flow::ImpostorToB].map(|flow| book.begin(flow));
        book.change(&facts, &denied, |_flow| false);
        assert_eq!(book.now(Flow::CToA), Expected::Either);
        book.settle(&denied);
        assert_eq!(book.now(Flow::CToA), Expected::Refusal);
        let late = book.begin(Flow::CToA);
        assert_eq!(book.end(concerned), Expected::Either);
        assert_eq!(book.end(other), Expected::Success);
        assert_eq!(book.end(refused), Expected::Refusal);
        assert_eq!(book.end(late), Expected::Refusal);
    }
}
