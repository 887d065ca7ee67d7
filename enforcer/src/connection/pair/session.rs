//! One pair session at work: offers go out and come in until either end closes it.
//!
//! A single task owns the TLS stream and all that is remembered, so there is no lock. Whoever makes an offer numbers it
//! and makes its keys before it gets here, because the socket has them first. The task never waits for one direction alone: two agents that send to each other at
//! the same time would otherwise wait for each other. What the other agent can make this one remember is bounded:
//! offers that are being answered, octets that wait to be sent, and half a message that was received.
//!
//! Who the other agent is was settled by the handshake before; whether a connection may be, [`Ends`] decides.

mod ended;
mod ends;
mod handle;

use std::collections::{BTreeMap, VecDeque};
use std::future::{Future, poll_fn};
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use enforcer_ebpf::Reason;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::{mpsc, oneshot};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, Sleep, sleep, sleep_until};
use tokio_rustls::TlsStream;

use super::{Admitted, Connection, Error, Facts, Keys, LONGEST, Message, Numbers, Offer, Role, Secret, decode, encode};
pub use ended::Ended;
pub use ends::{Ends, Offered};
pub use handle::{Answer, Gone, Handle, WeakHandle};
use handle::{Making, Order};

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
/// How long it may take from an offer to the other end being open. The longest part is the wait for the
/// application to accept the connection, which is as long as the application likes; this only bounds what is held.
const DEADLINE: Duration = Duration::from_secs(120);
/// How long the other agent may read nothing while something waits for it.
const STALLED: Duration = Duration::from_secs(10);

/// Starts a session over a finished handshake, for the ends that are made for it. The future is the session; it has to
/// be polled.
///
/// # Errors
///
/// [`Error`]: no keys can come from this handshake.
pub fn start<S, E, F>(
    stream: TlsStream<S>,
    facts: Arc<Facts>,
    ends: F,
) -> Result<(Handle, impl Future<Output = Ended>), Error>
where
    S: AsyncRead + AsyncWrite + Unpin,
    E: Ends,
    F: FnOnce(&Handle) -> Arc<E>,
{
    let (role, secret) = match &stream {
        TlsStream::Client(stream) => (Role::Client, Secret::export(stream.get_ref().1)?),
        TlsStream::Server(stream) => (Role::Server, Secret::export(stream.get_ref().1)?),
    };
    Ok(speak(stream, (role, secret), facts, ends))
}

/// The session in what the stream carries, whatever protects it.
fn speak<S, E, F>(
    stream: S,
    (role, secret): (Role, Secret),
    facts: Arc<Facts>,
    ends: F,
) -> (Handle, impl Future<Output = Ended>)
where
    S: AsyncRead + AsyncWrite + Unpin,
    E: Ends,
    F: FnOnce(&Handle) -> Arc<E>,
{
    let (sender, orders) = mpsc::channel(ORDERS);
    let making = Arc::new(Making { secret, numbers: Numbers::default() });
    let handle = Handle { role, orders: sender, facts, making: Arc::clone(&making) };
    let session = Session {
        stream,
        ends: ends(&handle),
        making,
        role,
        orders,
        theirs: Admitted::default(),
        offered: BTreeMap::new(),
        answering: JoinSet::new(),
        answered: BTreeMap::new(),
        out: Vec::new(),
        input: Vec::new(),
        stalled: None,
        due: VecDeque::new(),
        timer: Box::pin(sleep(DEADLINE)),
    };
    (handle, session.run())
}

struct Session<S, E> {
    stream: S,
    ends: Arc<E>,
    making: Arc<Making>,
    role: Role,
    orders: mpsc::Receiver<Order>,
    theirs: Admitted,
    /// Our offers without an answer.
    offered: BTreeMap<u64, oneshot::Sender<Answer>>,
    /// The other agent's offers that are being answered.
    answering: JoinSet<(u64, Answer)>,
    /// The same by their numbers.
    answered: BTreeMap<u64, AbortHandle>,
    out: Vec<u8>,
    input: Vec<u8>,
    stalled: Option<Pin<Box<Sleep>>>,
    /// When offers must be settled, and whose they are: in the order of time, because all have equally long.
    due: VecDeque<(Instant, Role, u64)>,
    timer: Pin<Box<Sleep>>,
}

