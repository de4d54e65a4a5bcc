//! Where connections begin: each shard accepts for itself, reads a fresh socket once, and takes what becomes a WebSocket
//! by that; the rest goes to hyper, with what was read.
//!
//! All shards listen on one socket. One that is clearly ahead of the shard with the fewest connections leaves the next
//! ones to the others until they have caught up ([`Turns`]): so nothing is handed from thread to thread.

use std::{
    cell::Cell,
    collections::VecDeque,
    io::{self, Read as _, Write as _},
    net::{SocketAddr, TcpListener},
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use mio::{Interest, Token, net::TcpStream};
use slab::Slab;
use tokio::sync::mpsc;

use super::{Begin, Order, Shard, inbox::Inbox};
use crate::http::{Begun, Site, door};

/// The listener's token, and below it those of fresh sockets: no connection has one, since the slab's places end before.
pub(super) const LISTENER: usize = usize::MAX;
/// More than any configuration lets wait.
pub(super) const FRESH: usize = 1 << 20;
/// Sockets accepted in a tick, so that a storm starves nobody who is connected.
const ACCEPTS: usize = 64;
/// How long accepting rests where the process has no more file descriptors, or the shard has all the HTTP connections it
/// may.
const REST: Duration = Duration::from_millis(50);

/// How many connections each shard has, and which leave the next to the others.
#[derive(Debug)]
pub struct Turns(Box<[Turn]>);

#[derive(Debug)]
struct Turn {
    connections: AtomicUsize,
    /// It does not listen.
    resting: AtomicBool,
    orders: mpsc::Sender<Order>,
    inbox: Arc<Inbox>,
}

impl Turns {
    /// For shards that take these orders, and wake by these inboxes.
    pub fn new(shards: impl IntoIterator<Item = (mpsc::Sender<Order>, Arc<Inbox>)>) -> Self {
        let turn = |(orders, inbox)| Turn {
            connections: AtomicUsize::new(0),
            resting: AtomicBool::new(false),
            orders,
            inbox,
        };
        Self(shards.into_iter().map(turn).collect())
    }

    /// States how many connections `shard` has, and returns whether it may accept.
    fn state(&self, shard: usize, connections: usize) -> bool {
        // In one order for all: of two shards that state theirs at once, one at least sees both.
        self.0[shard].connections.store(connections, SeqCst);
        !is_ahead(connections, self.fewest())
    }

    /// Calls those to their turn that rested and need not any more, but for the caller.
    fn call(&self, caller: usize) {
        let fewest = self.fewest();
        for (shard, turn) in self.0.iter().enumerate() {
            if shard != caller
                && turn.resting.load(SeqCst)
                && !is_ahead(turn.connections.load(SeqCst), fewest)
            {
                turn.call();
            }
        }
    }

    /// Calls the one with the fewest connections, whether it rested or not.
    fn call_fewest(&self) {
        let fewest = self.0.iter().min_by_key(|turn| turn.connections.load(SeqCst));
        if let Some(turn) = fewest {
            turn.call();
        }
    }

    fn fewest(&self) -> usize {
        self.0.iter().map(|turn| turn.connections.load(SeqCst)).min().unwrap_or(0)
    }
}

impl Turn {
    fn call(&self) {
        // Where there is no room it has orders to wake for, and looks itself.
        let _ = self.orders.try_send(Order::Accept);
        self.inbox.wake();
    }
}

/// Whether a shard is clearly ahead: by more than a sixteenth, so that a few connections are spread evenly and many cost no
/// turn each.
fn is_ahead(connections: usize, fewest: usize) -> bool {
    connections > fewest + fewest / 16
}

/// What the server lends a shard for the sockets it accepts.
pub struct Front {
    /// Non-blocking; what is accepted has the listener's options.
    pub listener: TcpListener,
    pub turns: Arc<Turns>,
    pub site: Rc<Site>,
    /// Connections of this shard that hyper serves.
    pub serving: Rc<Cell<usize>>,
    /// How many there may be, and fresh sockets beside them.
    pub max_serving: usize,
    /// Tasks of `serve` on this shard's thread.
    pub tasks: Rc<Cell<usize>>,
    /// Gives hyper a socket, what was read from it, and when it was accepted.
    pub serve: Box<dyn FnMut(std::net::TcpStream, Begun)>,
}

/// A socket that has said nothing yet.
struct Fresh {
    stream: TcpStream,
    peer: SocketAddr,
    since: Instant,
}

/// A shard's own end of the listener.
pub(super) struct Acceptor {
    front: Front,
    listener: mio::net::TcpListener,
    listening: bool,
    /// Sockets may wait: no event will tell.
    waiting: bool,
    /// Not before.
    rest_until: Option<Instant>,
    fresh: Slab<Fresh>,
    /// The same, oldest first; some may be gone.
    by_age: VecDeque<(Instant, usize)>,
    /// Those of them that can be read.
    ready: Vec<usize>,
    answer: Vec<u8>,
}

impl Shard {
    /// Listens. Before that it has the connections it is given.
    ///
    /// # Errors
    ///
    /// The kernel refuses it.
    pub fn listen(&mut self, front: Front) -> io::Result<()> {
        let listener = mio::net::TcpListener::from_std(front.listener.try_clone()?);
        let mut acceptor = Acceptor {
            front,
            listener,
            listening: false,
            waiting: false,
            rest_until: None,
            fresh: Slab::new(),
            by_age: VecDeque::new(),
            ready: Vec::new(),
            answer: Vec::new(),
        };
        acceptor.listen(self.poll.registry())?;
        self.acceptor = Some(acceptor);
        Ok(())
    }

    /// Reads fresh sockets, and accepts what waits, up to a bound. Whether there may be more.
    pub(super) fn accept_some(&mut self) -> bool {
        let Some(mut acceptor) = self.acceptor.take() else { return false };
        for at in std::mem::take(&mut acceptor.ready) {
            let Some(fresh) = acceptor.fresh.try_remove(at) else { continue };
            self.welcome(&mut acceptor, fresh, Some(at));
        }
        acceptor.close_silent(self.dispatch.delivery.now);
        let more = self.accept_from(&mut acceptor);
        self.acceptor = Some(acceptor);
        more
    }

    fn accept_from(&mut self, acceptor: &mut Acceptor) -> bool {
        let now = self.dispatch.delivery.now;
        if acceptor.rest_until.is_some_and(|until| until > now) {
            return false;
        }
        acceptor.rest_until = None;
        let connections = |shard: &Self, acceptor: &Acceptor| {
            shard.dispatch.delivery.clients.len() + acceptor.fresh.len() + acceptor.front.serving.get()
        };
        let turns = acceptor.front.turns.clone();
        let mut may = turns.state(self.number, connections(self, acceptor));
        if may && !acceptor.listening {
            acceptor.listening = acceptor.listen(self.poll.registry()).is_ok();
            turns.0[self.number].resting.store(false, SeqCst);
            acceptor.waiting = true;
        }
        if !acceptor.waiting {
            return false;
        }
        for _ in 0..ACCEPTS {
            if !may {
                break;
            }
            if acceptor.fresh.len() + acceptor.front.serving.get() >= acceptor.front.max_serving {
                acceptor.rest_until = Some(now + REST);
                return false;
            }
            match acceptor.listener.accept() {
                Ok((stream, peer)) => self.welcome(acceptor, Fresh { stream, peer, since: now }, None),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    acceptor.waiting = false;
                    break;
                }
                // One that was gone before it was accepted.
                Err(error) if is_of_the_peer(&error) => {}
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be accepted");
                    acceptor.rest_until = Some(now + REST);
                    return false;
                }
            }
            may = turns.state(self.number, connections(self, acceptor));
        }
        if !may {
            acceptor.rest(self.poll.registry());
            turns.0[self.number].resting.store(true, SeqCst);
            // They were not told of what waits now.
            acceptor.waiting = false;
            turns.call_fewest();
        }
        turns.call(self.number);
        acceptor.waiting
    }

    /// Reads a socket for the first time, and takes it or gives it to hyper. Where there is nothing to read it waits among
    /// the fresh; from there it comes with its place.
    fn welcome(&mut self, acceptor: &mut Acceptor, mut fresh: Fresh, from: Option<usize>) {
        let begun = match fresh.stream.read(&mut self.scratch) {
            // Gone before it asked anything.
            Ok(0) => return,
            Ok(read) => &self.scratch[..read],
            Err(error) if is_for_later(&error) => {
                if let Err(error) = acceptor.wait_for(self.poll.registry(), fresh, from) {
                    tracing::debug!(%error, "connection lost before its start");
                }
                return;
            }
            Err(_) => return,
        };
        acceptor.answer.clear();
        let Some(opened) = door::open(begun, &acceptor.front.site, &mut acceptor.answer) else {
            let Fresh { mut stream, peer, since } = fresh;
            let begun = Begun { bytes: Bytes::copy_from_slice(begun), peer, since };
            if from.is_some() && self.poll.registry().deregister(&mut stream).is_err() {
                return;
            }
            return (acceptor.front.serve)(stream.into(), begun);
        };
        let leftover = Bytes::copy_from_slice(&begun[opened.head..]);
        // Where acks come behind it, all of that goes in one write.
        let alone = opened.admitted.subscribes.is_empty();
        let written = match alone.then(|| fresh.stream.write(&acceptor.answer)) {
            None => 0,
            Some(Ok(written)) => written,
            Some(Err(error)) if is_for_later(&error) => 0,
            Some(Err(_)) => return,
        };
        let rest = &acceptor.answer[written..];
        let begin = Begin { registered: from.is_some(), leftover, rest, blocked: alone && !rest.is_empty() };
        if let Err(error) = self.insert(fresh.stream, begin, opened.admitted) {
            tracing::debug!(%error, "connection lost at its start");
        }
    }

    /// Accepts no more.
    pub(super) fn stop_listening(&mut self) {
        self.acceptor = None;
    }
}

