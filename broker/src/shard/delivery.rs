//! From a message in the shard to the sockets: fan-out, flush, and the lanes of those that do not keep up.
//!
//! Fan-out never waits and never closes: it extends ranges or fills lanes, and says who must end.

use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, Instant},
};

use slab::Slab;
use tidegate_protocol::{
    CloseCode, Codec, Filter, ServerFrame,
    frame::{Mark, Report},
};

use super::{
    arena::Arena,
    client::{Client, Key, Sub},
    control::What,
    cork::Cork,
    inbox::Item,
    index::Matches,
};
use crate::{
    hub::{Hub, Stream},
    metrics::Counters,
    outbox::{Batch, Entry, Evicted, Lane, LogSource, Offered},
    stream::{Published, ReadBudget},
};

/// See the module.
pub struct Delivery {
    pub hub: Arc<Hub>,
    pub clients: Slab<Client>,
    pub subs: Slab<Sub>,
    pub arena: Arena,
    /// For each stream: everything up to here is fanned out.
    pub cursors: Vec<u64>,
    /// What all lanes pin, and may.
    pub pinned: u64,
    /// What all connections hold in buffers and replies.
    pub buffered: u64,
    pub budget: Budget,
    /// Connections with something to flush.
    pub dirty: Vec<u32>,
    /// Connections whose lanes can go on.
    pub pumps: VecDeque<u32>,
    /// Connections that must end, and why.
    pub ending: Vec<(usize, End)>,
    /// Connections with a lane that waits for the shard's cursor.
    pub settling: Vec<u32>,
    /// Connections to be looked at earlier than was planned.
    pub checks: Vec<(Instant, usize)>,
    pub counters: Counters,
    pub now: Instant,
    rotation: Rotation,
    cork: Cork,
    /// The burst that is in the cork: connections that hold the same ranges share it.
    corked: Option<Codec>,
    /// Its ranges.
    corked_ranges: Vec<(u64, u64)>,
    scratch: Vec<u8>,
    /// Deliveries that a test wants lost.
    #[cfg(feature = "faults")]
    pub faults: super::fault::Faults,
}

/// Bounds on what one shard's lanes do.
#[derive(Debug, Clone)]
pub struct Budget {
    /// Of all lanes of a connection, in bytes.
    pub connection_bytes: u64,
    /// Of all lanes of the shard, in bytes.
    pub shard_bytes: u64,
    /// A page of history.
    pub page: ReadBudget,
    pub stall_timeout: Duration,
}

/// Why a connection must end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// With a close frame.
    Close(CloseCode, String),
    /// The peer has closed, or is lost: answer what there is to answer.
    Gone,
    /// At once: the socket has failed, or its time is over.
    Drop,
}

/// What a lane reads from the log at a time.
const READ: ReadBudget = ReadBudget { messages: 256, bytes: 64 << 10 };
/// What a lane that reads through its slots reads at a time.
const READ_UNPACED: ReadBudget = ReadBudget { messages: 4096, bytes: 1 << 20 };
/// What lanes may write and read in one tick, all connections together, before live messages have their turn.
const PUMP_BYTES: u64 = 1 << 20;
/// What one write gathers from lanes.
const BURST: usize = 64 << 10;
/// The arena is flushed at this size.
pub const ARENA_BYTES: usize = 256 << 10;

impl Delivery {
    pub fn new(hub: Arc<Hub>, budget: Budget, now: Instant) -> Self {
        Self {
            cursors: vec![0; hub.streams().len()],
            hub,
            clients: Slab::new(),
            subs: Slab::new(),
            arena: Arena::default(),
            pinned: 0,
            buffered: 0,
            budget,
            dirty: Vec::new(),
            pumps: VecDeque::new(),
            ending: Vec::new(),
            settling: Vec::new(),
            checks: Vec::new(),
            counters: Counters::default(),
            now,
            rotation: Rotation::default(),
            cork: Cork::default(),
            corked: None,
            corked_ranges: Vec::new(),
            scratch: Vec::new(),
            #[cfg(feature = "faults")]
            faults: super::fault::Faults,
        }
    }

