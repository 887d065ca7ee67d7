//! A connection of the workload's own: a process inside its cgroup and network namespace connects, sends a text, hears the
//! answer, and holds the connection open until it is told to end it.
//!
//! The process is this program again, with a verb that is in no help. It says on its standard output what it has done, a
//! line of JSON for each step, and ends when its standard input does, so that it never outlives who has sent it.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::process::{Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::Args as ClapArgs;
use serde::{Deserialize, Serialize};

use crate::cli::ExitCode;
use crate::control::snapshot::Workload;
use crate::kernel::inside::Inside;
use crate::kernel::netns::Namespace;

/// How long the other end may take to end its half once ours is ended.
const GOODBYE: Duration = Duration::from_secs(1);

/// What the process has done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Step {
    /// `connect` has returned; the socket's own address is this one.
    Connected(SocketAddr),
    /// So much was sent.
    Sent(usize),
    /// So much has come back.
    Answered(usize),
    /// The other end has ended its half.
    Ended,
    /// Nothing has come back in time.
    Silence,
    /// It did not work.
    Failed(String),
}

/// The process, as it is seen from here.
#[derive(Debug)]
pub(super) struct Errand {
    process: Inside,
    said: Receiver<Step>,
    /// All it has done until now.
    pub(super) steps: Vec<Step>,
}

impl Errand {
    /// Sends a process out.
    pub(super) fn start(
        (workload, namespace): (&Workload, &Namespace),
        to: SocketAddr,
        (text, within): (&str, Duration),
    ) -> io::Result<Self> {
        let command = || {
            // Also when the file has been replaced since.
            let mut command = Command::new("/proc/self/exe");
            command.arg("verify-errand").args(["--to", &to.to_string()]).args(["--text", text]);
            command.args(["--patience", &within.as_millis().to_string()]);
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
            command
        };
        let mut process = Inside::start(command, &workload.cgroup, namespace)?;
        let stdout = process.child().stdout.take().ok_or(io::ErrorKind::BrokenPipe)?;
        let (tell, said) = mpsc::channel();
        thread::spawn(move || {
            let lines = BufReader::new(stdout).lines().map_while(Result::ok);
            let steps = lines.map_while(|line| serde_json::from_str(&line).ok());
            // Who has sent it may have lost interest.
            steps.take_while(|step: &Step| tell.send(step.clone()).is_ok()).for_each(drop);
        });
        Ok(Self { process, said, steps: Vec::new() })
    }

    /// Takes what it has said since.
    pub(super) fn listen(&mut self) {
        self.steps.extend(self.said.try_iter());
    }

    /// The address of its socket.
    pub(super) fn local(&self) -> Option<SocketAddr> {
        self.steps.iter().find_map(|step| if let Step::Connected(local) = step { Some(*local) } else { None })
    }

    /// Whether it has nothing more to do but to end the connection.
    pub(super) fn is_done(&self) -> bool {
        let is_last = |step: &Step| !matches!(step, Step::Connected(_) | Step::Sent(_));
        self.steps.last().is_some_and(is_last)
    }

    /// Why it did not work, if it did not.
    pub(super) fn failure(&self) -> Option<&str> {
        self.steps.iter().find_map(|step| if let Step::Failed(why) = step { Some(why.as_str()) } else { None })
    }

    /// Tells it to end the connection.
    pub(super) fn end(&mut self) {
        drop(self.process.child().stdin.take());
    }
}

/// The command line of the process. Nobody but `enforcer verify` writes one.
#[derive(Debug, ClapArgs)]
pub struct ErrandArgs {
    #[arg(long)]
    to: SocketAddr,
    #[arg(long, allow_hyphen_values = true)]
    text: String,
    /// Milliseconds.
    #[arg(long)]
    patience: u64,
}

/// What the process does.
///
/// # Errors
///
/// When standard output cannot be written: nobody listens any more.
pub fn run_errand(args: &ErrandArgs) -> anyhow::Result<ExitCode> {
    match converse(args) {
        Ok(stream) => {
            let _told_to_end = io::stdin().lock().read_to_end(&mut Vec::new());
            say_goodbye(stream).context("end the connection")?;
            Ok(ExitCode::Ok)
        }
        Err(error) => {
            say(&Step::Failed(format!("{error:#}")))?;
            Ok(ExitCode::Failed)
        }
    }
}

fn converse(args: &ErrandArgs) -> anyhow::Result<TcpStream> {
    let patience = Duration::from_millis(args.patience.max(1));
    let mut stream =
        TcpStream::connect_timeout(&args.to, patience).with_context(|| format!("connect to {}", args.to))?;
    say(&Step::Connected(stream.local_addr().context("ask for the address of the socket")?))?;
    stream.set_write_timeout(Some(patience)).context("limit the time to send")?;
    stream.set_read_timeout(Some((patience / 2).max(Duration::from_millis(1)))).context("limit the time to receive")?;
    stream.write_all(args.text.as_bytes()).context("send")?;
    say(&Step::Sent(args.text.len()))?;
    let step = match stream.read(&mut [0; 16 * 1024]) {
        Ok(0) => Step::Ended,
        Ok(octets) => Step::Answered(octets),
        Err(error) if is_timeout(&error) => Step::Silence,
        Err(error) => return Err(error).context("receive"),
    };
    say(&step)?;
    Ok(stream)
}

/// In order, so that the last record is seen whole. What still comes is read for a while, or the end would be a reset.
fn say_goodbye(mut stream: TcpStream) -> io::Result<()> {
    let started = Instant::now();
    stream.set_read_timeout(Some(GOODBYE))?;
    stream.shutdown(Shutdown::Write)?;
    let mut rest = [0; 16 * 1024];
    while started.elapsed() < GOODBYE {
        match stream.read(&mut rest) {
            Ok(0) => break,
            Ok(_more) => {}
            Err(error) if is_timeout(&error) => break,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}

fn say(step: &Step) -> anyhow::Result<()> {
    Ok(crate::cli::print(&(serde_json::to_string(step)? + "\n"))?)
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    fn sent_to(listener: &TcpListener, serve: impl FnOnce(TcpStream) + Send + 'static) -> anyhow::Result<TcpStream> {
        let args = ErrandArgs { to: listener.local_addr().unwrap(), text: "hello".to_owned(), patience: 2_000 };
        let listener = listener.try_clone().unwrap();
        let served = thread::spawn(move || serve(listener.accept().unwrap().0));
        let conversed = converse(&args);
        served.join().unwrap();
        conversed
    }

    #[test]
    fn it_sends_and_hears_the_answer_and_ends_in_order() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (kept, keep) = mpsc::channel();
        let stream = sent_to(&listener, move |mut stream| {
            let mut heard = [0; 5];
            stream.read_exact(&mut heard).unwrap();
            stream.write_all(&heard).unwrap();
            kept.send(stream).unwrap();
        });
        let mut server = keep.recv().unwrap();
        let ended = thread::spawn(move || server.read(&mut [0]).unwrap());
        say_goodbye(stream.unwrap()).unwrap();
        assert_eq!(ended.join().unwrap(), 0);
    }

    #[test]
    fn a_reset_is_why_it_failed() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let error = sent_to(&listener, |stream| {
            socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
        });
        let error = format!("{:#}", error.unwrap_err());
        assert!(error.starts_with("receive: ") || error.starts_with("send: "), "{error}");
    }
}
