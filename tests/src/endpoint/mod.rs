//! A small program for both ends of a connection, for what no everyday program does on demand.
//!
//! It runs inside a workload like any other program (`peer` starts it) and knows nothing of agents. Servers
//! serve the number of connections they are told, then print one line of JSON with an outcome for each; clients
//! print one line. Whatever happens on a connection is an outcome: the exit code is 0 unless the program could
//! not do its part at all.

mod client;
mod server;

mod asynchronous;
mod bulk;
mod ring;

mod reach;
mod svid;

mod ktls;
mod load;
mod measured;
pub mod stopwatch;

use std::io;
use std::net::{IpAddr, SocketAddr};

use anyhow::Result;
use clap::{Args, Parser, Subcommand, ValueEnum};
use serde_json::{Value, json};

/// The command line.
#[derive(Debug, Parser)]
#[command(about = "One end of a TCP connection, for tests")]
pub struct Endpoint {
    #[command(subcommand)]
    role: Role,
}

#[derive(Debug, Subcommand)]
enum Role {
    /// Accept connections
    Serve(Serve),
    /// Open connections
    Connect(Connect),
    /// Try what can be reached
    Reach(reach::Reach),
    /// Fetch the certificate of this process from a SPIFFE Workload API
    Svid(svid::Fetch),
}

#[derive(Debug, Args)]
struct Serve {
    /// What to do with a connection
    behaviour: ServerBehaviour,
    /// Where to listen
    #[arg(long)]
    listen: SocketAddr,
    /// How many connections to serve before the end
    #[arg(long, default_value_t = 1)]
    connections: usize,
    /// Accept nobody until standard input ends
    #[arg(long)]
    late: bool,
    /// Who waits for the kernel, and how
    #[arg(long, default_value = "threads")]
    by: By,
    /// Set up kernel TLS, with keys that everybody knows; threads only
    #[arg(long)]
    ktls: bool,
    #[command(flatten)]
    content: Content,
}

#[derive(Debug, Args)]
struct Connect {
    /// What to do with the connection
    behaviour: ClientBehaviour,
    /// Where to connect to
    #[arg(long)]
    to: SocketAddr,
    /// The address to connect from
    #[arg(long)]
    from: Option<IpAddr>,
    /// How many connections to hold open at once
    #[arg(long, default_value_t = 1)]
    connections: usize,
    /// How many of them to open before the first of these is used; all when not given
    #[arg(long, default_value_t = usize::MAX)]
    wave: usize,
    /// How many times to do it all, one after the other; more than once prints a list of outcomes
    #[arg(long, default_value_t = 1)]
    times: usize,
    /// How many milliseconds to wait before each of them; threads only
    #[arg(long, default_value_t = 0)]
    every: u64,
    /// Who waits for the kernel, and how
    #[arg(long, default_value = "threads")]
    by: By,
    /// Set up kernel TLS, with keys that everybody knows; threads only
    #[arg(long)]
    ktls: bool,
    /// How many rounds of ping-pong to play, or how many visits to make
    #[arg(long, default_value_t = 1)]
    rounds: usize,
    /// How many bytes a ping of ping-pong or volley has; threads only
    #[arg(long, default_value_t = client::PING)]
    size: usize,
    /// How many values to ask redis for with one write
    #[arg(long, default_value_t = 1)]
    pipeline: usize,
    /// How many threads visitors have that do nothing
    #[arg(long, default_value_t = 0)]
    idle_threads: usize,
    #[command(flatten)]
    content: Content,
}

