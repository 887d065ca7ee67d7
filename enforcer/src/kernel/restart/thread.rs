//! Tracing from any thread of the agent: threads that do nothing else, one for each call under way.
//!
//! Not one for all: a thread of a hostile application that does not stop would make everybody wait.

use std::io;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Mutex, PoisonError};
use std::thread;

use super::{Error, Restarted, Tracer};

/// Threads that are kept for the next call.
const KEPT: usize = 4;
/// Of a tracing thread.
const STACK: usize = 64 * 1024;

static IDLE: Mutex<Vec<Worker>> = Mutex::new(Vec::new());

/// Makes a thread of another process restart the system call that it is in. Waits for it, some 40 microseconds as a
/// rule and one second at most.
///
/// # Errors
///
/// [`Error`].
pub fn restart_call(tid: u32) -> Result<Restarted, Error> {
    let idle = IDLE.lock().unwrap_or_else(PoisonError::into_inner).pop();
    let worker = idle.map_or_else(Worker::start, Ok).map_err(|cause| failed(tid, cause))?;
    let answered = worker.requests.send(tid).ok().and_then(|()| worker.answers.recv().ok());
    let answer = answered.ok_or_else(|| failed(tid, io::Error::other("the tracing thread has ended")))?;
    if !answer.is_last {
        let mut idle = IDLE.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < KEPT {
            idle.push(worker);
        }
    }
    answer.result
}

fn failed(tid: u32, cause: io::Error) -> Error {
    Error::System { operation: "trace", tid, cause }
}

/// A tracing thread. It ends when this is dropped.
struct Worker {
    requests: SyncSender<u32>,
    answers: Receiver<Answer>,
}

struct Answer {
    result: Result<Restarted, Error>,
    is_last: bool,
}

impl Worker {
    fn start() -> io::Result<Self> {
        let (requests, next) = sync_channel(1);
        let (answer, answers) = sync_channel(1);
        thread::Builder::new().name("tracer".to_owned()).stack_size(STACK).spawn(move || run(&next, &answer))?;
        Ok(Self { requests, answers })
    }
}

fn run(requests: &Receiver<u32>, answers: &SyncSender<Answer>) {
    let mut tracer = Tracer::new();
    while let Ok(tid) = requests.recv() {
        let result = tracer.restart_call(tid);
        let is_last = tracer.is_spent();
        // The end of this thread is what lets go of a thread that does not stop.
        if answers.send(Answer { result, is_last }).is_err() || is_last {
            return;
        }
    }
}