    /// Gives messages of one topic to every subscription that takes it, subscription by subscription: what is touched
    /// for one delivery is at hand for the next.
    pub fn fan_out(&mut self, items: &[Item], matches: Matches<'_, Key>) -> Report {
        let mut report = Report::default();
        let Some(last) = items.last() else { return report };
        if let (Some(at), Some(offset)) = (last.stream, last.published.offset()) {
            self.cursors[at] = self.cursors[at].max(offset);
        }
        let (mut exact, mut wild) = (matches.exact, matches.wild);
        let count = items.len() as u64;
        let mut first = None;
        loop {
            let client = match (exact.first(), wild.first()) {
                (Some(a), Some(b)) => a.client.min(b.client),
                (Some(a), None) => a.client,
                (None, Some(b)) => b.client,
                (None, None) => break,
            };
            let first =
                *first.get_or_insert_with(|| self.arena.push(items.iter().map(|item| &item.published)));
            let exactly = run(&mut exact, client);
            let wildly = run(&mut wild, client);
            report.matched += (exactly.len() + wildly.len()) as u64 * count;
            let alone = match (exactly, wildly) {
                ([key], []) | ([], [key]) => Some(*key),
                _ => None,
            };
            if alone.is_some_and(|key| self.give(key, items, first)) {
                report.queued += count;
                continue;
            }
            for (item, serial) in items.iter().zip(first..) {
                if alone.is_some_and(|key| self.give(key, std::slice::from_ref(item), serial)) {
                    report.queued += 1;
                } else {
                    self.give_each(client, exactly, wildly, item, serial, &mut report);
                }
            }
        }
        debug_assert_eq!(report.matched, (matches.exact.len() + matches.wild.len()) as u64 * count);
        debug_assert!(report.queued + report.merged + report.dropped + report.behind <= report.matched);
        report
    }

    /// The path of nearly every delivery: a subscription that is level and alone on its connection with this topic.
    /// False where anything is out of the ordinary.
    fn give(&mut self, key: Key, items: &[Item], first: u64) -> bool {
        let sub = &mut self.subs[key.sub as usize];
        let client = &mut self.clients[key.client as usize];
        let count = items.len() as u64;
        if !sub.level || !sub.has_credit_for(count) || sub.no_echo || !client.takes_ranges() {
            return false;
        }
        #[cfg(feature = "faults")]
        {
            if count > 1 {
                return false;
            }
            if self.faults.loses(&items[0].published) {
                sub.sent += 1;
                return true;
            }
        }
        self.arena.encode(client.codec);
        sub.sent += count;
        client.extend(first, first + count);
        if !client.dirty {
            client.dirty = true;
            self.dirty.push(key.client);
        }
        true
    }

    /// Several subscriptions of one connection, or one that needs a lane: the shared bytes only where every one of them
    /// is level and is to be given the message, else each gets its own.
    fn give_each(
        &mut self,
        at: u32,
        exactly: &[Key],
        wildly: &[Key],
        item: &Item,
        serial: u64,
        report: &mut Report,
    ) {
        let published = &item.published;
        let client = &self.clients[at as usize];
        if !client.connection.is_open() {
            return;
        }
        let instance = client.session.instance();
        let own_echo = |sub: &Sub| sub.no_echo && published.origin.as_ref() == Some(instance);
        let keys = || exactly.iter().chain(wildly).map(|key| key.sub);
        let shared = client.takes_ranges()
            && keys().all(|key| {
                let sub = &self.subs[key as usize];
                sub.level && sub.has_credit() && !own_echo(sub)
            });
        if shared {
            for key in keys() {
                self.subs[key as usize].sent += 1;
                report.queued += 1;
            }
            let client = &mut self.clients[at as usize];
            self.arena.encode(client.codec);
            client.extend(serial, serial + 1);
            self.mark_dirty(at);
            return;
        }
        let given: smallvec::SmallVec<[u32; 4]> =
            keys().filter(|&key| !own_echo(&self.subs[key as usize])).collect();
        // A subscription leaves level at a clean point: what it was given this tick goes out, or into lanes, first.
        if given.iter().any(|&key| self.subs[key as usize].level)
            && !self.clients[at as usize].ranges.is_empty()
        {
            self.flush(at);
        }
        for key in given {
            match self.offer(at, key, item.stream, published) {
                Offered::Queued => report.queued += 1,
                Offered::Merged => report.merged += 1,
                Offered::Dropped | Offered::Disconnect => report.dropped += 1,
                Offered::Behind => report.behind += 1,
                Offered::Skipped => {}
            }
        }
    }