#[derive(Debug, Args)]
struct Content {
    /// How many bytes to send
    #[arg(long, default_value_t = 0)]
    bytes: usize,
    /// Text to send
    #[arg(long, default_value = "")]
    text: String,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum By {
    /// Threads in blocking calls
    Threads,
    /// Tokio: non-blocking calls and epoll; echo, bulk, ping-pong and read only
    Tokio,
    /// Requests in an io_uring; echo, bulk and ping-pong only
    Ring,
    /// The same on descriptors that exist in the ring alone
    RingDirect,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum ServerBehaviour {
    /// Send back what comes
    Echo,
    /// Send the text before anything comes, then read to the end
    Banner,
    /// Send and receive at once
    Bulk,
    /// Read to the end, then answer with the text
    AnswerAtEnd,
    /// Send the text and end this direction, then read to the end
    EndFirst,
    /// Reset the connection after the first bytes
    Reset,
    /// Read nothing until standard input ends, then read to the end
    Stall,
    /// Read to the end
    Hear,
    /// Send the text, or bytes, and close without having read
    Farewell,
    /// Send back what comes, on one connection after the other
    Turns,
    /// Read to the end and look at nothing
    Drain,
    /// Send and receive bytes at once and look at nothing
    Trade,
    /// Hear and say a byte on each connection, and hold all of them until standard input ends
    Keep,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum ClientBehaviour {
    /// Send bytes and wait for them to come back, again and again
    PingPong,
    /// The same on many connections: send on each, then wait for each
    Volley,
    /// Get `/page` over HTTP/1.1, on each connection, again and again
    Get,
    /// Store a value in redis and get it, again and again
    RedisGet,
    /// Send the text, then read to the end without ending this direction
    Read,
    /// Send and receive at once
    Bulk,
    /// Send the text and end this direction, then read to the end
    EndFirst,
    /// Read to the end, then send the text and end
    AnswerAtEnd,
    /// Send the text, wait for an answer, then reset the connection
    Reset,
    /// Open all connections, then use each of them, then close all; or the same wave by wave, and close all at the end
    Parallel,
    /// Send bytes that are not TLS, then read to the end
    Garbage,
    /// Send, and say how far it went when the other end took no more
    Flood,
    /// Close at once
    Leave,
    /// Send the text, or bytes, and close at once
    Tell,
    /// Receive as much as the text is long, send each character of it with MSG_MORE and close at once
    TellMore,
    /// Read to the end, and give the checksum of what came
    Collect,
    /// Connect, send 64 bytes, wait for them to come back and close, again and again
    Visit,
    /// Send bytes as fast as can be
    Pour,
    /// Send and receive bytes at once and look at nothing
    Trade,
    /// Send and hear a byte on each connection, and hold all of them until standard input ends
    Hold,
}

impl Endpoint {
    /// Plays the role and prints the outcome.
    pub fn run(self) -> Result<()> {
        match self.role {
            Role::Serve(serve) => match serve.by {
                By::Threads => server::run(serve),
                By::Tokio => asynchronous::serve(serve),
                By::Ring | By::RingDirect => ring::serve(&serve),
            },
            Role::Connect(connect) => match connect.by {
                By::Threads => client::run(&connect),
                By::Tokio => asynchronous::connect(connect),
                By::Ring | By::RingDirect => ring::connect(&connect),
            },
            Role::Reach(reach) => reach::run(&reach),
            Role::Svid(fetch) => svid::run(&fetch),
        }
    }
}

/// What one of the ways to wait cannot do.
fn unsupported() -> io::Error {
    io::Error::new(io::ErrorKind::Unsupported, "not in this way")
}

/// The outcome of a connection, from the two addresses it had and what became of it.
fn outcome(ends: &[Value; 2], result: io::Result<Value>) -> Value {
    let [local, peer] = ends;
    match result {
        Ok(details) => json!({ "local": local, "peer": peer, "details": details }),
        Err(error) => {
            let (kind, number) = (format!("{:?}", error.kind()), error.raw_os_error());
            json!({ "local": local, "peer": peer, "error": kind, "errno": number })
        }
    }
}

/// The local and the remote address that the kernel gives for a socket.
fn ends(stream: &std::net::TcpStream) -> [Value; 2] {
    [stream.local_addr(), stream.peer_addr()].map(|end| end.map_or(Value::Null, |end| json!(end.to_string())))
}

#[expect(clippy::print_stdout, reason = "the outcome is what this program is for")]
fn print(outcome: &Value) {
    println!("{outcome}");
}
