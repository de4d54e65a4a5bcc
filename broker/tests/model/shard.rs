//! A shard without its thread: the broker's own dispatch, one connection's socket a pair whose ends are both here. So
//! nothing waits, and a schedule runs the same every time.
//!
//! # How to extend
//!
//! `Port` stands where `tidegate::shard::Shard` does: it adopts connections, hands on what a client's frame asks for and
//! takes turns. A new action of a session gets a method here that calls [`Dispatch`], as it has an arm there; a rule
//! belongs in [`Dispatch`].

use std::{
    collections::BTreeSet,
    os::{fd::OwnedFd, unix::net::UnixStream},
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use tidegate::{
    admission::Admissions,
    config::Config,
    connection::Connection,
    engine::{Request, Submission, memory::Memory},
    hub::Hub,
    outbox::Terms,
    session::Session,
    shard::{
        client::{Client, place, token},
        delivery::Budget,
        dispatch::Dispatch,
        inbox::Inbox,
    },
    stream::{Draft, Published, ReadBudget},
};
use tidegate_protocol::{Codec, Epoch, ServerFrame, frame::Subscribe};

use crate::model::number;

/// The one shard, its hub, and everything that was published.
pub struct Port {
    pub hub: Arc<Hub>,
    dispatch: Dispatch,
    /// By stream; the last list is of the topics in none.
    pub published: Vec<Vec<Arc<Published>>>,
    pub now_ms: u64,
    /// Live-only messages that wait in the inbox, by their numbers: a subscription that comes now is given them.
    pub live_waiting: BTreeSet<u64>,
    generation: usize,
}

/// What a lane reads at a time, in bytes.
const READ: u64 = 64 << 10;
/// More than a lane pins with one message, in bytes.
const LANE: u64 = 6_000;

/// This end's number among a shard's connections.
pub type At = u32;

impl Port {
    pub fn new(config: &Config, inbox_capacity: usize, connection_bytes: u64) -> Self {
        let inbox = Arc::new(Inbox::new(inbox_capacity));
        let mut epoch = 0;
        let hub = Hub::new(config, vec![inbox.clone()].into(), Box::new(Memory), || {
            epoch += 1;
            Epoch(epoch)
        });
        let hub = Arc::new(hub);
        let budget = Budget {
            connection_bytes,
            shard_bytes: 2 * connection_bytes,
            page: ReadBudget { messages: 100, bytes: 100_000 },
            stall_timeout: Duration::from_secs(30),
        };
        Self {
            dispatch: Dispatch::new(0, hub.clone(), inbox, config, budget, Instant::now()),
            published: vec![Vec::new(); hub.streams().len() + 1],
            hub,
            now_ms: 1_000,
            live_waiting: BTreeSet::new(),
            generation: 0,
        }
    }

    /// A new connection whose kernel buffer holds about `buffer` bytes, and the peer's end of it.
    pub fn connect(&mut self, codec: Codec, buffer: usize) -> (At, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        socket2::SockRef::from(&ours).set_send_buffer_size(buffer).unwrap();
        ours.set_nonblocking(true).unwrap();
        theirs.set_nonblocking(true).unwrap();
        // What a connection asks of its stream, a socket pair does as well, and without the clocks of TCP.
        let stream = std::net::TcpStream::from(OwnedFd::from(ours));
        let delivery = &mut self.dispatch.delivery;
        let now = delivery.now;
        let connection = Connection::new(mio::net::TcpStream::from_std(stream), Bytes::new(), now);
        let at = delivery.clients.vacant_key();
        self.generation += 1;
        let admission = Admissions::new(1).admit().unwrap();
        let (token, session) = (token(self.generation, at), Session::new("me".into()));
        delivery.clients.insert(Client::new(token, admission, connection, codec, session, now, now));
        (at as At, theirs)
    }

    /// Publishes, as often as it takes: where a log may not let go of what the shard has yet to read, that comes first.
    pub fn publish(&mut self, draft: Draft) {
        let request = Request { ticket: None, idempotency: None, tally: None, shard: 0 };
        let mut submission = Submission { draft: draft.clone(), request, now_ms: self.now_ms };
        let mut waiting = self.dispatch.inbox.depth();
        while let Err(back) = self.hub.submit(submission) {
            submission = *back;
            self.drain_inbox();
            waiting = self.dispatch.inbox.depth();
        }
        let is_wanted = self.dispatch.inbox.depth() > waiting;
        match self.hub.stream_of(&draft.topic) {
            Some(at) => {
                let ordered = self.hub.streams()[at].lock();
                let published = ordered.log.get(ordered.log.head()).unwrap();
                self.published[at].push(published);
            }
            None => {
                if is_wanted {
                    self.live_waiting.insert(number(&draft.payload));
                }
                let live_only = Published::live_only(draft, self.now_ms);
                self.published.last_mut().unwrap().push(live_only);
            }
        }
    }

    /// What the client is told is in its control lane.
    pub fn subscribe(&mut self, at: At, subscribe: Subscribe, terms: Terms) {
        self.dispatch.subscribe(at, subscribe, terms);
    }

    pub fn unsubscribe(&mut self, at: At, id: u64, sub: u64) {
        let key = self.key(at, sub);
        self.dispatch.unsubscribe(at, id, sub, key);
    }

    pub fn credit(&mut self, at: At, sub: u64, add: u64) {
        let key = self.key(at, sub);
        self.dispatch.credit(at, key, add);
    }

    pub fn reply(&mut self, at: At, frame: &ServerFrame) {
        self.dispatch.reply(at, frame);
    }

    /// The line is cut.
    pub fn remove(&mut self, at: At) {
        self.dispatch.forget_all(at);
        self.dispatch.remove(at);
    }

    /// The socket may take something: an event would have told.
    pub fn on_writable(&mut self, at: At) {
        let delivery = &mut self.dispatch.delivery;
        let client = &mut delivery.clients[at as usize];
        if client.blocked {
            client.blocked = false;
            delivery.mark_dirty(at);
        }
    }

    /// One turn of the shard, without its reads; marks are due for `marks`. Says who must end.
    pub fn tick(&mut self, marks: &[At]) -> Vec<At> {
        marks.iter().for_each(|&at| self.dispatch.mark_later(at));
        self.live_waiting.clear();
        self.dispatch.turn();
        self.check();
        let delivery = &mut self.dispatch.delivery;
        let ending = std::mem::take(&mut delivery.ending);
        let is_there = |&(token, _): &(usize, _)| {
            delivery.clients.get(place(token) as usize).is_some_and(|c| c.token == token)
        };
        ending.into_iter().filter(is_there).map(|(token, _)| place(token)).collect()
    }

    /// Fans out what waits, without a flush.
    pub fn drain_inbox(&mut self) {
        self.live_waiting.clear();
        self.dispatch.drain_inbox();
    }

    /// What all lanes pin, in bytes.
    pub fn pinned(&self) -> u64 {
        self.dispatch.delivery.pinned
    }

    /// Whether a connection has nothing left to be given: only what is in the kernel.
    pub fn is_idle(&self, at: At) -> bool {
        let client = &self.dispatch.delivery.clients[at as usize];
        client.outbox.is_none()
            && client.control.is_none()
            && client.ranges.is_empty()
            && !client.connection.has_pending()
    }

    /// Nothing is left of connections that are gone.
    pub fn check_empty(&self) {
        let delivery = &self.dispatch.delivery;
        let subscriptions = self.dispatch.subscriptions();
        assert_eq!((delivery.clients.len(), delivery.subs.len(), subscriptions), (0, 0, 0));
        assert_eq!((delivery.pinned, delivery.buffered), (0, 0));
    }

    /// The books of the lanes.
    fn check(&self) {
        let delivery = &self.dispatch.delivery;
        let mut all = 0;
        for (_, client) in &delivery.clients {
            assert_eq!(client.pinned, client.outbox.as_ref().map_or(0, |outbox| outbox.pinned()));
            all += client.pinned;
            // A lane that is empty takes one message whatever the budget says, and one read may go beyond it.
            let lanes = client.outbox.as_ref().map_or(0, |outbox| outbox.lanes().len()) as u64;
            let most = delivery.budget.connection_bytes + READ + lanes * LANE;
            assert!(client.pinned <= most, "{} of {most} bytes in {lanes} lanes", client.pinned);
            for &(_, key) in client.session.subs() {
                let sub = &delivery.subs[key as usize];
                assert!(sub.sent <= sub.granted, "sub {} was sent {} of {}", sub.id, sub.sent, sub.granted);
            }
        }
        assert_eq!(delivery.pinned, all);
    }

    fn key(&self, at: At, sub: u64) -> u32 {
        let subs = self.dispatch.delivery.clients[at as usize].session.subs();
        subs.iter().find(|&&(id, _)| id == sub).unwrap().1
    }
}