    /// Puts a message in a subscription's lane.
    fn offer(&mut self, at: u32, key: u32, stream: Option<usize>, published: &Arc<Published>) -> Offered {
        let client = &mut self.clients[at as usize];
        let sub = &mut self.subs[key as usize];
        let outbox = client.outbox.get_or_insert_default();
        if outbox.lane_mut(key, stream).is_none() {
            sub.level = false;
            outbox.insert(key, stream, Lane::new(sub.terms, stream.is_some()));
        }
        let Some(lane) = outbox.lane_mut(key, stream) else { return Offered::Skipped };
        let room = client.pinned < self.budget.connection_bytes && self.pinned < self.budget.shard_bytes;
        let before = lane.pinned();
        let offered = lane.offer(published, room);
        let after = lane.pinned();
        client.pinned = client.pinned + after - before;
        self.pinned = self.pinned + after - before;
        match offered {
            Offered::Merged => self.counters.merged += 1,
            Offered::Dropped => self.counters.dropped += 1,
            Offered::Disconnect => {
                let reason = format!("slow: sub {} sent {} gapped {}", sub.id, sub.sent, sub.gapped);
                self.end(at, End::Close(CloseCode::Slow, reason));
                return offered;
            }
            Offered::Queued | Offered::Behind | Offered::Skipped => {}
        }
        self.pump_later(at);
        offered
    }

    /// Writes what control lane and ranges of a connection hold.
    pub fn flush(&mut self, at: u32) {
        let Some(client) = self.clients.get_mut(at as usize) else { return };
        client.dirty = false;
        if client.blocked {
            self.hand_back(at, 0);
            self.charge(at);
            return;
        }
        let controls = client.control.as_ref().map_or(0, |control| control.len());
        let reuse = controls == 0
            && self.corked == Some(client.codec)
            && self.corked_ranges.as_slice() == client.ranges.as_slice();
        if !reuse {
            self.cork.start(client.codec);
            if let Some(control) = &client.control {
                control.frames().for_each(|frame| self.cork.push(frame));
            }
            for &(from, to) in &client.ranges {
                for serial in from..to {
                    self.cork.push(self.arena.frame(client.codec, serial));
                }
            }
            self.cork.finish();
            self.corked = (controls == 0).then_some(client.codec);
            self.corked_ranges.clear();
            self.corked_ranges.extend_from_slice(&client.ranges);
        }
        if self.cork.frames() == 0 && !client.connection.has_pending() {
            return;
        }
        let bytes = self.cork.bytes();
        let begun = match client.connection.write(bytes, self.now) {
            Ok(written) => {
                client.blocked = written.blocked;
                self.counters.bytes_out += written.taken as u64;
                if written.taken == bytes.len() {
                    self.cork.frames()
                } else {
                    let begun = self.cork.begun(written.taken);
                    client.connection.keep_partial(&bytes[begun.rest]);
                    begun.frames
                }
            }
            Err(_) => {
                client.ranges.clear();
                client.blocked = true;
                self.end(at, End::Drop);
                return;
            }
        };
        if let Some(control) = &mut client.control {
            let session = &mut client.session;
            control.written(begun.min(controls), |what| {
                if let What::PublishAck(bytes) = what {
                    session.on_ack_written(bytes);
                }
            });
            if control.is_empty() {
                client.control = None;
            }
        }
        let messages = begun.saturating_sub(controls);
        self.counters.delivered += messages as u64;
        if begun < self.cork.frames() {
            self.hand_back(at, messages);
        } else if client.ranges.spilled() {
            client.ranges = smallvec::SmallVec::new();
        } else {
            client.ranges.clear();
        }
        let client = &self.clients[at as usize];
        if client.charged > 0 || client.connection.has_pending() || client.control.is_some() {
            self.charge(at);
        }
        if self.clients[at as usize].blocked {
            self.on_blocked(at);
        }
    }

    /// What is gathered for a connection goes out, or into lanes, before what is said next: its replies go ahead of its
    /// messages, and a new subscription would take for its own what was there before it.
    pub fn flush_ranges(&mut self, at: u32) {
        if !self.clients[at as usize].ranges.is_empty() {
            self.flush(at);
        }
    }

    /// Brings the budget to what a connection holds now; that, in bytes.
    pub fn charge(&mut self, at: u32) -> u64 {
        let client = &mut self.clients[at as usize];
        let held = (client.connection.buffered() + client.control_bytes()) as u64;
        self.buffered = self.buffered + held - client.charged;
        client.charged = held;
        held
    }

