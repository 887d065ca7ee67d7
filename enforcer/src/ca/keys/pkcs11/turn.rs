//! One user at a time, and an end to waiting for one's turn.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// A token does not take so long, for all that may wait before.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);

/// Something that one thread uses at a time.
pub(super) struct Turn<T> {
    /// `None` while somebody uses it.
    free: Mutex<Option<T>>,
    returned: Condvar,
}

impl<T> Turn<T> {
    pub(super) fn new(value: T) -> Self {
        Self { free: Mutex::new(Some(value)), returned: Condvar::new() }
    }

    /// Waits for the turn and uses it. `None`: it did not come in time.
    pub(super) fn take<R>(&self, patience: Duration, work: impl FnOnce(&mut T) -> R) -> Option<R> {
        let waited = self.returned.wait_timeout_while(self.lock(), patience, |free| free.is_none());
        let (mut free, _timeout) = waited.unwrap_or_else(PoisonError::into_inner);
        let value = free.take()?;
        drop(free);
        let mut taken = Taken { turn: self, value: Some(value) };
        taken.value.as_mut().map(work)
    }

    fn lock(&self) -> MutexGuard<'_, Option<T>> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Is given back whatever happens, a panic too.
struct Taken<'a, T> {
    turn: &'a Turn<T>,
    value: Option<T>,
}

impl<T> Drop for Taken<'_, T> {
    fn drop(&mut self) {
        *self.turn.lock() = self.value.take();
        self.turn.returned.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::sync::mpsc;
    use std::thread;

    use super::*;

    #[test]
    fn turns_come_one_after_the_other() {
        let turn = Turn::new(0);
        thread::scope(|scope| {
            for _thread in 0..8 {
                scope.spawn(|| {
                    for _again in 0..100 {
                        turn.take(PATIENCE, |count| *count += 1).unwrap();
                    }
                });
            }
        });
        assert_eq!(turn.take(PATIENCE, |count| *count), Some(800));
    }

    #[test]
    fn waiting_ends() {
        let turn = Turn::new(());
        let (taken, is_taken) = mpsc::channel();
        let (end, may_end) = mpsc::channel::<()>();
        thread::scope(|scope| {
            let turn = &turn;
            scope.spawn(move || {
                turn.take(PATIENCE, |()| {
                    taken.send(()).unwrap();
                    may_end.recv().unwrap();
                })
            });
            is_taken.recv().unwrap();
            assert_eq!(turn.take(Duration::from_millis(1), |()| ()), None);
            end.send(()).unwrap();
            assert_eq!(turn.take(PATIENCE, |()| ()), Some(()));
        });
    }

    #[test]
    fn a_panic_gives_the_turn_back() {
        let turn = Turn::new(());
        let work = AssertUnwindSafe(|| turn.take(PATIENCE, |()| panic!("as it should")));
        assert!(catch_unwind(work).is_err());
        assert_eq!(turn.take(Duration::ZERO, |()| ()), Some(()));
    }
}
