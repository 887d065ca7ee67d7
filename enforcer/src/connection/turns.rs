//! Turns at the processors, so that a workload that wants much leaves the others what they need at once.
//!
//! The work on a connection is done in steps: from one moment at which it has to wait for somebody to the next. Each step needs
//! a turn. A workload has one turn at once for each processor but one, the node has two more, and both are given to those who
//! wait in the order in which they came. A workload asks the node only for turns that are its own already, so the others never
//! stand behind its crowd: before a step of one that is quiet there are at most the turns of each other workload.
//!
//! The runtime has threads to spare ([`threads`]): while every turn is taken one is left for all that needs none.

use std::future::{pending, poll_fn};
use std::mem;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::thread::available_parallelism;

use tokio::sync::{Semaphore, SemaphorePermit};

/// Steps at once beyond those that one workload may do.
const SPARE: usize = 2;

/// The turns of a node.
#[derive(Clone, Debug)]
pub struct Turns {
    node: Arc<Semaphore>,
    /// Of one lane.
    most: usize,
}

/// The turns of one workload, or of some others who have to share.
#[derive(Debug)]
pub struct Lane {
    node: Arc<Semaphore>,
    own: Semaphore,
}

/// How many threads the runtime needs in which turns are taken.
#[must_use]
pub fn threads() -> usize {
    of_one_workload() + SPARE + 1
}

/// A processor is left to the others, if there are several.
fn of_one_workload() -> usize {
    available_parallelism().map_or(1, usize::from).saturating_sub(1).max(1)
}

impl Default for Turns {
    /// For the processors of this machine.
    fn default() -> Self {
        Self::of(of_one_workload())
    }
}

impl Turns {
    fn of(most: usize) -> Self {
        Self { node: Arc::new(Semaphore::new(most + SPARE)), most }
    }

    /// Turns for one more workload.
    #[must_use]
    pub fn lane(&self) -> Lane {
        Lane { node: Arc::clone(&self.node), own: Semaphore::new(self.most) }
    }
}

impl Lane {
    /// Does the work, each step of it in a turn. The steps may not wait for one another in other ways than by being woken.
    pub async fn in_turns<T>(&self, work: impl Future<Output = T>) -> T {
        let mut work = pin!(work);
        loop {
            let turn = self.turn().await;
            let step = poll_fn(|context| Poll::Ready(work.as_mut().poll(context))).await;
            drop(turn);
            match step {
                Poll::Ready(done) => return done,
                Poll::Pending => woken().await,
            }
        }
    }

    async fn turn(&self) -> (SemaphorePermit<'_>, SemaphorePermit<'_>) {
        (take(&self.own).await, take(&self.node).await)
    }
}

/// Where nobody waits it is one look.
async fn take(turns: &Semaphore) -> SemaphorePermit<'_> {
    if let Ok(turn) = turns.try_acquire() {
        return turn;
    }
    // Nobody closes it.
    let Ok(turn) = turns.acquire().await else { return pending().await };
    turn
}

/// Returns when the task is polled next: what was polled before has its waker.
async fn woken() {
    let mut has_waited = false;
    poll_fn(|_context| if mem::replace(&mut has_waited, true) { Poll::Ready(()) } else { Poll::Pending }).await;
}

#[cfg(test)]
mod tests {
    use std::hint::spin_loop;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::{Duration, Instant};

    use tokio::sync::oneshot;
    use tokio::task::{JoinSet, yield_now};
    use tokio::time::{sleep, timeout};

    use super::*;

    /// Work of some steps that take a while, each of them counted.
    async fn work(done: Arc<AtomicUsize>) {
        for _ in 0..STEPS {
            let started = Instant::now();
            while started.elapsed() < Duration::from_micros(200) {
                spin_loop();
            }
            done.fetch_add(1, Ordering::Relaxed);
            yield_now().await;
        }
    }

    const STEPS: usize = 4;

    /// Without turns a quiet one would wait for its part of all there are, five times as long.
    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn a_quiet_one_waits_for_no_crowd() {
        const CROWD: usize = 500;
        let (turns, done) = (Turns::of(1), Arc::new(AtomicUsize::new(0)));
        let (loud, quiet) = (Arc::new(turns.lane()), turns.lane());
        let mut tasks = JoinSet::new();
        for _ in 0..CROWD {
            let (loud, done) = (Arc::clone(&loud), Arc::clone(&done));
            tasks.spawn(async move { loud.in_turns(work(done)).await });
        }
        yield_now().await;
        tokio::spawn(async move { quiet.in_turns(work(Arc::default())).await }).await.unwrap();
        let seen = done.load(Ordering::Relaxed);
        assert!(seen < STEPS * CROWD / 5, "the crowd has done {seen} steps meanwhile");
        tasks.join_all().await;
        assert_eq!(done.load(Ordering::Relaxed), STEPS * CROWD);
    }

    #[tokio::test]
    async fn who_waits_for_something_else_has_no_turn() {
        let turns = Turns::of(1);
        let (lane, other) = (Arc::new(turns.lane()), turns.lane());
        let mut waiting = Vec::new();
        let mut tasks = JoinSet::new();
        for number in 0..10 {
            let (tell, told) = oneshot::channel();
            waiting.push(tell);
            let lane = Arc::clone(&lane);
            tasks.spawn(async move { lane.in_turns(async { told.await.map(|()| number) }).await });
        }
        yield_now().await;
        let quick = timeout(Duration::from_secs(5), lane.in_turns(sleep(Duration::from_millis(1))));
        quick.await.expect("ten that wait keep nobody waiting");
        other.in_turns(async {}).await;
        waiting.into_iter().for_each(|tell| tell.send(()).unwrap());
        let mut done: Vec<_> = tasks.join_all().await.into_iter().map(Result::unwrap).collect();
        done.sort_unstable();
        assert_eq!(done, (0..10).collect::<Vec<_>>());
    }

    #[tokio::test]
    async fn work_that_is_dropped_gives_its_turn_back() {
        let turns = Turns::of(1);
        let lane = turns.lane();
        for _ in 0..10 {
            assert!(timeout(Duration::from_millis(1), lane.in_turns(pending::<()>())).await.is_err());
        }
        assert_eq!((lane.own.available_permits(), turns.node.available_permits()), (1, 1 + SPARE));
    }
}
