//! A shard's delivery without its thread: the same calls in the same order, one connection's socket a pair whose ends
//! are both here. So nothing waits, and a schedule runs the same every time.
//!
//! # How to extend
//!
//! `Port` does what `tidegate::shard::Shard` does on a client's frame and in a tick; a new action of a session gets a
//! method here, as it has an arm there. `Port::tick` keeps the order of a tick.

use std::{
    collections::BTreeSet,
    os::{fd::OwnedFd, unix::net::UnixStream},
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use smallvec::SmallVec;
use tidegate::{
    config::Config,
    connection::Connection,
    engine::{Request, Submission, memory::Memory},
    hub::Hub,
    outbox::{Lane, Terms},
    session::Session,
    shard::{
        client::{Client, Key, Sub},
        control::What,
        delivery::{Budget, Delivery},
        inbox::{Inbox, Item, Waiting},
        index::Index,
        start,
    },
    stream::{Draft, Published, Read, ReadBudget},
};
use tidegate_protocol::{
    Codec, Epoch, ServerFrame,
    frame::{AckResult, StartPosition, Subscribe, Subscribed},
};

use crate::model::{filter, number};

/// The one shard, its hub, and everything that was published.
pub struct Port {
    pub hub: Arc<Hub>,
    pub delivery: Delivery,
    inbox: Arc<Inbox>,
    index: Index<Key>,
    waiting: Waiting,
    last_messages: usize,
    /// By stream; the last list is of the topics in none.
    pub published: Vec<Vec<Arc<Published>>>,
    pub now_ms: u64,
    /// Live-only messages that wait in the inbox, by their numbers: a subscription that comes now is given them.
    pub live_waiting: BTreeSet<u64>,
    tokens: usize,
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
            delivery: Delivery::new(hub.clone(), budget, Instant::now()),
            published: vec![Vec::new(); hub.streams().len() + 1],
            hub,
            inbox,
            index: Index::new(),
            waiting: Waiting::default(),
            last_messages: config.limits.last_messages,
            now_ms: 1_000,
            live_waiting: BTreeSet::new(),
            tokens: 0,
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
        let now = self.delivery.now;
        let connection = Connection::new(mio::net::TcpStream::from_std(stream), Bytes::new(), now);
        self.tokens += 1;
        let at = self.delivery.clients.insert(Client {
            token: self.tokens,
            connection,
            codec,
            session: Session::new("me".into()),
            ranges: SmallVec::new(),
            control: None,
            outbox: None,
            pinned: 0,
            history: None,
            held: None,
            blocked: false,
            dirty: false,
            pumping: false,
            reading: false,
            charged: 0,
            ending: false,
            paused: false,
            resumed: now,
            next_ping: now,
            next_check: now,
        });
        (at as At, theirs)
    }

    /// Publishes, as often as it takes: where a log may not let go of what the shard has yet to read, that comes first.
    pub fn publish(&mut self, draft: Draft) {
        let request = Request { ticket: None, idempotency: None, tally: None, shard: 0 };
        let mut submission = Submission { draft: draft.clone(), request, now_ms: self.now_ms };
        let mut waiting = self.inbox.depth();
        while let Err(back) = self.hub.submit(submission) {
            submission = *back;
            self.drain_inbox();
            waiting = self.inbox.depth();
        }
        let is_wanted = self.inbox.depth() > waiting;
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
        let Subscribe { id, filter, from, credit, echo, .. } = subscribe;
        let reach = self.hub.reach(&filter);
        let first = self.index.under(&filter).is_empty();
        self.delivery.flush_ranges(at);
        let key = self.delivery.subs.vacant_key() as u32;
        let mut positions = Vec::new();
        let mut lanes = Vec::new();
        let mut waits = false;
        for &stream in &reach.streams {
            let cell = &self.hub.streams()[stream];
            let mut ordered = cell.lock();
            if first {
                ordered.listen(&filter, 0);
            }
            let name = cell.name.as_ref();
            let begin = start::resolve(&from, name, &ordered.log, &filter, terms, self.last_messages);
            let (offset, live) = (begin.offset, begin.live);
            positions.push(StartPosition { stream: cell.name.clone(), epoch: cell.epoch, offset, live });
            match begin.lane {
                Some(lane) => lanes.push((stream, lane)),
                None if self.delivery.cursors[stream] < live => {
                    lanes.push((stream, Lane::waiting_for(terms, live)));
                }
                None => {}
            }
            waits |= self.delivery.cursors[stream] < live;
        }
        if reach.live_only && first {
            self.hub.lock_live_only().listen(&filter, 0);
        }
        let client = &mut self.delivery.clients[at as usize];
        client.session.on_subscribed(id, key);
        let level = lanes.is_empty();
        for (stream, lane) in lanes {
            let pinned = lane.pinned();
            client.pinned += pinned;
            self.delivery.pinned += pinned;
            client.outbox.get_or_insert_default().insert(key, Some(stream), lane);
        }
        let ack = Subscribed {
            positions,
            overflow: terms.overflow,
            limit: terms.limit,
            limit_bytes: terms.limit_bytes,
            live_only: reach.live_only,
        };
        self.index.insert(&filter, Key { client: at, sub: key });
        self.delivery.subs.insert(Sub {
            client: at,
            level,
            no_echo: !echo,
            sent: 0,
            granted: credit.map_or(u64::MAX, u64::from),
            since: self.delivery.arena.next_serial(),
            gapped: 0,
            marked: 0,
            id,
            terms,
            filter,
            reach,
        });
        self.reply(at, &ServerFrame::Ack { id, result: AckResult::Subscribed(ack) });
        if waits {
            self.delivery.settling.push(at);
        }
        if !level {
            self.delivery.pump_later(at);
        }
    }

    pub fn unsubscribe(&mut self, at: At, id: u64, sub: u64) {
        let key = self.key(at, sub);
        self.delivery.mark(at);
        self.forget(at, sub, key);
        self.reply(at, &ServerFrame::Unsubscribed { sub, code: None });
        self.reply(at, &ServerFrame::Ack { id, result: AckResult::Done });
    }

    pub fn credit(&mut self, at: At, sub: u64, add: u64) {
        let key = self.key(at, sub);
        let sub = &mut self.delivery.subs[key as usize];
        sub.granted = sub.granted.saturating_add(add);
        if self.delivery.clients[at as usize].outbox.is_some() {
            self.delivery.pump_later(at);
        }
    }

    pub fn reply(&mut self, at: At, frame: &ServerFrame) {
        self.delivery.clients[at as usize].reply(frame, What::Other);
        self.delivery.mark_dirty(at);
    }

    /// The line is cut.
    pub fn remove(&mut self, at: At) {
        let subs: Vec<(u64, u32)> = self.delivery.clients[at as usize].session.subs().to_vec();
        for (sub, key) in subs {
            self.forget(at, sub, key);
        }
        let client = self.delivery.clients.remove(at as usize);
        self.delivery.buffered -= client.charged;
    }

    /// The socket may take something: an event would have told.
    pub fn on_writable(&mut self, at: At) {
        let client = &mut self.delivery.clients[at as usize];
        if client.blocked {
            client.blocked = false;
            self.delivery.mark_dirty(at);
        }
    }

    /// One turn of the shard, without its reads: fan-out, the marks that are due, flush, lanes. Says who must end.
    pub fn tick(&mut self, marks: &[At]) -> Vec<At> {
        self.drain(!marks.is_empty());
        for &at in marks {
            self.delivery.mark(at);
            self.delivery.mark_dirty(at);
        }
        self.delivery.flush_dirty();
        self.delivery.pump();
        self.check();
        let ending = std::mem::take(&mut self.delivery.ending);
        let clients = &self.delivery.clients;
        let at = |token| clients.iter().find(|(_, client)| client.token == token).map(|(at, _)| at as At);
        ending.into_iter().filter_map(|(token, _)| at(token)).collect()
    }

    /// Fans out what waits, without a flush.
    pub fn drain_inbox(&mut self) {
        self.drain(false);
    }

    /// Whether a connection has nothing left to be given: only what is in the kernel.
    pub fn is_idle(&self, at: At) -> bool {
        let client = &self.delivery.clients[at as usize];
        client.outbox.is_none()
            && client.control.is_none()
            && client.ranges.is_empty()
            && !client.connection.has_pending()
    }

    /// Nothing is left of connections that are gone.
    pub fn check_empty(&self) {
        let delivery = &self.delivery;
        assert_eq!((delivery.clients.len(), delivery.subs.len(), self.index.len()), (0, 0, 0));
        assert_eq!((delivery.pinned, delivery.buffered), (0, 0));
    }

    /// The books of the lanes.
    fn check(&self) {
        let mut all = 0;
        for (_, client) in &self.delivery.clients {
            assert_eq!(client.pinned, client.outbox.as_ref().map_or(0, |outbox| outbox.pinned()));
            all += client.pinned;
            // A lane that is empty takes one message whatever the budget says, and one read may go beyond it.
            let lanes = client.outbox.as_ref().map_or(0, |outbox| outbox.lanes().len()) as u64;
            let most = self.delivery.budget.connection_bytes + READ + lanes * LANE;
            assert!(client.pinned <= most, "{} of {most} bytes in {lanes} lanes", client.pinned);
            for &(_, key) in client.session.subs() {
                let sub = &self.delivery.subs[key as usize];
                assert!(sub.sent <= sub.granted, "sub {} was sent {} of {}", sub.id, sub.sent, sub.granted);
            }
        }
        assert_eq!(self.delivery.pinned, all);
    }

    fn drain(&mut self, wants_heads: bool) {
        let streams = self.hub.clone();
        let heads: Option<Vec<u64>> = (!self.delivery.settling.is_empty() || wants_heads).then(|| {
            let head = |stream: &tidegate::hub::Stream| {
                let ordered = stream.lock();
                ordered.refused(0).map_or(ordered.log.head(), |first| first - 1)
            };
            streams.streams().iter().map(head).collect()
        });
        let mut waiting = std::mem::take(&mut self.waiting);
        self.inbox.take(&mut waiting);
        let items = waiting.items.make_contiguous();
        for burst in items.chunk_by(|a, b| a.published.topic() == b.published.topic()) {
            self.fan_out(burst);
        }
        waiting.items.clear();
        for at in waiting.refused.drain(..) {
            self.read_refused(at);
        }
        self.waiting = waiting;
        if let Some(heads) = heads {
            for (cursor, head) in self.delivery.cursors.iter_mut().zip(heads) {
                *cursor = (*cursor).max(head);
            }
            for at in std::mem::take(&mut self.delivery.settling) {
                if self.delivery.clients.contains(at as usize) {
                    self.delivery.pump_later(at);
                }
            }
        }
    }

    /// Messages of one topic.
    fn fan_out(&mut self, items: &[Item]) {
        for item in items.iter().filter(|item| item.stream.is_none()) {
            self.live_waiting.remove(&number(&item.published.message.payload));
        }
        let matches = self.index.matches(items[0].published.topic());
        let expected = (matches.exact.len() + matches.wild.len()) * items.len();
        let report = self.delivery.fan_out(items, matches);
        assert_eq!(report.matched, expected as u64);
        assert!(
            report.queued + report.merged + report.dropped + report.behind <= report.matched,
            "{report:?}"
        );
    }

    fn read_refused(&mut self, at: usize) {
        let everything = filter(">");
        let budget = ReadBudget { messages: 1024, bytes: 1 << 20 };
        let hub = self.hub.clone();
        let stream = &hub.streams()[at];
        loop {
            let (read, after, head) = {
                let ordered = stream.lock();
                let first = ordered.refused(0).expect("nobody else clears it");
                let head = ordered.log.head();
                (ordered.log.read(first - 1, head, &everything, budget), first - 1, head)
            };
            let (messages, scanned) = match read {
                Read::Batch { messages, scanned } => (messages, scanned),
                Read::Sealed(segment) => segment.read(after, head, &everything, budget),
                Read::Evicted { .. } => panic!("what the shard has yet to fan out was evicted"),
            };
            for published in messages {
                self.fan_out(&[Item { published, stream: Some(at), tally: None }]);
            }
            self.delivery.cursors[at] = self.delivery.cursors[at].max(scanned);
            if stream.lock().caught_up(0, scanned) {
                return;
            }
        }
    }

    fn forget(&mut self, at: At, sub: u64, key: u32) {
        let gone = self.delivery.subs.remove(key as usize);
        self.index.remove(&gone.filter, Key { client: at, sub: key });
        if self.index.under(&gone.filter).is_empty() {
            for &stream in &gone.reach.streams {
                self.hub.streams()[stream].lock().unlisten(&gone.filter, 0);
            }
            if gone.reach.live_only {
                self.hub.lock_live_only().unlisten(&gone.filter, 0);
            }
        }
        let client = &mut self.delivery.clients[at as usize];
        client.session.on_unsubscribed(sub);
        if let Some(outbox) = &mut client.outbox {
            outbox.retain(|owned| owned.sub != key);
            let pinned = outbox.pinned();
            self.delivery.pinned = self.delivery.pinned + pinned - client.pinned;
            client.pinned = pinned;
            if outbox.is_empty() {
                client.outbox = None;
            }
        }
    }

    fn key(&self, at: At, sub: u64) -> u32 {
        let subs = self.delivery.clients[at as usize].session.subs();
        subs.iter().find(|&&(id, _)| id == sub).unwrap().1
    }
}
