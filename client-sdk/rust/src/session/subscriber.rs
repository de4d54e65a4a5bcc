//! One subscription's rules: where it is, what it has, how much it may be sent, how it comes back.

use std::sync::Arc;

use tidegate_protocol::{
    ClientFrame, Epoch, Filter, From, Message, Position,
    frame::{Gap, GapReason, Overflow, SubMark, Subscribe, Subscribed},
    position::At,
};

use super::{
    StreamName,
    books::{Books, Repair},
};
use crate::{
    command::{Reply, SubscribeCommand},
    error::SubscribeError,
    queue::{Item, Queue},
    stats::Counters,
    subscription::{EndReason, Event, Reset, Resumed},
};

#[derive(Debug)]
pub(super) struct Subscriber {
    pub(super) filter: Filter,
    from: From,
    overflow: Option<Overflow>,
    limit: Option<u32>,
    limit_bytes: Option<u32>,
    echo: bool,
    queue: Arc<Queue>,
    /// Until the first ack.
    reply: Option<Reply<Subscribed, SubscribeError>>,
    pub(super) phase: Phase,
    /// What its next ack means to the reader.
    cause: Cause,
    /// The policy and whether the filter reaches topics in no stream, as the last ack said.
    policy: Overflow,
    live_only: bool,
    streams: Vec<StreamState>,
    /// Whether it was asked for with the newest of each topic.
    asked_last: bool,
    credit: Credit,
    books: Books,
    /// The books when the last mark came.
    marked: Books,
    repair: Option<Repair>,
    /// Whether the broker may count, since the ack, what is here or was told missing already.
    counts_double: bool,
    /// Not yet in the queue: a batch goes in under one lock.
    staged: Vec<Item>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// Not asked for on this connection.
    Idle,
    /// Asked for with this id.
    Asked(u64),
    /// Acknowledged under this id.
    Active(u64),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cause {
    First,
    Reconnect,
    /// The books differed: the reader sees nothing but what is missing.
    Repair,
}

#[derive(Debug)]
struct StreamState {
    stream: Option<StreamName>,
    epoch: Epoch,
    /// The position.
    offset: u64,
    /// The last of the newest of each topic, where it started with those: until there it is amid them.
    live: u64,
}

#[derive(Debug)]
struct Credit {
    buffer: u64,
    /// Messages put in the queue, ever.
    delivered: u64,
    /// Messages the reader has taken, ever.
    taken: u64,
    /// What the broker may still send on this connection.
    outstanding: u64,
    /// Whether a credit frame is on its way out.
    asked: bool,
}

/// A mark's verdict on one subscription.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Agrees,
    /// The broker told this many, and that many came.
    Differs {
        told: u64,
        had: u64,
    },
}

/// The broker sends beyond the credit it was given.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Overrun;

impl Subscriber {
    pub(super) fn new(command: SubscribeCommand) -> Self {
        Self {
            filter: command.filter,
            from: command.from,
            overflow: command.overflow,
            limit: command.limit,
            limit_bytes: command.limit_bytes,
            echo: command.echo,
            queue: command.queue,
            reply: Some(command.reply),
            phase: Phase::Idle,
            cause: Cause::First,
            policy: Overflow::CatchUp,
            live_only: false,
            streams: Vec::new(),
            asked_last: false,
            credit: Credit {
                buffer: command.buffer.into(),
                delivered: 0,
                taken: 0,
                outstanding: 0,
                asked: false,
            },
            books: Books::default(),
            marked: Books::default(),
            repair: None,
            counts_double: false,
            staged: Vec::new(),
        }
    }

    /// The frame that asks for it, the first time or again.
    pub(super) fn frame(&mut self, id: u64) -> ClientFrame {
        self.phase = Phase::Asked(id);
        self.credit.outstanding = self.credit.room();
        self.credit.asked = false;
        let from = self.start();
        self.asked_last = matches!(from, From::Last { .. });
        ClientFrame::Subscribe(Subscribe {
            id,
            filter: self.filter.clone(),
            from,
            overflow: self.overflow,
            limit: self.limit,
            limit_bytes: self.limit_bytes,
            credit: Some(self.credit.outstanding as u32),
            echo: self.echo,
        })
    }