    /// What the kernel did not begin goes into the lanes of the subscriptions it was for, all but the first `begun`.
    fn hand_back(&mut self, at: u32, begun: usize) {
        let client = &mut self.clients[at as usize];
        let ranges = std::mem::take(&mut client.ranges);
        if ranges.is_empty() || !client.connection.is_open() {
            return;
        }
        let subs: smallvec::SmallVec<[u32; 4]> = client.session.subs().iter().map(|&(_, key)| key).collect();
        for serial in ranges.iter().flat_map(|&(from, to)| from..to).skip(begun) {
            let published = self.arena.message(serial).clone();
            let stream = published.offset().and_then(|_| self.hub.stream_of(&published.message.topic));
            for &key in &subs {
                let sub = &mut self.subs[key as usize];
                if sub.since <= serial && sub.filter.matches(&published.message.topic) {
                    sub.sent -= 1;
                    self.offer(at, key, stream, &published);
                }
            }
        }
    }

    /// Goes on with the lanes of as many connections as a tick allows. Whether some are left.
    pub fn pump(&mut self) -> bool {
        let mut left = PUMP_BYTES;
        for _ in 0..self.pumps.len() {
            if left == 0 {
                break;
            }
            let Some(at) = self.pumps.pop_front() else { break };
            if let Some(client) = self.clients.get_mut(at as usize) {
                client.pumping = false;
                self.pump_one(at, &mut left);
            }
        }
        !self.pumps.is_empty()
    }

    fn pump_one(&mut self, at: u32, left: &mut u64) {
        loop {
            let client = &mut self.clients[at as usize];
            if !client.connection.is_open() || client.ending {
                return;
            }
            let read = self.read_logs(at);
            *left = left.saturating_sub(read);
            let client = &mut self.clients[at as usize];
            if client.blocked || client.control.is_some() || !client.ranges.is_empty() {
                // The flush comes first; where the socket is blocked, an event will tell.
                if !client.blocked {
                    self.mark_dirty(at);
                } else if read > 0 {
                    self.pump_later(at);
                }
                break;
            }
            self.answer_history(at);
            let written = self.write_lanes(at);
            *left = left.saturating_sub(written);
            if self.clients[at as usize].blocked {
                self.on_blocked(at);
            } else if read + written > 0 {
                if *left == 0 {
                    self.pump_later(at);
                    break;
                }
                continue;
            }
            break;
        }
        self.settle_lanes(at);
    }

    /// Reads on in the logs for lanes that want it and can: those that go through slots whatever the socket does.
    fn read_logs(&mut self, at: u32) -> u64 {
        let client = &mut self.clients[at as usize];
        let (blocked, instance) = (client.blocked, client.session.instance().clone());
        let Some(outbox) = &mut client.outbox else { return 0 };
        let mut total = 0;
        for owned in outbox.lanes_mut() {
            let Some(stream) = owned.stream else { continue };
            let lane = &mut owned.lane;
            let sub = &self.subs[owned.sub as usize];
            if !lane.wants_log() || (!lane.reads_unpaced() && (blocked || !sub.has_credit())) {
                continue;
            }
            let mut source = StreamSource { stream: &self.hub.streams()[stream], filter: &sub.filter };
            let budget = if lane.reads_unpaced() { READ_UNPACED } else { READ };
            let is_mine =
                |published: &Published| !(sub.no_echo && published.origin.as_ref() == Some(&instance));
            let before = lane.pinned();
            // A step that finds nothing of its own still costs something, or a quiet reader would never yield.
            let room = client.pinned < self.budget.connection_bytes && self.pinned < self.budget.shard_bytes;
            total += lane.read_on(self.cursors[stream], budget, room, &mut source, is_mine).max(64);
            let after = lane.pinned();
            client.pinned = client.pinned + after - before;
            self.pinned = self.pinned + after - before;
        }
        total
    }

    /// Once in a while: lanes that wait for long let go of what the logs have let go of, and the depth of all is taken.
    pub fn survey_lanes(&mut self) {
        let (mut outboxes, mut depth) = (0, 0);
        for (_, client) in &mut self.clients {
            let Some(outbox) = &mut client.outbox else { continue };
            for owned in outbox.lanes_mut() {
                if let Some(stream) = owned.stream.filter(|_| owned.lane.remembers_much()) {
                    let start = self.hub.streams()[stream].lock().log.start();
                    owned.lane.lose_evicted(start, self.cursors[stream]);
                }
                depth += owned.lane.depth();
            }
            outboxes += 1;
            let pinned = outbox.pinned();
            self.pinned = self.pinned + pinned - client.pinned;
            client.pinned = pinned;
        }
        (self.counters.outboxes, self.counters.outbox_depth) = (outboxes, depth);
    }