/// What happened next.
enum Event {
    Order(Order),
    Answered(u64, Answer),
    Due(Role, u64),
    Received,
}

impl<S: AsyncRead + AsyncWrite + Unpin, E: Ends> Session<S, E> {
    async fn run(mut self) -> Ended {
        loop {
            let event = poll_fn(|cx| self.poll_event(cx)).await;
            let done = event.and_then(|event| match event {
                Event::Order(order) => {
                    self.offer(order);
                    Ok(())
                }
                Event::Answered(number, answer) => {
                    self.answer(number, answer);
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
                Ok((number, answer)) => return Poll::Ready(Ok(Event::Answered(number, answer))),
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

    fn offer(&mut self, Order { offer, keys, answer }: Order) {
        let Offer { number, connection, .. } = offer;
        let message = match keys {
            None => Message::Offer { number, connection },
            Some(keys) => Message::Again { number, connection, keys },
        };
        encode(&message, &mut self.out);
        self.offered.insert(number, answer);
        self.settle_in_time(self.role, number);
    }

    /// Whether an offer is not settled.
    fn is_open(&self, by: Role, number: u64) -> bool {
        if by == self.role { self.offered.contains_key(&number) } else { self.answered.contains_key(&number) }
    }

    /// Starts the time of an offer. Those that were settled long ago make room.
    fn settle_in_time(&mut self, by: Role, number: u64) {
        if self.due.len() > 2 * (self.offered.len() + self.answered.len()) + 64 {
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

    fn answer(&mut self, number: u64, answer: Answer) {
        // An offer that was withdrawn meanwhile is not there any more; its answer came at the same moment.
        if self.answered.remove(&number).is_none() {
            return;
        }
        let by = self.role.other();
        let message = match answer {
            Ok(()) => Message::Opened { number },
            Err(reason) => Message::Abort { by, number, reason },
        };
        encode(&message, &mut self.out);
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
            Message::Offer { number, connection } => self.hear_offer((number, connection), None),
            Message::Again { number, connection, keys } => self.hear_offer((number, connection), Some(keys)),
            Message::Opened { number } => match self.offered.remove(&number) {
                Some(answer) => {
                    // Nobody waits any more: this agent stops, and the next one offers again what it finds.
                    let _told = answer.send(Ok(()));
                    Ok(())
                }
                // Given up while the answer was under way?
                None if self.making.numbers.knows(number) => Ok(()),
                None => Err(Ended::OutOfPlace("answer to", number)),
            },
            Message::Abort { by, number, reason } => {
                self.hear_end((by, number, reason));
                Ok(())
            }
        }
    }

    fn hear_offer(&mut self, (number, connection): (u64, Connection), keys: Option<Keys>) -> Result<(), Ended> {
        if !self.theirs.admit(number) {
            return Err(Ended::OutOfPlace("offer", number));
        }
        let offer = Offer { by: self.role.other(), number, connection };
        if self.answered.len() >= ANSWERING {
            let reason = Reason::TooManyConnections as u32;
            encode(&Message::Abort { by: offer.by, number, reason }, &mut self.out);
            return Ok(());
        }
        let again = keys.is_some();
        let keys = keys.map_or_else(|| self.making.secret.keys(&offer), Ok)?;
        let ends = Arc::clone(&self.ends);
        let task = self.answering.spawn(async move {
            let answer = ends.answer(Offered { offer, keys, again }).await;
            (number, answer.map_err(|reason| reason as u32))
        });
        self.answered.insert(number, task);
        self.settle_in_time(offer.by, number);
        Ok(())
    }

    /// An offer is not to be. One that is settled already was so before the other agent could know.
    fn hear_end(&mut self, (by, number, reason): (Role, u64, u32)) {
        if by == self.role {
            if let Some(answer) = self.offered.remove(&number) {
                // Nobody waits any more: then it makes no difference why.
                let _told = answer.send(Err(reason));
            }
        } else if let Some(task) = self.answered.remove(&number) {
            task.abort();
        }
    }
}

#[cfg(fuzzing)]
pub(crate) mod fuzz;
#[cfg(test)]
mod tests;