    /// Where to start: at first where the application said, then where it is.
    fn start(&self) -> From {
        if self.reply.is_some() {
            return self.from.clone();
        }
        if self.streams.is_empty() {
            return From::Live;
        }
        let positions = |offset: fn(&StreamState) -> u64| {
            let position = |state: &StreamState| Position {
                stream: state.stream.clone(),
                epoch: state.epoch,
                offset: offset(state),
            };
            self.streams.iter().map(position).collect()
        };
        match self.from {
            // Cut in the midst of the newest `n`: they come again as they stood then, and what is here is skipped.
            From::Last { n, .. } if self.streams.iter().any(|state| state.offset < state.live) => {
                From::Last { n, at: Some(At::Positions(positions(|state| state.live))) }
            }
            _ => From::Positions(positions(|state| state.offset)),
        }
    }

    /// The broker's ack. It comes before anything else of the subscription.
    pub(super) fn on_ack(&mut self, id: u64, terms: Subscribed, counters: &Counters) {
        self.phase = Phase::Active(id);
        (self.books, self.marked) = (Books::default(), Books::default());
        self.counts_double = self.asked_last && self.cause != Cause::First;
        (self.policy, self.live_only) = (terms.overflow, terms.live_only);

        let mut kept = false;
        let mut new = Vec::new();
        let held = std::mem::take(&mut self.streams);
        for start in &terms.positions {
            let before = held.iter().find(|held| held.stream == start.stream);
            let mut state = StreamState {
                stream: start.stream.clone(),
                epoch: start.epoch,
                offset: start.offset,
                live: start.live,
            };
            let position =
                Position { stream: start.stream.clone(), epoch: start.epoch, offset: start.offset };
            match before {
                // What is missing between the two follows, or a gap; should the line be cut before, it is asked for again.
                Some(held) if held.epoch == start.epoch => {
                    (state.offset, state.live) = (held.offset, held.live);
                    kept = true;
                }
                Some(held) => {
                    // All of the new log follows, whatever was asked of the old one. Should the line be cut before what
                    // the new one has evicted is told, it is asked for again.
                    (state.offset, state.live) = (0, 0);
                    self.stage(Event::Reset(Reset {
                        old: held.epoch,
                        new: Position { offset: 0, ..position },
                    }));
                    self.give_up_repair(counters);
                }
                None => {
                    if !self.asked_last {
                        state.live = state.offset;
                    }
                    new.push(position);
                }
            }
            self.streams.push(state);
        }
        let gone = held.iter().filter(|held| !self.streams.iter().any(|state| state.stream == held.stream));
        for gone in gone.map(|held| held.stream.clone()).collect::<Vec<_>>() {
            self.stage_gap(GapReason::Epoch, gone, None, None, counters);
        }

        match self.cause {
            Cause::First => {}
            Cause::Reconnect | Cause::Repair => {
                if !new.is_empty() {
                    self.staged.push(Item::Positions(new));
                }
                if kept && self.cause == Cause::Reconnect {
                    self.stage(Event::Resumed(Resumed { positions: self.positions() }));
                }
                if self.live_only {
                    self.stage_gap(GapReason::Away, None, None, None, counters);
                }
            }
        }
        self.settle_repair(counters);
        if let Some(reply) = self.reply.take() {
            // Who asked may have gone: then the queue says so too.
            let _ = reply.send(Ok(terms));
        }
    }

    pub(super) fn on_message(&mut self, message: Message, counters: &Counters) -> Result<(), Overrun> {
        self.books.messages += 1;
        self.credit.outstanding = self.credit.outstanding.saturating_sub(1);
        if let Some(offset) = message.offset
            && let Some(state) = self.streams.iter_mut().find(|state| state.stream == message.stream)
        {
            if offset <= state.offset {
                counters.duplicates.add(1);
                return Ok(());
            }
            state.offset = offset;
            if let Some(repair) = &mut self.repair {
                repair.on_message(&message.stream, offset);
                self.settle_repair(counters);
            }
        }
        if self.credit.waiting() >= 2 * self.credit.buffer {
            return Err(Overrun);
        }
        self.credit.delivered += 1;
        counters.delivered.add(1);
        self.stage(Event::Message(message));
        Ok(())
    }

