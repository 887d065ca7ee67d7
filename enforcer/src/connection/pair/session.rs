//! One pair session at work: offers go out and come in until either end closes it.
//!
//! A single task owns the TLS stream and all that is remembered, so there is no lock, and the exporter is asked by
//! the one who counts the offers. It never waits for one direction alone: two agents that send to each other at
//! the same time would otherwise wait for each other. What the other agent can make this one remember is bounded:
//! offers that are being answered, octets that wait to be sent, and half a message that was received.
//!
//! Who the other agent is was settled by the handshake before; whether a connection may be, [`Ends`] decides.

mod ended;
mod ends;
mod handle;

use std::collections::{HashMap, VecDeque};
use std::future::{Future, poll_fn};
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use enforcer_ebpf::Reason;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::{Instant, Sleep, sleep, sleep_until};
use tokio_rustls::TlsStream;

use super::{Connection, Facts, Keys, LONGEST, Message, Numbers, Offer, Role, Secret, decode, encode};
pub use ended::Ended;
pub use ends::Ends;
use handle::Order;
pub use handle::{Answer, Gone, Handle, Opening, WeakHandle};

/// Offers of the other agent that may wait for their answers. One more is refused.
const ANSWERING: usize = 4096;
/// Octets that may wait to be sent. Beyond it no order is taken on, until the other agent reads. Reading goes on: if
/// both agents stopped, both would wait for ever.
const WAITING: usize = 64 * 1024;
/// Octets that may wait when the other agent makes us answer and does not read. Two agents that behave stay far below:
/// what one may have sent on its own account is answered in a quarter of its octets.
const FLOODED: usize = 4 * WAITING;
/// Orders of this agent that may wait for the session's task.
const ORDERS: usize = 1024;
/// How long it may take from an offer to both ends having their keys. The longest part is the wait for the
/// application to accept the connection, which is as long as the application likes; this only bounds what is held.
const DEADLINE: Duration = Duration::from_secs(120);
/// How long the other agent may read nothing while something waits for it.
const STALLED: Duration = Duration::from_secs(10);

/// Starts a session over a finished handshake, for the ends that are made for it. The future is the session; it has to
/// be polled.
pub fn start<S, E, F>(stream: TlsStream<S>, facts: Arc<Facts>, ends: F) -> (Handle, impl Future<Output = Ended>)
where
    S: AsyncRead + AsyncWrite + Unpin,
    E: Ends,
    F: FnOnce(&Handle) -> Arc<E>,
{
    let role = match stream {
        TlsStream::Client(_) => Role::Client,
        TlsStream::Server(_) => Role::Server,
    };
    let (sender, orders) = mpsc::channel(ORDERS);
    let handle = Handle { role, orders: sender, facts };
    let session = Session {
        stream,
        ends: ends(&handle),
        secret: None,
        role,
        orders,
        ours: Numbers::default(),
        theirs: Numbers::default(),
        offered: HashMap::new(),
        installed: HashMap::new(),
        answering: JoinSet::new(),
        answered: HashMap::new(),
        out: Vec::new(),
        input: Vec::new(),
        stalled: None,
        due: VecDeque::new(),
        timer: Box::pin(sleep(DEADLINE)),
    };
    (handle, session.run())
}

struct Session<S, E> {
    stream: TlsStream<S>,
    ends: Arc<E>,
    /// Made for the first offer.
    secret: Option<Secret>,
    role: Role,
    orders: mpsc::Receiver<Order>,
    ours: Numbers,
    theirs: Numbers,
    /// Our offers without an answer.
    offered: HashMap<u64, (Offer, oneshot::Sender<Answer>)>,
    /// Our offers whose ends have their keys, and wait for the other end to be open.
    installed: HashMap<u64, oneshot::Sender<Opening>>,
    /// The other agent's offers that are being answered.
    answering: JoinSet<(Offer, Result<(), Reason>)>,
    /// The other agent's offers that are being answered, or were accepted and are not open yet.
    answered: HashMap<u64, Stage>,
    out: Vec<u8>,
    input: Vec<u8>,
    stalled: Option<Pin<Box<Sleep>>>,
    /// When offers must be settled, and whose they are: in the order of time, because all have equally long.
    due: VecDeque<(Instant, Role, u64)>,
    timer: Pin<Box<Sleep>>,
}

/// How far an offer of the other agent has come.
enum Stage {
    Answering(tokio::task::AbortHandle),
    Accepted(Offer),
}

/// What happened next.
enum Event {
    Order(Order),
    Answered(Offer, Result<(), Reason>),
    Due(Role, u64),
    Received,
}

impl<S: AsyncRead + AsyncWrite + Unpin, E: Ends> Session<S, E> {
    async fn run(mut self) -> Ended {
        loop {
            let event = poll_fn(|cx| self.poll_event(cx)).await;
            let done = event.and_then(|event| match event {
                Event::Order(order) => self.obey(order),
                Event::Answered(offer, answer) => {
                    self.answer(offer, answer);
                    Ok(())
                }
                Event::Due(by, number) => {
                    self.expire(by, number);
                    Ok(())
                }
                Event::Received => self.hear_all(),
            });
            if let Err(ended) = done {
                return ended;
            }
        }
    }