    /// One write of what the lanes hold, in turns.
    fn write_lanes(&mut self, at: u32) -> u64 {
        let client = &mut self.clients[at as usize];
        let Some(outbox) = &mut client.outbox else { return 0 };
        self.cork.start(client.codec);
        self.corked = None;
        let mut popped: Vec<(usize, Entry)> = Vec::new();
        let subs = &mut self.subs;
        while self.cork.size() < BURST {
            // What is popped counts as sent at once, and is taken back where it is not written.
            let Some((lane, entry)) = outbox.pop(|key| subs[key as usize].has_credit()) else { break };
            let owned = &outbox.lanes()[lane];
            let sub = &mut subs[owned.sub as usize];
            self.scratch.clear();
            match &entry {
                Entry::Message(published) => {
                    sub.sent += 1;
                    client.codec.encode_message(&published.message, &mut self.scratch);
                    client.codec.tag_message(&mut self.scratch, sub.id);
                }
                Entry::Loss(loss) => {
                    sub.gapped += loss.told();
                    let stream = owned.stream.and_then(|stream| self.hub.streams()[stream].name.clone());
                    let gap = loss.gap(sub.id, stream, owned.lane.overflow());
                    client.codec.encode_server(&ServerFrame::Gap(gap), &mut self.scratch);
                }
            }
            self.cork.push(&self.scratch);
            popped.push((lane, entry));
        }
        if popped.is_empty() {
            return 0;
        }
        self.cork.finish();
        let bytes = self.cork.bytes();
        let (taken, begun) = match client.connection.write(bytes, self.now) {
            Ok(written) => {
                client.blocked = written.blocked;
                let begun = self.cork.begun(written.taken);
                client.connection.keep_partial(&bytes[begun.rest]);
                (written.taken, begun.frames)
            }
            Err(_) => {
                client.blocked = true;
                self.end(at, End::Drop);
                return 0;
            }
        };
        self.counters.bytes_out += taken as u64;
        for (index, (lane, entry)) in popped.into_iter().enumerate().rev() {
            let sub = &mut subs[outbox.lanes()[lane].sub as usize];
            match &entry {
                Entry::Message(_) if index >= begun => sub.sent -= 1,
                Entry::Loss(loss) if index >= begun => sub.gapped -= loss.told(),
                Entry::Message(_) => self.counters.delivered += 1,
                Entry::Loss(_) => self.counters.gaps += 1,
            }
            if index >= begun {
                outbox.unpop(lane, entry);
            }
        }
        let pinned = outbox.pinned();
        self.pinned = self.pinned + pinned - client.pinned;
        client.pinned = pinned;
        taken.max(1) as u64
    }

    /// Lanes that are level go, and their subscriptions take ranges again.
    fn settle_lanes(&mut self, at: u32) {
        let client = &mut self.clients[at as usize];
        let Some(outbox) = &mut client.outbox else { return };
        let cursors = &self.cursors;
        outbox.retain(|owned| !owned.lane.is_level(owned.stream.map_or(0, |stream| cursors[stream])));
        let mut waits = false;
        for &(_, key) in client.session.subs() {
            let behind = outbox.lanes().iter().any(|owned| owned.sub == key);
            self.subs[key as usize].level = !behind;
            waits |= behind;
        }
        let pinned = outbox.pinned();
        self.pinned = self.pinned + pinned - client.pinned;
        client.pinned = pinned;
        if !waits {
            client.outbox = None;
        }
    }

    /// Answers a waiting `history` request; nothing else waits before it.
    fn answer_history(&mut self, at: u32) {
        let client = &mut self.clients[at as usize];
        let Some(request) = client.history.take() else { return };
        let page = super::start::history(&self.hub, &request, self.budget.page);
        self.scratch.clear();
        client.codec.encode_server(&page, &mut self.scratch);
        self.cork.start(client.codec);
        self.corked = None;
        self.cork.push(&self.scratch);
        self.cork.finish();
        let bytes = self.cork.bytes();
        match client.connection.write(bytes, self.now) {
            Ok(written) => {
                client.blocked = written.blocked;
                let begun = self.cork.begun(written.taken);
                if begun.frames == 0 {
                    client.history = Some(request);
                } else {
                    client.connection.keep_partial(&bytes[begun.rest]);
                }
            }
            Err(_) => self.end(at, End::Drop),
        }
    }