impl Acceptor {
    /// Whether none of what the shard gave away is under way on its thread.
    pub(super) fn is_alone(&self) -> bool {
        self.front.tasks.get() == 0
    }

    /// Takes an event. Whether it was for this.
    pub(super) fn on_event(&mut self, Token(token): Token) -> bool {
        match LISTENER - token {
            0 => self.waiting = true,
            below @ 1..FRESH => self.ready.push(below - 1),
            _ => return false,
        }
        true
    }

    /// It may be this shard's turn.
    pub(super) fn on_call(&mut self) {
        self.waiting = true;
    }

    /// When something is due: accepting that rests, a fresh socket whose time is over.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        let silent = self.by_age.front().map(|&(since, _)| since + self.front.site.handshake_timeout);
        self.rest_until.into_iter().chain(silent).min()
    }

    /// Waits until there is something to read.
    fn wait_for(&mut self, registry: &mio::Registry, fresh: Fresh, from: Option<usize>) -> io::Result<()> {
        let since = fresh.since;
        let at = self.fresh.insert(fresh);
        if from == Some(at) {
            return Ok(());
        }
        let stream = &mut self.fresh[at].stream;
        if let Err(error) = registry.register(stream, Token(LISTENER - 1 - at), Interest::READABLE) {
            self.fresh.remove(at);
            return Err(error);
        }
        if self.by_age.len() > 2 * self.fresh.len() + 64 {
            let fresh = &self.fresh;
            self.by_age.retain(|&(since, at)| fresh.get(at).is_some_and(|fresh| fresh.since == since));
        }
        self.by_age.push_back((since, at));
        Ok(())
    }

    /// Closes those that have said nothing in time.
    fn close_silent(&mut self, now: Instant) {
        while let Some(&(since, at)) = self.by_age.front() {
            let lives = self.fresh.get(at).is_some_and(|fresh| fresh.since == since);
            if lives && since + self.front.site.handshake_timeout > now {
                return;
            }
            self.by_age.pop_front();
            if lives {
                self.fresh.remove(at);
            }
        }
        if self.fresh.is_empty() {
            self.fresh.shrink_to_fit();
        }
    }

    fn listen(&mut self, registry: &mio::Registry) -> io::Result<()> {
        // Of several shards that wait the kernel wakes one.
        #[cfg(target_os = "linux")]
        {
            use rustix::event::epoll::{EventData, EventFlags, add};
            let flags = EventFlags::IN | EventFlags::ET | EventFlags::EXCLUSIVE;
            add(registry, &self.listener, EventData::new_u64(LISTENER as u64), flags)?;
        }
        #[cfg(not(target_os = "linux"))]
        registry.register(&mut self.listener, Token(LISTENER), Interest::READABLE)?;
        self.listening = true;
        Ok(())
    }

    fn rest(&mut self, registry: &mio::Registry) {
        #[cfg(target_os = "linux")]
        let ended = rustix::event::epoll::delete(registry, &self.listener);
        #[cfg(not(target_os = "linux"))]
        let ended = registry.deregister(&mut self.listener);
        // It fails only where it is not registered.
        let _ = ended;
        self.listening = false;
    }
}

fn is_for_later(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

/// Errors that `accept` passes on from the one connection it was to return (accept(2)).
fn is_of_the_peer(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionReset | Interrupted)
}