    /// Sends what waits, and then takes on one thing.
    fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<Result<Event, Ended>> {
        if let Poll::Ready(ended) = self.poll_send(cx) {
            return Poll::Ready(Err(ended));
        }
        if self.out.len() >= FLOODED {
            return Poll::Ready(Err(Ended::Stalled));
        }
        if let Poll::Ready((by, number)) = self.poll_due(cx) {
            return Poll::Ready(Ok(Event::Due(by, number)));
        }
        while let Poll::Ready(Some(joined)) = self.answering.poll_join_next(cx) {
            match joined {
                Ok((offer, answer)) => return Poll::Ready(Ok(Event::Answered(offer, answer))),
                // Withdrawn; it is forgotten already.
                Err(error) if error.is_cancelled() => {}
                Err(error) => return Poll::Ready(Err(error.into())),
            }
        }
        if self.out.len() < WAITING {
            match self.orders.poll_recv(cx) {
                Poll::Ready(Some(order)) => return Poll::Ready(Ok(Event::Order(order))),
                Poll::Ready(None) => return Poll::Ready(Err(Ended::Here)),
                Poll::Pending => {}
            }
        }
        self.poll_receive(cx)
    }

    /// Ready only when the session cannot go on.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<Ended> {
        while !self.out.is_empty() {
            match Pin::new(&mut self.stream).poll_write(cx, &self.out) {
                Poll::Ready(Ok(count)) => {
                    self.out.drain(..count);
                    self.stalled = None;
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Ended::Lost(error)),
                Poll::Pending => break,
            }
        }
        match Pin::new(&mut self.stream).poll_flush(cx) {
            Poll::Ready(Ok(())) => {
                self.stalled = None;
                Poll::Pending
            }
            Poll::Ready(Err(error)) => Poll::Ready(Ended::Lost(error)),
            Poll::Pending => {
                let stalled = self.stalled.get_or_insert_with(|| Box::pin(sleep(STALLED)));
                stalled.as_mut().poll(cx).map(|()| Ended::Stalled)
            }
        }
    }

    /// The next offer whose time is over.
    fn poll_due(&mut self, cx: &mut Context<'_>) -> Poll<(Role, u64)> {
        while let Some(&(due, by, number)) = self.due.front() {
            let open = self.is_open(by, number);
            if open {
                if self.timer.deadline() != due {
                    self.timer.set(sleep_until(due));
                }
                ready!(self.timer.as_mut().poll(cx));
            }
            self.due.pop_front();
            if open {
                return Poll::Ready((by, number));
            }
        }
        Poll::Pending
    }

    fn poll_receive(&mut self, cx: &mut Context<'_>) -> Poll<Result<Event, Ended>> {
        let mut space = [0; 16 * LONGEST];
        let mut buffer = ReadBuf::new(&mut space);
        match Pin::new(&mut self.stream).poll_read(cx, &mut buffer) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Err(error)) => Poll::Ready(Err(Ended::Lost(error))),
            Poll::Ready(Ok(())) if buffer.filled().is_empty() => {
                Poll::Ready(Err(Ended::Lost(io::ErrorKind::UnexpectedEof.into())))
            }
            Poll::Ready(Ok(())) => {
                self.input.extend_from_slice(buffer.filled());
                Poll::Ready(Ok(Event::Received))
            }
        }
    }

    fn obey(&mut self, order: Order) -> Result<(), Ended> {
        match order {
            Order::Say(message) => {
                if let Message::Abort { by, number, .. } = message
                    && by != self.role
                {
                    self.answered.remove(&number);
                }
                encode(&message, &mut self.out);
            }
            Order::Offer { connection, answer } => {
                let number = self.ours.take().ok_or(Ended::Here)?;
                encode(&Message::Offer { number, connection }, &mut self.out);
                self.offered.insert(number, (Offer { by: self.role, number, connection }, answer));
                self.settle_in_time(self.role, number);
            }
            Order::Install { number, opened } => {
                encode(&Message::Installed { number }, &mut self.out);
                self.installed.insert(number, opened);
                self.settle_in_time(self.role, number);
            }
        }
        Ok(())
    }

    /// Whether an offer is neither refused nor settled at both ends.
    fn is_open(&self, by: Role, number: u64) -> bool {
        let ours = || self.offered.contains_key(&number) || self.installed.contains_key(&number);
        if by == self.role { ours() } else { self.answered.contains_key(&number) }
    }

    /// Starts the time of an offer. Those that were settled long ago make room.
    fn settle_in_time(&mut self, by: Role, number: u64) {
        if self.due.len() > 2 * (self.offered.len() + self.installed.len() + self.answered.len()) + 64 {
            let mut due = std::mem::take(&mut self.due);
            due.retain(|&(_, by, number)| self.is_open(by, number));
            self.due = due;
        }
        self.due.push_back((Instant::now() + DEADLINE, by, number));
    }

    /// Gives up an offer whose time is over.
    fn expire(&mut self, by: Role, number: u64) {
        let reason = Reason::HandshakeTimeout as u32;
        encode(&Message::Abort { by, number, reason }, &mut self.out);
        self.hear_end((by, number, reason));
    }

    fn answer(&mut self, offer: Offer, answer: Result<(), Reason>) {
        let Offer { by, number, .. } = offer;
        // An offer that has been settled meanwhile is not there any more; its answer came at the same moment.
        let Some(stage) = self.answered.get_mut(&number) else { return };
        match answer {
            Ok(()) => {
                *stage = Stage::Accepted(offer);
                encode(&Message::Accept { number }, &mut self.out);
            }
            Err(reason) => {
                self.answered.remove(&number);
                encode(&Message::Abort { by, number, reason: reason as u32 }, &mut self.out);
            }
        }
    }

    fn hear_all(&mut self) -> Result<(), Ended> {
        while let Some((message, taken)) = decode(&self.input)? {
            self.input.drain(..taken);
            self.hear(message)?;
        }
        Ok(())
    }

    fn hear(&mut self, message: Message) -> Result<(), Ended> {
        match message {
            Message::Offer { number, connection } => self.hear_offer(number, connection, message),
            Message::Accept { number } => {
                let Some((offer, answer)) = self.offered.remove(&number) else {
                    // Given up while the answer was under way?
                    return if self.ours.knows(number) { Ok(()) } else { Err(Ended::OutOfPlace(message)) };
                };
                let keys = self.keys(&offer)?;
                if answer.send(Ok((offer, keys))).is_err() {
                    // Whoever asked has gone.
                    let reason = Reason::ApplicationReset as u32;
                    encode(&Message::Abort { by: self.role, number, reason }, &mut self.out);
                }
                Ok(())
            }
            Message::Installed { number } => match self.answered.remove(&number) {
                Some(Stage::Accepted(offer)) => {
                    let opened = self.ends.open(&offer).map_or_else(
                        |reason| Message::Abort { by: offer.by, number, reason: reason as u32 },
                        |()| Message::Opened { number },
                    );
                    encode(&opened, &mut self.out);
                    Ok(())
                }
                // Given up while the message was under way?
                None if self.theirs.knows(number) => Ok(()),
                _ => Err(Ended::OutOfPlace(message)),
            },
            Message::Opened { number } => match self.installed.remove(&number) {
                Some(opened) => {
                    // Nobody waits any more: the connection was given up meanwhile.
                    let _told = opened.send(Ok(()));
                    Ok(())
                }
                None if self.ours.knows(number) => Ok(()),
                None => Err(Ended::OutOfPlace(message)),
            },
            Message::Abort { by, number, reason } | Message::Closed { by, number, reason } => {
                self.hear_end((by, number, reason));
                Ok(())
            }
        }
    }

    fn hear_offer(&mut self, number: u64, connection: Connection, message: Message) -> Result<(), Ended> {
        if !self.theirs.admit(number) {
            return Err(Ended::OutOfPlace(message));
        }
        let offer = Offer { by: self.role.other(), number, connection };
        if self.answered.len() >= ANSWERING {
            let reason = Reason::TooManyConnections as u32;
            encode(&Message::Abort { by: offer.by, number, reason }, &mut self.out);
            return Ok(());
        }
        let (keys, ends) = (self.keys(&offer)?, Arc::clone(&self.ends));
        let task = self.answering.spawn(async move { (offer, ends.answer(offer, keys).await) });
        self.answered.insert(number, Stage::Answering(task));
        self.settle_in_time(offer.by, number);
        Ok(())
    }

    fn hear_end(&mut self, (by, number, reason): (Role, u64, u32)) {
        if by != self.role {
            if let Some(Stage::Answering(task)) = self.answered.remove(&number) {
                task.abort();
                return;
            }
        } else if let Some((_, answer)) = self.offered.remove(&number) {
            // Nobody waits any more: then it makes no difference why.
            let _told = answer.send(Err(reason));
            return;
        } else if let Some(opened) = self.installed.remove(&number) {
            let _told = opened.send(Err(reason));
            return;
        }
        self.ends.ended(by, number, reason);
    }

    fn keys(&mut self, offer: &Offer) -> Result<Keys, Ended> {
        let secret = match &mut self.secret {
            Some(secret) => secret,
            empty => empty.insert(match &self.stream {
                TlsStream::Client(stream) => Secret::export(stream.get_ref().1)?,
                TlsStream::Server(stream) => Secret::export(stream.get_ref().1)?,
            }),
        };
        Ok(secret.keys(offer)?)
    }
}

#[cfg(test)]
mod tests;
