//! The ring buffer by which programs tell of a change.
//!
//! Most events have somebody waiting for them, and wake the agent. The end of an open connection has not: where such ends
//! follow each other closely, the agent looks for them by itself every [`PAUSE`] and programs leave it to that. When
//! there were none for that long it says that it looks no more; a program that has not seen that yet may leave one event
//! unannounced, so it looks one last time a pause later. Where nothing happens, nothing ticks.

use std::io;
use std::pin::Pin;
use std::time::Duration;

use aya::Ebpf;
use aya::maps::{Array, MapData, RingBuf};
use enforcer_ebpf::Event;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::time::{Instant, Sleep, sleep};

use super::Error;
use super::maps::{failed, take};

/// How late an event may be read that nobody waits for.
const PAUSE: Duration = Duration::from_millis(100);

/// What programs tell, in the order in which they tell it.
pub struct Events {
    ring: AsyncFd<RingBuf<MapData>>,
    /// What programs know of [`Looking`].
    flag: Array<MapData, u32>,
    looking: Looking,
    /// The next look, while there is one.
    timer: Pin<Box<Sleep>>,
    /// When the last event came that can wait.
    last: Option<Instant>,
}

/// Whether the agent looks by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Looking {
    /// Every event wakes it.
    No,
    /// And programs know.
    Yes,
    /// Once more, although programs do not know.
    Last,
}

impl Events {
    pub(super) fn take(programs: &mut Ebpf) -> Result<Self, Error> {
        let ring: RingBuf<MapData> = take(programs, "EVENTS")?;
        // SAFETY: the ring owns its descriptor for as long as it lives, which is as long as `AsyncFd` does.
        let ring = unsafe { AsyncFd::register_with_interest(ring, Interest::READABLE) };
        let ring = ring.map_err(|error| Error::Events(error.into()))?;
        let mut flag: Array<MapData, u32> = take(programs, "LOOKING")?;
        // An earlier agent may have been looking when it was killed.
        flag.set(0, 0, 0).map_err(|cause| failed("write", "LOOKING", cause))?;
        Ok(Self { ring, flag, looking: Looking::No, timer: Box::pin(sleep(PAUSE)), last: None })
    }

    /// Waits for events, and hands each to `each`. Returns how many there were, which may be none.
    ///
    /// # Errors
    ///
    /// The operating system's.
    pub async fn read(&mut self, mut each: impl FnMut(&Event)) -> io::Result<usize> {
        let is_time = tokio::select! {
            biased;
            ready = self.ring.readable_mut() => {
                // Cleared first: what comes while the ring is emptied makes it ready again.
                ready?.clear_ready();
                false
            }
            () = &mut self.timer, if self.looking != Looking::No => true,
        };
        let (mut all, mut patient) = (0, 0);
        self.rest(|event| {
            all += 1;
            patient += usize::from(event.can_wait());
            each(event);
        });
        let now = Instant::now();
        let before = if patient > 0 { self.last.replace(now) } else { self.last };
        let is_busy = before.is_some_and(|before| now - before < PAUSE);
        match self.looking {
            Looking::No | Looking::Last if patient > 0 && is_busy => self.begin_looking(now),
            Looking::Yes if is_time => self.go_on_looking(now, patient > 0 || is_busy),
            Looking::Last if is_time => self.looking = Looking::No,
            _ => {}
        }
        Ok(all)
    }

    /// Hands what is there to `each`, and waits for nothing.
    pub fn rest(&mut self, mut each: impl FnMut(&Event)) {
        while let Some(item) = self.ring.get_mut().next() {
            if item.len() == size_of::<Event>() {
                // SAFETY: as many bytes as the type has, and any bit pattern is valid; they may lie at any address.
                each(&unsafe { item.as_ptr().cast::<Event>().read_unaligned() });
            }
        }
    }

    /// Of what can wait, something has come for the second time in a short while: more will come.
    fn begin_looking(&mut self, now: Instant) {
        if self.say(1) {
            self.look_next(Looking::Yes, now);
        }
    }

    /// It has looked when it was time to.
    fn go_on_looking(&mut self, now: Instant, is_busy: bool) {
        let next = if !is_busy && self.say(0) { Looking::Last } else { Looking::Yes };
        self.look_next(next, now);
    }

    fn look_next(&mut self, looking: Looking, now: Instant) {
        self.looking = looking;
        self.timer.as_mut().reset(now + PAUSE);
    }

    /// Tells programs. Where they cannot be told, things stay as they are.
    fn say(&mut self, looking: u32) -> bool {
        self.flag.set(0, looking, 0).is_ok()
    }
}
