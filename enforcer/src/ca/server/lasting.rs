//! Work that goes on when nobody waits for it any more.
//!
//! A call ends with its deadline, or when whoever asked has gone. A key that is being made takes longer than that where
//! processors are slow, and half of a step leaves keys behind that nobody knows; asked again, it would begin anew.

use std::future::Future;
use std::sync::Arc;

use tokio::sync::Mutex;
use tokio::task::JoinError;

/// Does one work after the other, each to its end.
#[derive(Debug, Default)]
pub(super) struct Lasting(Arc<Mutex<()>>);

impl Lasting {
    /// Waits for its turn and for its end; dropping the future only stops the waiting.
    ///
    /// # Errors
    ///
    /// It has panicked.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> Result<T, JoinError> {
        let turns = Arc::clone(&self.0);
        let to_its_end = async move {
            let _turn = turns.lock().await;
            work.await
        };
        tokio::spawn(to_its_end).await
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::sync::oneshot;
    use tokio::time::timeout;

    use super::*;

    #[tokio::test]
    async fn work_goes_on_without_its_asker_and_the_next_one_finds_it_done() {
        let lasting = Lasting::default();
        let (let_go, held) = oneshot::channel();
        let done = Arc::new(Mutex::new(Vec::new()));
        let work = |number: u32| {
            let done = Arc::clone(&done);
            async move { done.lock().await.push(number) }
        };
        let (first, second) = (work(1), work(2));
        let slow = async move {
            let _let_go = held.await;
            first.await;
        };
        assert!(timeout(Duration::from_millis(1), lasting.run(slow)).await.is_err(), "nobody has let it go");
        let next = tokio::spawn(async move { lasting.run(second).await });
        let_go.send(()).unwrap();
        next.await.unwrap().unwrap();
        assert_eq!(*done.lock().await, [1, 2]);
    }
}
