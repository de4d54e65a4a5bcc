//! What the clients subscribed to, what the inbox holds for them, and the turns in which the one meets the other.
//!
//! [`Shard`](super::Shard) drives it from its thread: here is no thread, no clock and no wait for a socket. Whatever needs
//! the time takes it from [`Delivery::now`], which the driver sets.

use std::{
    collections::VecDeque,
    hint::black_box,
    sync::Arc,
    time::{Duration, Instant},
};

use slab::Slab;
use smallvec::SmallVec;
use tidegate_protocol::{
    ErrorCode, Filter, ServerFrame,
    frame::{AckResult, HistoryRequest, Published as PublishedAck, StartPosition, Subscribe, Subscribed},
};
use tokio::sync::oneshot;

use super::{
    client::{Client, Key, Sub, place},
    control::What,
    delivery::{ARENA_BYTES, Budget, Delivery},
    errand::{NO_CONNECTION, Outcome},
    inbox::{Inbox, Item, Waiting},
    index::Index,
    start,
};
use crate::{
    config::Config,
    engine::{Accepted, Request, Settled, Submission, Tally, Ticket},
    hub::{Hub, Stream},
    outbox::{Evicted, Lane, Terms},
    session::{PublishAction, error},
    stream::ReadBudget,
};

/// See the module.
pub struct Dispatch {
    /// Its shard's.
    pub(super) number: usize,
    pub hub: Arc<Hub>,
    pub inbox: Arc<Inbox>,
    pub delivery: Delivery,
    index: Index<Key>,
    waiting: Waiting,
    /// Connections whose mark is due, by their tokens.
    marks: Vec<usize>,
    /// Takes every topic that clients may publish to.
    everything: Filter,
    /// Streams whose logs hold what the inbox was refused, all of whose earlier messages are fanned out.
    refused: Vec<usize>,
    /// Whether the cursors are to be brought to the streams' heads.
    wants_heads: bool,
    /// Who waits for publishes that came over HTTP.
    pub(super) errands: Slab<oneshot::Sender<Outcome>>,
    /// Reports that have yet to come.
    tallies: VecDeque<(Instant, Arc<Tally>)>,
    flush_pace: FlushPace,
    /// How many messages a `from: last` may select in a stream.
    last_messages: usize,
}

/// What a shard whose inbox was full reads from a stream's log at a time, and how often in a turn.
const REFUSED_READ: ReadBudget = ReadBudget { messages: 1024, bytes: 1 << 20 };
const REFUSED_READS: usize = 8;
/// How many subscriptions are fetched at a time.
const FETCHED: usize = 64;
/// How long a publish waits for the report of other shards.
const REPORT_TIMEOUT: Duration = Duration::from_secs(1);

impl Dispatch {
    /// For the shard of this `number`, whose inbox among the hub's is `inbox`.
    pub fn new(
        number: usize,
        hub: Arc<Hub>,
        inbox: Arc<Inbox>,
        config: &Config,
        budget: Budget,
        now: Instant,
    ) -> Self {
        Self {
            number,
            delivery: Delivery::new(hub.clone(), budget, now),
            hub,
            inbox,
            index: Index::new(),
            waiting: Waiting::default(),
            marks: Vec::new(),
            everything: Filter::parse(">").expect("a filter"),
            refused: Vec::new(),
            wants_heads: false,
            errands: Slab::new(),
            tallies: VecDeque::new(),
            flush_pace: FlushPace::new(config.websocket.flush_interval),
            last_messages: config.limits.last_messages,
        }
    }

    /// Fans out what the inbox holds, flushes each connection once, goes on with the lanes of those that are behind.
    /// Whether some of them have more.
    pub fn turn(&mut self) -> bool {
        self.drain_inbox();
        self.write_marks();
        if self.flush_pace.is_now(!self.delivery.dirty.is_empty(), self.delivery.now) {
            self.delivery.flush_dirty();
        }
        self.delivery.pump()
    }