    /// The books of a connection, as they stand once its ranges are flushed: whatever is written later comes behind the
    /// control lane.
    pub fn mark(&mut self, at: u32) {
        self.flush_ranges(at);
        let client = &mut self.clients[at as usize];
        if client.control.as_ref().is_some_and(|control| control.has_mark())
            || client.session.subs().is_empty()
        {
            return;
        }
        let mut mark = Mark::default();
        let mut streams: Vec<usize> = Vec::new();
        for &(_, key) in client.session.subs() {
            let sub = &mut self.subs[key as usize];
            streams.extend(&sub.reach.streams);
            let told = sub.sent + sub.gapped;
            if told != sub.marked || !sub.level {
                sub.marked = told;
                mark.subs.push(sub.books());
            }
        }
        streams.sort_unstable();
        streams.dedup();
        for stream in streams {
            let Stream { name, epoch, .. } = &self.hub.streams()[stream];
            let offset = self.cursors[stream];
            mark.positions.push(tidegate_protocol::Position { stream: name.clone(), epoch: *epoch, offset });
        }
        client.reply(&ServerFrame::Mark(mark), What::Mark);
        self.mark_dirty(at);
    }

    /// Flushes every connection that has something to write.
    pub fn flush_dirty(&mut self) {
        let mut dirty = std::mem::take(&mut self.dirty);
        let (later, sooner) = dirty.split_at(self.rotation.next(dirty.len()));
        for &at in sooner.iter().chain(later) {
            self.flush(at);
            if self
                .clients
                .get(at as usize)
                .is_some_and(|c| !c.blocked && (c.outbox.is_some() || c.history.is_some()))
            {
                self.pump_later(at);
            }
        }
        dirty.clear();
        // Flushing may have found new ones, without ranges; they have the next turn.
        dirty.append(&mut self.dirty);
        self.dirty = dirty;
        self.arena.clear();
        self.corked = None;
    }

    pub fn mark_dirty(&mut self, at: u32) {
        let client = &mut self.clients[at as usize];
        if !client.dirty {
            client.dirty = true;
            self.dirty.push(at);
        }
    }

    pub fn pump_later(&mut self, at: u32) {
        let client = &mut self.clients[at as usize];
        if !client.pumping {
            client.pumping = true;
            self.pumps.push_back(at);
        }
    }

    pub fn end(&mut self, at: u32, end: End) {
        let client = &mut self.clients[at as usize];
        if !client.ending {
            client.ending = true;
            self.ending.push((client.token, end));
        }
    }

    /// A socket that takes nothing is looked at when its time is over.
    fn on_blocked(&mut self, at: u32) {
        self.counters.blocked += 1;
        let deadline = self.now + self.budget.stall_timeout;
        let client = &mut self.clients[at as usize];
        if deadline < client.next_check {
            client.next_check = deadline;
            self.checks.push((deadline, client.token));
        }
    }
}

/// Where flushes begin: the last of a large fan-out waits for all the others, so nobody is to be always last. The order
/// stays as it is, since one that leaps costs 10 to 30 % more CPU (`docs/decisions.md`).
#[derive(Debug, Default)]
struct Rotation(u32);

impl Rotation {
    /// The place among `length` that is first this time: the golden ratio spreads them evenly, whatever the lengths.
    fn next(&mut self, length: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9);
        ((u64::from(self.0) * length as u64) >> 32) as usize
    }
}

/// A stream and a filter, as a lane reads them.
struct StreamSource<'a> {
    stream: &'a Stream,
    filter: &'a Filter,
}

impl LogSource for StreamSource<'_> {
    fn read(&mut self, after: u64, upto: u64, budget: ReadBudget) -> Result<Batch, Evicted> {
        self.stream.read(after, upto, self.filter, budget)
    }

    fn get(&mut self, offset: u64) -> Option<Arc<Published>> {
        self.stream.lock().log.get(offset)
    }
}

/// Takes the leading keys of one connection.
fn run<'a>(keys: &mut &'a [Key], client: u32) -> &'a [Key] {
    let length = keys.iter().take_while(|key| key.client == client).count();
    let (run, rest) = keys.split_at(length);
    *keys = rest;
    run
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flushes_begin_with_every_connection_about_as_often() {
        for length in [1, 2, 7, 1000] {
            let mut rotation = Rotation::default();
            let mut times_first = vec![0; length];
            for _ in 0..100 * length {
                times_first[rotation.next(length)] += 1;
            }
            assert!(times_first.iter().all(|times| (95..=105).contains(times)), "{length}: {times_first:?}");
        }
        assert_eq!(Rotation::default().next(0), 0);
    }
}
