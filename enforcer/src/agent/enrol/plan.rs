//! What there is to be: everything that a snapshot wants is looked for and made, and nobody sees it yet.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use enforcer_ebpf::Reason;

use super::member::{Member, open_cgroup, whereabouts};
use super::post::{self, Listening};
use super::{Enrolled, Enrolment, tables};
use crate::agent::{Error, own_addresses};
use crate::connection::{Home, Means, Picture, Programs, Seat, Workload, place_records};
use crate::control::snapshot::{self, Snapshot};
use crate::kernel::bpf::Paths;
use crate::kernel::cgroup::Whereabouts;
use crate::kernel::netns::Namespace;

/// What there is to be.
pub(in crate::agent) struct Plan {
    pub(super) picture: Arc<Picture>,
    pub(super) next: Enrolled,
    /// Of namespaces that are new.
    pub(super) listeners: Vec<Listening>,
    /// Whether a workload is enrolled that was not.
    pub(in crate::agent) has_new: bool,
}

impl Enrolment {
    /// Looks for what is enrolled already, and makes the rest.
    pub(in crate::agent) fn plan(&self, snapshot: &Arc<Snapshot>) -> Result<Plan, Error> {
        let (mut next, mut listeners) = (Enrolled::default(), Vec::new());
        let (mut workloads, mut has_new, here) = (Vec::new(), false, whereabouts()?);
        for wanted in snapshot.workloads() {
            let offload = place_records(wanted.offload, if self.has_ktls { Ok(()) } else { Err(()) });
            let member = match self.enrolled.members.get(&wanted.name).filter(|member| member.is(wanted)) {
                Some(member) => {
                    let netns = member.workload.home.namespace.cookie();
                    next.posts.entry(netns).or_insert_with(|| self.enrolled.posts[&netns].clone());
                    member.with(wanted, offload)
                }
                None => {
                    has_new = true;
                    self.open(wanted, &here, (snapshot, &mut next, &mut listeners))?
                }
            };
            workloads.push(Arc::clone(&member.workload));
            next.members.insert(wanted.name.clone(), member);
        }
        let picture = Arc::new(Picture::new(Arc::clone(snapshot), workloads));
        next.choose_paths(&picture);
        next.tables = tables(&picture, &next.posts, &self.guard.maps.outside())?;
        Ok(Plan { picture, next, listeners, has_new })
    }

    fn open(
        &self,
        wanted: &snapshot::Workload,
        here: &Whereabouts,
        (snapshot, next, listeners): (&Snapshot, &mut Enrolled, &mut Vec<Listening>),
    ) -> Result<Member, Error> {
        let path = wanted.network.path();
        let namespace =
            Namespace::open(&path).map_err(|cause| Error::Path { operation: "open network namespace", path, cause })?;
        let home = match next.posts.entry(namespace.cookie()) {
            // Two may name the same one differently.
            Entry::Occupied(post) => Arc::clone(&post.get().home),
            Entry::Vacant(vacant) => {
                let post = match self.enrolled.posts.get(&namespace.cookie()) {
                    Some(post) => post.clone(),
                    None => {
                        let (post, opened) = post::take(namespace, wanted, &self.closing)?;
                        listeners.extend(opened);
                        own_addresses::follow(&post.home, &self.guard.maps.outside(), post.listening.clone())?;
                        post
                    }
                };
                Arc::clone(&vacant.insert(post).home)
            }
        };
        let cgroup = open_cgroup(&wanted.cgroup, here)?;
        let workload = Arc::new(self.workload(wanted, (cgroup.id(), home)));
        announce(&workload, workload.means(snapshot.policy_of(wanted).path));
        Ok(Member { wanted: wanted.clone(), workload, cgroup: Arc::new(cgroup), has_direct: false })
    }

    fn workload(&self, wanted: &snapshot::Workload, (cgroup_id, home): (u64, Arc<Home>)) -> Workload {
        let loses = self.guard.maps.taken().loses_the_end(cgroup_id);
        let programs = if loses { Programs::LoseTheEnd } else { Programs::Unknown };
        let offload = place_records(wanted.offload, if self.has_ktls { Ok(()) } else { Err(()) });
        let seat = Seat { cgroup_id, home, kernel: self.kernel, programs, offload, turns: self.turns.clone() };
        let (store, names) = &self.certificates;
        Workload::new(wanted, seat, (Arc::clone(store), names.as_ref()))
    }
}

impl Enrolled {
    /// Where some workload of a namespace may have direct connections, or may have had some, its sockets are gated, and all
    /// its workloads have the programs for it.
    fn choose_paths(&mut self, picture: &Picture) {
        self.posts.values_mut().for_each(|post| post.paths = Paths::Relay);
        for member in self.members.values_mut() {
            let means = picture.means(&member.workload);
            member.has_direct |= matches!(means, Means::Direct | Means::Relay(Reason::ProgramLosesTheEnd));
            if let Some(post) = self.posts.get_mut(&member.netns()).filter(|_| member.has_direct) {
                post.paths = Paths::WithDirect;
            }
        }
        let paths = |member: &Member| Some((member.cgroup.id(), self.posts.get(&member.netns())?.paths));
        self.cgroups = self.members.values().filter_map(paths).collect::<HashMap<_, _>>();
    }
}

impl Member {
    /// The cookie of its namespace.
    fn netns(&self) -> u64 {
        self.workload.home.namespace.cookie()
    }
}

fn announce(workload: &Workload, means: Means) {
    let (name, identity, records) = (&workload.name, &workload.identity, workload.offload.explanation());
    let path = match means {
        Means::Direct => "direct where the peer has an agent",
        Means::Relay(reason) => reason.label(),
    };
    tracing::info!(workload = %name, %identity, path, relayed = records, "enrolling");
}
