//! From keys to an open socket, in steps that both ends take in their own order.
//!
//! What a thread does that was inside a call on the socket when the keys came would still be plaintext: such a thread
//! is made to start its call again, after the keys are in and before the gate opens. Programs know these threads. They
//! are looked for twice: a thread that has chosen the function of plain TCP, and has not begun it yet, is seen when the
//! gate is opened. A thread that has started its call again since the keys are in has chosen that of kernel TLS; it waits
//! in it for the gate, and is left there.

use std::os::fd::OwnedFd;
use std::sync::OnceLock;
use std::time::Duration;

use enforcer_ebpf::{AS_WANTED, CALLERS, GATE_KEYED, GATE_OPEN, Gate, Held, Reason};
use socket2::SockRef;
use tokio::runtime::Handle;
use tokio::time::sleep;

use super::Direct;
use crate::connection::Workload;
use crate::connection::pair::{Keys, TrafficKey};
use crate::kernel::ktls;
use crate::kernel::restart::{self, restart_call};
use crate::kernel::socket;

/// A held socket of an application, in the agent's hands too. While it is, the connection cannot end.
pub(super) struct Socket {
    /// There until it is dropped.
    descriptor: Option<OwnedFd>,
    /// What an agent before this one has given to the kernel; `None`: nothing.
    earlier: Option<Earlier>,
    /// Threads that have started their calls again since the keys are in.
    restarted: OnceLock<[u64; CALLERS]>,
}

/// Keys that a socket has: for sending, and for receiving.
type Earlier = (TrafficKey, TrafficKey);

/// How long a thread may be without the processor before it is seen, when nobody is inside a call on the socket.
const SETTLING: Duration = Duration::from_millis(2);

/// Pauses between looks for a socket that no process has: it may be on its way from one to another (SCM_RIGHTS, unix(7)).
/// One that was closed is let go that much later.
const PAUSES: [Duration; 2] = [Duration::from_millis(20), Duration::from_millis(100)];

/// Fetches the application's socket, and puts the kernel's record layer under it, unless an agent before this one has:
/// that is refused once the peer has sent FIN, or the application has.
pub(super) async fn fetch(
    direct: &Direct,
    workload: &Workload,
    (cookie, held): (u64, &Held),
) -> Result<Socket, Reason> {
    let mut found = find(direct, workload, (cookie, held));
    for pause in PAUSES {
        if !matches!(found, Err(Reason::EndedBeforeKeys)) || direct.holds.held_one(cookie).is_none() {
            break;
        }
        sleep(pause).await;
        found = find(direct, workload, (cookie, held));
    }
    let descriptor = found?;
    let earlier = match ktls::attach(&descriptor) {
        Ok(()) => None,
        Err(error) if ktls::is_there(&error) => earlier(direct, &descriptor)?,
        Err(error) => {
            tracing::debug!(%error, "record layer not attached");
            return Err(Reason::EndedBeforeKeys);
        }
    };
    Ok(Socket { descriptor: Some(descriptor), earlier, restarted: OnceLock::new() })
}

fn find(direct: &Direct, workload: &Workload, (cookie, held): (u64, &Held)) -> Result<OwnedFd, Reason> {
    if held.process != 0 && held.descriptor >= 0 {
        match direct.processes.socket_of(held.process, held.descriptor, cookie) {
            Ok(socket) => return Ok(socket),
            Err(error) => tracing::debug!(%error, "socket not where it was"),
        }
    }
    direct.metrics.searched();
    match direct.processes.find_in_cgroup(&workload.cgroup, cookie) {
        Ok(Some((_process, socket))) => Ok(socket),
        Ok(None) => Err(Reason::EndedBeforeKeys),
        Err(error) => {
            tracing::warn!(%error, workload = %workload.name, "cannot search for a socket");
            Err(Reason::DescriptorUnknown)
        }
    }
}

impl Socket {
    /// The keys that an agent before this one has given to the kernel, as what the end that has opened the connection sends
    /// and receives with. `None`: it has given none.
    pub(super) fn keys_from_before(&self) -> Option<Keys> {
        self.earlier.clone().map(|(forward, back)| Keys { forward, back })
    }

    /// Gives both keys to the kernel. From now on records may arrive, and nothing may leave. A socket that has keys from
    /// before takes no others.
    pub(super) fn key(&self, direct: &Direct, send: &TrafficKey, receive: &TrafficKey) -> Result<(), Reason> {
        match &self.earlier {
            None => self.key_untouched(send, receive)?,
            Some((sends, receives)) if (sends, receives) == (send, receive) => {}
            Some(_) => return Err(Reason::OfferRepeated),
        }
        direct.holds.set_gate(self.descriptor(), Gate::new(GATE_KEYED)).map_err(internal)?;
        let restarted = self.restart_calls(direct)?;
        self.restarted.get_or_init(|| restarted);
        Ok(())
    }