    /// Whether another turn has something to do already.
    pub fn is_busy(&self) -> bool {
        !self.refused.is_empty()
            || (!self.delivery.dirty.is_empty() && self.flush_pace.due.is_none())
            || !self.delivery.pumps.is_empty()
            || !self.delivery.ending.is_empty()
            || !self.inbox.is_empty()
    }

    /// When a turn is due whatever happens.
    pub fn next_deadline(&self) -> Option<Instant> {
        let report = self.tallies.front().map(|&(due, _)| due);
        self.flush_pace.due.into_iter().chain(report).min()
    }

    /// How many subscriptions the connections hold.
    pub fn subscriptions(&self) -> usize {
        self.index.len()
    }

    /// Takes a subscription, and answers it. Its start and this shard's interest meet under each stream's lock.
    pub fn subscribe(&mut self, at: u32, subscribe: Subscribe, terms: Terms) {
        let Subscribe { id, filter, from, credit, echo, .. } = subscribe;
        let reach = self.hub.reach(&filter);
        self.delivery.flush_ranges(at);
        let key = self.delivery.subs.vacant_key() as u32;
        let first = self.index.under(&filter).is_empty();
        self.index.insert(&filter, Key { client: at, sub: key });
        let place = self.index.place(&filter).filter(|_| first);
        let mut positions = Vec::with_capacity(reach.streams.len());
        let mut lanes: SmallVec<[(usize, Lane); 1]> = SmallVec::new();
        let mut waits = false;
        for &stream in &reach.streams {
            let cell = &self.hub.streams()[stream];
            let mut ordered = cell.lock();
            // From here on this shard is given what is published, so the head is where history ends.
            if first {
                ordered.listen(&filter, self.number, place);
            }
            let cap = self.last_messages;
            let start = start::resolve(&from, cell.name.as_ref(), &ordered.log, &filter, terms, cap);
            drop(ordered);
            let (offset, live) = (start.offset, start.live);
            positions.push(StartPosition { stream: cell.name.clone(), epoch: cell.epoch, offset, live });
            match start.lane {
                Some(lane) => lanes.push((stream, lane)),
                None if self.delivery.cursors[stream] < live => {
                    lanes.push((stream, Lane::waiting_for(terms, live)));
                }
                None => {}
            }
            waits |= self.delivery.cursors[stream] < live;
        }
        if reach.live_only {
            let mut live_only = self.hub.lock_live_only();
            if first {
                live_only.listen(&filter, self.number);
            }
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

    /// Tells the books of a subscription, takes it away, and says so.
    pub fn unsubscribe(&mut self, at: u32, id: u64, sub: u64, key: u32) {
        self.delivery.mark(at);
        self.forget(at, sub, key);
        self.reply(at, &ServerFrame::Unsubscribed { sub, code: None });
        self.reply(at, &ServerFrame::Ack { id, result: AckResult::Done });
    }

    /// A subscription may be sent `add` more messages.
    pub fn credit(&mut self, at: u32, key: u32, add: u64) {
        let sub = &mut self.delivery.subs[key as usize];
        sub.granted = sub.granted.saturating_add(add);
        if self.delivery.clients[at as usize].outbox.is_some() {
            self.delivery.pump_later(at);
        }
    }

    /// Takes a request for a page of history, one at a time.
    pub fn history(&mut self, at: u32, request: Box<HistoryRequest>) {
        let client = &mut self.delivery.clients[at as usize];
        if client.history.is_some() {
            let busy = "one request at a time";
            self.reply(at, &error(Some(request.id), ErrorCode::HistoryBusy, busy));
        } else {
            client.history = Some(request);
            self.delivery.pump_later(at);
        }
    }

    /// Gives a publish to the engine. `now_ms` is the broker's clock, in milliseconds since the Unix epoch.
    ///
    /// # Errors
    ///
    /// There is no room; the submission comes back.
    pub fn publish(&mut self, at: u32, publish: PublishAction, now_ms: u64) -> Result<(), Box<Submission>> {
        let client = &self.delivery.clients[at as usize];
        let ticket = publish.id.map(|id| Ticket {
            shard: self.number,
            connection: client.token,
            id,
            payload_bytes: publish.draft.payload.len() as u32,
        });
        let tally = ticket.filter(|_| publish.report).map(|ticket| Arc::new(Tally::new(ticket)));
        let idempotency = publish.idempotency.map(|key| (client.session.instance().clone(), key));
        if let Some(tally) = &tally {
            self.await_report(tally.clone());
        }
        let request = Request { ticket, idempotency, tally, shard: self.number };
        self.submit(Submission { draft: publish.draft, request, now_ms })
    }

    /// A report will come, or be late.
    pub(super) fn await_report(&mut self, tally: Arc<Tally>) {
        self.tallies.push_back((self.delivery.now + REPORT_TIMEOUT, tally));
    }

    /// Gives a publish to the engine, perhaps again.
    ///
    /// # Errors
    ///
    /// There is no room; it comes back.
    pub fn submit(&mut self, submission: Submission) -> Result<(), Box<Submission>> {
        self.hub.submit(submission)?;
        self.delivery.counters.published += 1;
        Ok(())
    }

    /// Queues a reply, to be flushed in this turn.
    pub fn reply(&mut self, at: u32, frame: &ServerFrame) {
        if matches!(frame, ServerFrame::Error(_)) {
            self.delivery.counters.refused += 1;
        }
        self.delivery.clients[at as usize].reply(frame, What::Other);
        self.delivery.mark_dirty(at);
    }

    /// A connection's mark is due: it is written once the cursors are fresh.
    pub fn mark_later(&mut self, at: u32) {
        self.wants_heads = true;
        self.marks.push(self.delivery.clients[at as usize].token);
    }

    /// Takes all subscriptions of a connection away, with what waits for them.
    pub fn forget_all(&mut self, at: u32) {
        let client = &mut self.delivery.clients[at as usize];
        client.outbox = None;
        self.delivery.pinned -= std::mem::take(&mut client.pinned);
        // The newest first: of a filter that many of them share, the last key goes without moving the others.
        for (_, key) in client.session.on_all_unsubscribed().into_iter().rev() {
            self.forget_one(at, key);
        }
    }

    /// Lets go of a connection, whose subscriptions are gone.
    pub fn remove(&mut self, at: u32) -> Client {
        let client = self.delivery.clients.remove(at as usize);
        self.delivery.buffered -= client.charged;
        client
    }

    /// Fans out what the inbox held when it was taken, and answers publishers.
    pub fn drain_inbox(&mut self) {
        // What was pushed before a head was read under the stream's lock is in the inbox now: once all of that is
        // fanned out, the shard stands at these heads, in streams nobody here listens to as well.
        let heads: Option<SmallVec<[u64; 4]>> = (!self.delivery.settling.is_empty() || self.wants_heads)
            .then(|| self.hub.streams().iter().map(|stream| self.level_head(stream)).collect());
        self.wants_heads = false;
        let mut waiting = std::mem::take(&mut self.waiting);
        self.inbox.take(&mut waiting);
        let mut items = waiting.items.make_contiguous();
        self.fetch(items);
        while !items.is_empty() {
            let (burst, rest) = items.split_at_mut(burst_of_one_topic(items));
            self.fan_out(burst);
            items = rest;
        }
        waiting.items.clear();
        self.refused.append(&mut waiting.refused);
        let mut refused = std::mem::take(&mut self.refused);
        refused.retain(|&at| !self.read_refused(at));
        self.refused = refused;
        for settled in waiting.settled.drain(..) {
            self.answer(settled);
        }
        self.waiting = waiting;
        if let Some(heads) = heads {
            for (cursor, head) in self.delivery.cursors.iter_mut().zip(heads) {
                *cursor = (*cursor).max(head);
            }
        }
        // A lane may wait for a cursor that is still on its way through a log.
        if self.refused.is_empty() {
            for at in std::mem::take(&mut self.delivery.settling) {
                if self.delivery.clients.contains(at as usize) {
                    self.delivery.pump_later(at);
                }
            }
        }
        while self.tallies.front().is_some_and(|(deadline, _)| *deadline <= self.delivery.now) {
            let Some((_, tally)) = self.tallies.pop_front() else { break };
            if let Some(settled) = tally.expire() {
                self.answer(settled);
            }
        }
    }

    /// Brings the subscriptions that `items` go to into the caches, as [`Log::fetch`](crate::stream::Log::fetch) does with
    /// topics.
    fn fetch(&self, items: &[Item]) {
        for chunk in items.chunks(FETCHED) {
            let first = |item: &Item| self.index.first_at(item.place?);
            let keys: SmallVec<[Key; FETCHED]> = chunk.iter().filter_map(first).collect();
            for key in keys {
                black_box(self.delivery.subs.get(key.sub as usize).map(|sub| sub.sent));
            }
        }
    }

    /// A stream's head, or how far this shard comes with what its inbox holds.
    fn level_head(&self, stream: &Stream) -> u64 {
        let ordered = stream.lock();
        ordered.refused(self.number).map_or(ordered.log.head(), |first| first - 1)
    }

    /// Fans messages of one topic out. One that is reported on comes alone.
    fn fan_out(&mut self, items: &[Item]) {
        let Some(first) = items.first() else { return };
        let matches = self.index.matches_at(&first.published.message.topic, first.place);
        let report = self.delivery.fan_out(items, matches);
        if let Some(tally) = &first.tally
            && let Some(settled) = tally.add(report)
        {
            self.hub.settled(settled, self.number);
        }
        if self.delivery.arena.bytes() >= ARENA_BYTES {
            self.delivery.flush_dirty();
        }
    }

    /// The inbox was full: what it was not given of a stream is read from the log, a part in each turn. Whether that is
    /// all; what is refused after that waits for what the inbox holds by then.
    fn read_refused(&mut self, at: usize) -> bool {
        let hub = self.hub.clone();
        let stream = &hub.streams()[at];
        for _ in 0..REFUSED_READS {
            let (first, head) = {
                let ordered = stream.lock();
                let Some(first) = ordered.refused(self.number) else { return true };
                (first, ordered.log.head())
            };
            let (messages, scanned) = match stream.read(first - 1, head, &self.everything, REFUSED_READ) {
                Ok(batch) => batch,
                // What a shard has yet to fan out is held: it cannot be evicted.
                Err(Evicted { start }) => (Vec::new(), start - 1),
            };
            for published in messages {
                self.fan_out(&[Item { published, stream: Some(at), tally: None, place: None }]);
            }
            self.delivery.cursors[at] = self.delivery.cursors[at].max(scanned);
            if stream.lock().caught_up(self.number, scanned) {
                return true;
            }
        }
        false
    }

    fn answer(&mut self, settled: Settled) {
        if settled.ticket.connection == NO_CONNECTION {
            return self.report_back(settled);
        }
        let Settled { ticket, outcome } = settled;
        let at = place(ticket.connection);
        let Some(client) =
            self.delivery.clients.get_mut(at as usize).filter(|c| c.token == ticket.connection)
        else {
            return;
        };
        let frame = match outcome {
            Ok(Accepted { position, duplicate, report }) => ServerFrame::Ack {
                id: ticket.id,
                result: AckResult::Published(PublishedAck { position, duplicate, report }),
            },
            Err(code) => error(Some(ticket.id), code, "the message was not taken"),
        };
        client.reply(&frame, What::PublishAck(ticket.payload_bytes));
        self.delivery.mark_dirty(at);
    }

    /// Writes the marks that are due, once the cursors are fresh.
    fn write_marks(&mut self) {
        for token in std::mem::take(&mut self.marks) {
            let at = place(token);
            if self
                .delivery
                .clients
                .get(at as usize)
                .is_some_and(|c| c.token == token && c.connection.is_open())
            {
                self.delivery.mark(at);
                self.delivery.mark_dirty(at);
            }
        }
    }

    /// Takes a subscription away, with what waits for it.
    fn forget(&mut self, at: u32, sub: u64, key: u32) {
        self.forget_one(at, key);
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

    /// Takes a subscription away, but from its connection.
    fn forget_one(&mut self, at: u32, key: u32) {
        let Some(gone) = self.delivery.subs.try_remove(key as usize) else { return };
        self.index.remove(&gone.filter, Key { client: at, sub: key });
        if self.index.under(&gone.filter).is_empty() {
            for &stream in &gone.reach.streams {
                self.hub.streams()[stream].lock().unlisten(&gone.filter, self.number);
            }
            if gone.reach.live_only {
                self.hub.lock_live_only().unlisten(&gone.filter, self.number);
            }
        }
    }
}

/// How far apart flushes are, with a `flush_interval`: what comes after a rest goes out at once, what comes sooner
/// gathers.
#[derive(Debug)]
struct FlushPace {
    interval: Duration,
    last: Option<Instant>,
    /// When what gathers is flushed.
    due: Option<Instant>,
}

impl FlushPace {
    fn new(interval: Duration) -> Self {
        Self { interval, last: None, due: None }
    }

    /// Whether it is time to flush. Where nothing `gathers`, no later time is due either.
    fn is_now(&mut self, gathers: bool, now: Instant) -> bool {
        self.due = None;
        if self.interval.is_zero() || !gathers {
            return true;
        }
        let due = self.last.map_or(now, |last| last + self.interval);
        if now < due {
            self.due = Some(due);
            return false;
        }
        self.last = Some(now);
        true
    }
}

/// How many messages at the head of `items` are of one topic, reported on by none, and no more than a flush takes.
fn burst_of_one_topic(items: &[Item]) -> usize {
    let Some(first) = items.first().filter(|item| item.tally.is_none()) else { return 1 };
    let mut bytes = 0;
    let same = |item: &&Item| {
        bytes += item.published.cost as usize;
        bytes <= ARENA_BYTES
            && item.tally.is_none()
            && item.published.message.topic == first.published.message.topic
    };
    items.iter().take_while(same).count().max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTERVAL: Duration = Duration::from_millis(10);

    #[test]
    fn after_a_rest_a_flush_interval_delays_nothing() {
        let (mut pace, start) = (FlushPace::new(INTERVAL), Instant::now());
        assert!(pace.is_now(true, start));
        assert!(pace.is_now(true, start + INTERVAL));
        assert_eq!(pace.due, None);
    }

    #[test]
    fn what_comes_sooner_than_the_flush_interval_gathers_for_the_rest_of_it() {
        let (mut pace, start) = (FlushPace::new(INTERVAL), Instant::now());
        assert!(pace.is_now(true, start));
        for ms in 1..10 {
            assert!(!pace.is_now(true, start + Duration::from_millis(ms)));
            assert_eq!(pace.due, Some(start + INTERVAL));
        }
        assert!(pace.is_now(true, start + INTERVAL));
    }

    #[test]
    fn no_flush_is_due_once_all_that_gathered_is_gone() {
        let (mut pace, start) = (FlushPace::new(INTERVAL), Instant::now());
        assert!(pace.is_now(true, start));
        assert!(!pace.is_now(true, start));
        // A full arena was flushed meanwhile: a due time that stays would keep the shard from sleeping.
        assert!(pace.is_now(false, start));
        assert_eq!(pace.due, None);
    }
}