    pub(super) fn on_gap(&mut self, gap: Gap, counters: &Counters) {
        let messages = gap.count.or(gap.at_most).unwrap_or(0);
        self.books.gapped = self.books.gapped.saturating_add(messages);
        counters.gaps.add(1);
        counters.gapped.add(messages);
        let (stream, from, to) = (gap.stream.clone(), gap.from, gap.to);
        // Before what a repair has to say that ends with it: that is of what this gap may have told already.
        self.stage(Event::Gap(gap));
        if let Some(to) = to
            && let Some(state) = self.streams.iter_mut().find(|state| state.stream == stream)
        {
            state.offset = state.offset.max(to);
            if let Some(repair) = &mut self.repair {
                repair.on_gap(&stream, from, to, messages);
                self.settle_repair(counters);
            }
        }
    }

    /// Compares first. Where the books agree, the mark's positions hold, but for one that is behind.
    pub(super) fn on_mark(
        &mut self,
        mark: Option<&SubMark>,
        positions: &[Position],
        counters: &Counters,
    ) -> Verdict {
        let behind = mark.is_some_and(|mark| mark.behind);
        // One that is not listed had no traffic since the last mark.
        let told = mark.map_or(self.marked, Books::of);
        if mark.is_none() && told != self.books {
            // What came since may be on its way into the next mark.
            return Verdict::Agrees;
        }
        if told == self.books {
            self.marked = self.books;
            if !behind {
                self.take_positions(positions);
                self.settle_repair(counters);
            }
            return Verdict::Agrees;
        }

        let had = self.books;
        let shortfall = had.shortfall(told);
        if self.streams.is_empty() {
            // No log can mend it.
            (self.books, self.marked) = (told, told);
            if shortfall > 0 {
                self.stage_gap(GapReason::Books, None, Some(shortfall), None, counters);
            }
        } else if shortfall > 0 {
            let in_this_log = |target: &&Position| {
                self.streams.iter().any(|state| state.stream == target.stream && state.epoch == target.epoch)
            };
            let targets = (!behind).then(|| positions.iter().filter(in_this_log).cloned().collect());
            let mut repair = Repair::new(shortfall, targets);
            if let Some(before) = self.repair.take() {
                repair = repair.adding(before.lost());
            } else if self.counts_double {
                repair = repair.adding(0);
            }
            self.repair = Some(repair);
        }
        Verdict::Differs { told: told.total(), had: had.total() }
    }

    /// Whether the log can give what is missing.
    pub(super) fn has_log(&self) -> bool {
        !self.streams.is_empty()
    }

    /// It will be asked for again, from its own position.
    pub(super) fn begin_repair(&mut self) {
        self.phase = Phase::Idle;
        self.cause = Cause::Repair;
    }

    pub(super) fn on_disconnected(&mut self) {
        self.phase = Phase::Idle;
        if self.reply.is_none() {
            self.cause = Cause::Reconnect;
        }
    }

    /// Whether nobody was told that it started.
    pub(super) fn is_new(&self) -> bool {
        self.reply.is_some()
    }

    /// The broker refused it.
    pub(super) fn refuse(mut self, error: SubscribeError, reason: EndReason) {
        match self.reply.take() {
            Some(reply) => {
                // Who asked may have gone.
                let _ = reply.send(Err(error));
            }
            None => self.end(reason),
        }
    }

    /// It is over. What waits can still be read.
    pub(super) fn end(mut self, reason: EndReason) {
        self.flush();
        self.queue.end(reason);
    }

    /// Looks at what the reader has done. False if it is gone.
    pub(super) fn look(&mut self) -> bool {
        self.credit.taken = self.queue.look();
        !self.queue.is_abandoned()
    }

    pub(super) fn is_abandoned(&self) -> bool {
        self.queue.is_abandoned()
    }