    fn key_untouched(&self, send: &TrafficKey, receive: &TrafficKey) -> Result<(), Reason> {
        // What was written before would go out as it is. The gate has let nothing in; data that rides on the first
        // packet (RFC 7413) is the one way around it.
        let unread = ktls::unread(self.descriptor()).map_err(internal)?;
        let clear = match ktls::unsent(self.descriptor()).map_err(internal)? {
            0 => true,
            // An end of data counts as one octet that waits.
            1 => socket::has_shut_down(self.descriptor()).map_err(internal)?,
            _ => false,
        };
        if unread > 0 || !clear {
            return Err(Reason::EarlyData);
        }
        ktls::send_with(self.descriptor(), &send.into()).map_err(internal)?;
        ktls::receive_with(self.descriptor(), &receive.into()).map_err(internal)
    }

    /// Gives a thread that is not seen the time to show itself. It has chosen the function of plain TCP, and has lost the
    /// processor before it was noted, to an interrupt, to another thread where the kernel preempts, or with the whole
    /// processor where that is virtual: it would be too late for it when the gate is open. Where somebody is inside a call
    /// already there is nothing to wait for.
    pub(super) async fn settle(&self) {
        if self.restarted.get().is_none_or(|threads| threads.iter().all(|&thread| thread == 0)) {
            sleep(SETTLING).await;
        }
    }

    /// Opens the gate. The connection is written down as open; until it is, it is held all the same: an agent that dies in
    /// between leaves it in both tables, and the next one opens it.
    pub(super) fn open(&self, direct: &Direct, cookie: u64) -> Result<(), Reason> {
        self.restart_calls(direct)?;
        direct.holds.set_gate(self.descriptor(), Gate::new(GATE_OPEN)).map_err(internal)?;
        // A program keeps for the application what it was. The write gate is shut until the next line.
        ktls::enlarge_send_buffer(self.descriptor()).map_err(internal)?;
        ktls::set_write_gate(self.descriptor(), AS_WANTED).map_err(internal)?;
        if direct.holds.forget_held(cookie) {
            return Ok(());
        }
        // Programs that take it out as it ends look into both tables, in this order; it may not have been in the other one yet.
        direct.holds.forget_live(cookie);
        Err(Reason::EndedBeforeKeys)
    }

    fn descriptor(&self) -> &OwnedFd {
        self.descriptor.as_ref().expect("it is there until the socket is dropped")
    }

    /// Makes those threads start their calls again that have not yet. Returns who they were.
    fn restart_calls(&self, direct: &Direct) -> Result<[u64; CALLERS], Reason> {
        let Some(mut callers) = direct.holds.callers(self.descriptor()) else { return Ok([0; CALLERS]) };
        if callers.overflow > 0 {
            tracing::warn!(known = CALLERS, "more threads are inside calls on one socket than are known");
            return Err(Reason::TooManyWaiters);
        }
        if let Some(restarted) = self.restarted.get() {
            callers.threads.iter_mut().filter(|thread| restarted.contains(thread)).for_each(|thread| *thread = 0);
        }
        let threads = callers.threads.into_iter().filter(|&thread| thread != 0);
        for thread in threads.filter_map(|thread| u32::try_from(thread).ok()) {
            direct.metrics.restarted();
            restart_call(thread).map_err(|error| {
                tracing::warn!(%error, thread, "thread not restarted");
                match error {
                    restart::Error::AlreadyTraced { .. } => Reason::ProcessTraced,
                    _ => Reason::Internal,
                }
            })?;
        }
        Ok(callers.threads)
    }
}

impl Direct {
    /// A thread began to receive when the gate was open already, with the function that it had chosen before. If it cannot
    /// be made to start again in time, a program ends the connection.
    pub(super) fn restart_late(&self, thread: u64) {
        let Ok(thread) = u32::try_from(thread) else { return };
        self.metrics.restarted();
        self.tasks.spawn_blocking(move || match restart_call(thread) {
            Ok(_) => tracing::debug!(thread, "late thread restarted"),
            Err(error) => tracing::warn!(%error, thread, "late thread not restarted"),
        });
    }
}

/// When the application has closed its own descriptor meanwhile, ours is the last, and closing it takes as long as the
/// application's SO_LINGER says: not on a thread that others wait for.
impl Drop for Socket {
    fn drop(&mut self) {
        let Some(descriptor) = self.descriptor.take() else { return };
        let lingers = !SockRef::from(&descriptor).linger().is_ok_and(|linger| linger.is_none());
        if let (true, Ok(runtime)) = (lingers, Handle::try_current()) {
            runtime.spawn_blocking(move || drop(descriptor));
        }
    }
}

/// An agent before this one has put the record layer there, and may have died before it had keys. Or the application has,
/// and may have keys of its own: those are not taken, so the gate is asked, which no application can reach.
fn earlier(direct: &Direct, socket: &OwnedFd) -> Result<Option<Earlier>, Reason> {
    // Open: it has died on the way out of `Socket::open`.
    if !direct.holds.gate(socket).is_some_and(|gate| matches!(gate.state, GATE_KEYED | GATE_OPEN)) {
        return Ok(None);
    }
    let keys = ktls::keys(socket).map_err(internal)?;
    let key = |installed: &ktls::Installed| TrafficKey::new(installed.suite, &installed.octets);
    Ok(Some((key(&keys.send), key(&keys.receive))))
}

fn internal(error: impl std::error::Error) -> Reason {
    let cause = error.source().map(ToString::to_string);
    tracing::warn!(%error, cause, "held socket not given its keys");
    Reason::Internal
}
