//! The thread that commits: it takes all transactions that wait, writes them together, and answers them.
//!
//! Each has its own conditions and its own outcome; those that were queued first are made first. Memory: at most
//! [`MOST_TOGETHER`] transactions being written and as many that wait; whoever comes later waits to be queued.

use std::sync::Arc;
use std::thread::{self, JoinHandle};

use tokio::sync::{mpsc, oneshot, watch};

use super::table::{Table, changed};
use crate::ca::store::{Error, Outcome, Transaction};

/// Transactions with one fsync.
const MOST_TOGETHER: usize = 64;

#[derive(Debug)]
pub(super) struct Writer {
    table: Arc<Table>,
    /// `None` once it is finished.
    queue: Option<mpsc::Sender<Job>>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Job {
    transaction: Transaction,
    answer: oneshot::Sender<Result<Outcome, Error>>,
}

impl Writer {
    /// Starts the thread; `changes` counts up after each change, before it is answered.
    pub(super) fn start(table: Arc<Table>, changes: watch::Sender<u64>) -> Result<Self, Error> {
        let (queue, jobs) = mpsc::channel(MOST_TOGETHER);
        let writing = Arc::clone(&table);
        let thread = thread::Builder::new().name("store".to_owned()).spawn(move || run(&writing, jobs, &changes));
        let thread = thread.map_err(|cause| table.failed("start the thread of")(cause.into()))?;
        Ok(Self { table, queue: Some(queue), thread: Some(thread) })
    }

    pub(super) async fn commit(&self, transaction: Transaction) -> Result<Outcome, Error> {
        let (answer, answered) = oneshot::channel();
        let ended = |_| self.table.failed("commit to")("its thread has ended".into());
        let queue = self.queue.as_ref().ok_or(()).map_err(ended)?;
        queue.send(Job { transaction, answer }).await.map_err(|_unsent| ended(()))?;
        answered.await.map_err(|_closed| ended(()))?
    }

    /// Commits what is queued, and ends the thread.
    pub(super) fn finish(&mut self) {
        self.queue = None;
        if let Some(thread) = self.thread.take() {
            // It lets no panic of redb through, and has none of its own.
            let _ended = thread.join();
        }
    }
}

fn run(table: &Table, mut jobs: mpsc::Receiver<Job>, changes: &watch::Sender<u64>) {
    while let Some(first) = jobs.blocking_recv() {
        let mut transactions = vec![first.transaction];
        let mut answers = vec![first.answer];
        while transactions.len() < MOST_TOGETHER
            && let Ok(Job { transaction, answer }) = jobs.try_recv()
        {
            transactions.push(transaction);
            answers.push(answer);
        }
        match table.commit(&transactions) {
            Ok(outcomes) => {
                if changed(&transactions, &outcomes) {
                    changes.send_modify(|count| *count += 1);
                }
                answers.into_iter().zip(outcomes).for_each(|(answer, outcome)| tell(answer, Ok(outcome)));
            }
            Err(error) => {
                // It may have come after the file was written.
                let cause = Arc::new(error);
                let unanswered = || Error::Unanswered { store: table.name(), cause: Box::new(Arc::clone(&cause)) };
                answers.into_iter().for_each(|answer| tell(answer, Err(unanswered())));
            }
        }
    }
}

/// Whoever asked may have stopped waiting.
fn tell(answer: oneshot::Sender<Result<Outcome, Error>>, outcome: Result<Outcome, Error>) {
    let _told = answer.send(outcome);
}