    /// Whether enough was taken to ask for more. Says so once until [`Subscriber::ask`].
    pub(super) fn wants_credit(&mut self) -> bool {
        let due = matches!(self.phase, Phase::Active(_))
            && !self.credit.asked
            && self.credit.missing() >= (self.credit.buffer / 2).max(1);
        self.credit.asked |= due;
        due
    }

    /// The credit frame.
    pub(super) fn ask(&mut self) -> Option<ClientFrame> {
        self.credit.asked = false;
        let Phase::Active(sub) = self.phase else { return None };
        let add = self.credit.missing();
        self.credit.outstanding += add;
        (add > 0).then_some(ClientFrame::Credit { sub, add: add as u32 })
    }

    /// Hands a batch to the reader, with one wake.
    pub(super) fn flush(&mut self) {
        self.queue.push(&mut self.staged);
    }

    pub(super) fn is_staged(&self) -> bool {
        !self.staged.is_empty()
    }

    pub(super) fn positions(&self) -> Vec<Position> {
        let position = |state: &StreamState| Position {
            stream: state.stream.clone(),
            epoch: state.epoch,
            offset: state.offset,
        };
        self.streams.iter().map(position).collect()
    }

    fn take_positions(&mut self, positions: &[Position]) {
        let mut moved = Vec::new();
        for position in positions {
            let state = self.streams.iter_mut().find(|state| state.stream == position.stream);
            // Positions never go back, and those of another incarnation say nothing.
            if let Some(state) = state
                && state.epoch == position.epoch
                && state.offset < position.offset
            {
                state.offset = position.offset;
                moved.push(position.clone());
            }
        }
        if !moved.is_empty() {
            self.staged.push(Item::Positions(moved));
        }
    }

    /// Ends the repair once the position is where the mark said.
    fn settle_repair(&mut self, counters: &Counters) {
        let Some(repair) = &mut self.repair else { return };
        let streams = &self.streams;
        let is_ahead = |target: &Position| {
            let here = |state: &&StreamState| state.stream == target.stream && state.epoch == target.epoch;
            streams.iter().find(here).is_some_and(|state| state.offset < target.offset)
        };
        if matches!(self.phase, Phase::Active(_)) && repair.is_over(is_ahead) {
            self.finish_repair(counters);
        }
    }

    fn finish_repair(&mut self, counters: &Counters) {
        let Some(repair) = self.repair.take() else { return };
        self.counts_double |= repair.lost() > 0;
        match (repair.lost(), repair.is_exact()) {
            (0, _) => {}
            (lost, true) => self.stage_gap(GapReason::Books, None, Some(lost), None, counters),
            (lost, false) => self.stage_gap(GapReason::Books, None, None, Some(lost), counters),
        }
    }

    /// The log that could mend it is gone.
    fn give_up_repair(&mut self, counters: &Counters) {
        if let Some(repair) = &mut self.repair {
            repair.give_up();
            self.finish_repair(counters);
        }
    }

    fn stage(&mut self, event: Event) {
        self.staged.push(Item::Event(event));
    }

    /// A gap of the SDK's own making.
    fn stage_gap(
        &mut self,
        reason: GapReason,
        stream: Option<StreamName>,
        count: Option<u64>,
        at_most: Option<u64>,
        counters: &Counters,
    ) {
        counters.gaps.add(1);
        counters.gapped.add(count.or(at_most).unwrap_or(0));
        let sub = match self.phase {
            Phase::Idle => 0,
            Phase::Asked(id) | Phase::Active(id) => id,
        };
        self.stage(Event::Gap(Gap {
            sub,
            stream,
            topic: self.filter.as_topic(),
            count,
            at_most,
            from: None,
            to: None,
            reason,
            policy: self.policy,
        }));
    }
}

impl Credit {
    /// Messages in this process that the reader has not taken.
    fn waiting(&self) -> u64 {
        self.delivered.saturating_sub(self.taken)
    }

    /// How many more may wait.
    fn room(&self) -> u64 {
        self.buffer.saturating_sub(self.waiting())
    }

    /// How many more the broker may be asked for.
    fn missing(&self) -> u64 {
        self.room().saturating_sub(self.outstanding)
    }
}
