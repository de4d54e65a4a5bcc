//! What one subscription is owed, and the check that what it was given and told adds up to exactly that.
//!
//! The model is the dullest there is: a list of everything that was published, offset 1 first, and a linear scan of it.
//!
//! # The rule
//!
//! Between two messages that are given (and before the first, and after the last) lies a hole. What the subscription
//! was owed there is lost, and the gaps that stand there tell it: every lost offset lies in a gap, each gap begins
//! behind the message before it and ends below the message behind it, and the counts add up to the number of lost
//! messages. Only a gap of what was published before the subscription came may give a bound instead.
//!
//! That holds after every gap, for everything up to the position: a client may be cut there and resume from it.

// Each test binary has its own copy of this file and uses a part of it.
#![allow(dead_code)]

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use fastrand::Rng;
use tidegate::stream::{Draft, Log, Published};
use tidegate_protocol::{
    Filter, From, Payload, Topic,
    frame::{Gap, GapReason, Overflow},
    position::At,
};

/// What a subscription is owed of one log.
#[derive(Debug, Clone)]
pub struct Owed {
    pub filter: Filter,
    /// With `echo: false`: not what this instance published.
    pub not_from: Option<Arc<str>>,
    /// Everything after this offset.
    pub after: u64,
    /// And these (`from: last`).
    pub selected: BTreeSet<u64>,
    /// The head when it came.
    pub live: u64,
    /// Whether its start begins with the notice that its position was of another log.
    pub is_new_epoch: bool,
}

impl Owed {
    /// What a start owes, by the list of everything. `log` says only what it has now.
    pub fn from_start(
        from: &From,
        log: &Log,
        all: &[Arc<Published>],
        filter: &Filter,
        not_from: Option<Arc<str>>,
    ) -> Self {
        let live = log.head();
        let owed = Self {
            filter: filter.clone(),
            not_from,
            after: log.start() - 1,
            selected: BTreeSet::new(),
            live,
            is_new_epoch: false,
        };
        let unknown = Self { is_new_epoch: true, ..owed.clone() };
        match from {
            From::Live => Self { after: live, ..owed },
            From::Beginning => owed,
            From::Since(time) => {
                Self { after: all.iter().filter(|m| m.message.time < *time).count() as u64, ..owed }
            }
            From::Positions(positions) => match positions.iter().find(|p| p.stream.as_ref() == log.name()) {
                None => owed,
                Some(p) if p.epoch == log.epoch() && p.offset <= live => Self { after: p.offset, ..owed },
                Some(_) => unknown,
            },
            From::Last { n, at } => {
                let at = match at {
                    None => None,
                    Some(At::Offset(offset)) => Some(*offset),
                    Some(At::Positions(positions)) => {
                        match positions.iter().find(|p| p.stream.as_ref() == log.name()) {
                            None => return owed,
                            Some(p) if p.epoch == log.epoch() => Some(p.offset),
                            Some(_) => return unknown,
                        }
                    }
                };
                if at.is_some_and(|at| at > live) {
                    return unknown;
                }
                let selected = log.last(filter, *n, at, 1_000_000).offsets;
                Self { after: at.unwrap_or(live), selected: selected.into_iter().collect(), ..owed }
            }
        }
    }

    fn has(&self, all: &[Arc<Published>], offset: u64) -> bool {
        let message = &all[offset as usize - 1];
        (offset > self.after || self.selected.contains(&offset))
            && self.filter.matches(message.topic())
            && self.not_from.as_ref().is_none_or(|own| message.origin.as_ref() != Some(own))
    }

    /// What it is owed in (`after`, `upto`].
    fn within<'a>(
        &'a self,
        all: &'a [Arc<Published>],
        after: u64,
        upto: u64,
    ) -> impl Iterator<Item = u64> + 'a {
        (after + 1..=upto.min(all.len() as u64)).filter(|&offset| self.has(all, offset))
    }
}

/// What one subscription was given and told of one log, and what it is owed.
#[derive(Debug)]
pub struct Flow {
    pub owed: Owed,
    pub policy: Overflow,
    /// The largest of the last message's offset and any gap's `to`: what it would resume from.
    pub position: u64,
    /// How many messages it was given.
    pub messages: u64,
    /// How many messages it was told are missing: the counts, else the bounds.
    pub gapped: u64,
    last: u64,
    given: Vec<u64>,
    /// Those since the last message.
    gaps: Vec<Gap>,
    /// Where a newest value may be missing: gaps that are no merge.
    losses: Vec<(u64, u64)>,
    told_epoch: bool,
}

impl Flow {
    /// `position` is the ack's offset: nothing that is owed may lie at or below it.
    pub fn new(owed: Owed, policy: Overflow, position: u64, all: &[Arc<Published>]) -> Self {
        assert_eq!(
            owed.within(all, 0, position).next(),
            None,
            "who resumes from the ack's {position} loses it"
        );
        Self {
            owed,
            policy,
            position,
            messages: 0,
            gapped: 0,
            last: 0,
            given: Vec::new(),
            gaps: Vec::new(),
            losses: Vec::new(),
            told_epoch: false,
        }
    }

    /// It was given a message.
    pub fn message(&mut self, all: &[Arc<Published>], offset: u64) {
        assert!(self.owed.has(all, offset), "{offset} is not owed: {:?}", self.owed);
        assert!(offset > self.position, "{offset} after position {}: {:?}", self.position, self.gaps);
        self.check_hole(all, offset - 1);
        self.gaps.clear();
        self.given.push(offset);
        self.messages += 1;
        self.last = offset;
        self.position = offset;
    }

    /// It was told a gap of this log.
    pub fn gap(&mut self, all: &[Arc<Published>], gap: Gap) {
        assert_eq!(gap.policy, self.policy);
        self.gapped += gap.count.or(gap.at_most).unwrap_or(0);
        if gap.reason == GapReason::Epoch {
            assert!(
                self.owed.is_new_epoch && !self.told_epoch && self.given.is_empty() && self.gaps.is_empty()
            );
            assert_eq!((gap.count, gap.at_most, gap.from, gap.to), (None, None, None, None));
            self.told_epoch = true;
            return;
        }
        let (Some(from), Some(to)) = (gap.from, gap.to) else { panic!("no offsets: {gap:?}") };
        assert!(from <= to && to <= all.len() as u64, "{gap:?}");
        assert!(from > self.last, "{gap:?} after message {}", self.last);
        assert!(gap.count.is_some() != gap.at_most.is_some(), "{gap:?}");
        // Where `latest` has to tell two losses as one, the bound may reach further.
        let is_older = to <= self.owed.live || (self.policy == Overflow::Latest && from <= self.owed.live);
        assert!(gap.count.is_some() || is_older, "a bound for what is known: {gap:?} {:?}", self.owed);
        assert!(gap.count.or(gap.at_most).is_some_and(|n| n > 0 && n <= to - from + 1), "{gap:?}");
        if gap.reason != GapReason::Merged {
            self.losses.push((from, to));
        }
        self.position = self.position.max(to);
        self.gaps.push(gap);
        self.check_hole(all, self.position);
    }

    /// Everything up to `upto` is told or given.
    pub fn check_to(&self, all: &[Arc<Published>], upto: u64) {
        assert!(self.position <= upto.max(self.owed.after), "position {} beyond {upto}", self.position);
        self.check_hole(all, upto);
    }

    /// A mark says that it has everything up to here.
    pub fn mark(&mut self, all: &[Arc<Published>], offset: u64) {
        assert!(self.position <= offset.max(self.owed.after), "position {} beyond {offset}", self.position);
        self.check_hole(all, offset);
        self.position = self.position.max(offset);
    }

    /// It is level and nothing waits: everything up to the head is told or given.
    pub fn check_whole(&self, all: &[Arc<Published>]) {
        self.check_hole(all, all.len() as u64);
        assert_eq!(self.told_epoch, self.owed.is_new_epoch);
        if self.policy == Overflow::Latest {
            self.check_newest(all);
        }
    }

    /// `latest` ends on the newest value of each key, but where a limit or the log cost it that, and said so.
    fn check_newest(&self, all: &[Arc<Published>]) {
        let mut newest = HashMap::new();
        for offset in self.owed.within(all, 0, all.len() as u64) {
            let message = &all[offset as usize - 1].message;
            newest.insert((message.topic.clone(), message.key.clone()), offset);
        }
        for (key, offset) in newest {
            let is_given = self.given.binary_search(&offset).is_ok();
            let is_lost = self.losses.iter().any(|&(from, to)| (from..=to).contains(&offset));
            assert!(is_given || is_lost, "the newest of {key:?}, {offset}, was merged away");
        }
    }

    /// What is owed between the last message and `upto` is told, in its place, and counted.
    fn check_hole(&self, all: &[Arc<Published>], upto: u64) {
        let lost: Vec<u64> = self.owed.within(all, self.last, upto).collect();
        let spans: Vec<_> = self.gaps.iter().filter_map(|gap| gap.from.zip(gap.to)).collect();
        for offset in &lost {
            let is_told = spans.iter().any(|(from, to)| (from..=to).contains(&offset));
            assert!(is_told, "{offset} is lost in silence: {:?} {:?}", self.gaps, self.owed);
        }
        let told: u64 = self.gaps.iter().filter_map(|gap| gap.count.or(gap.at_most)).sum();
        let is_exact = self.gaps.iter().all(|gap| gap.count.is_some());
        let lost_count = lost.len() as u64;
        assert!(told >= lost_count, "{lost:?} told as {told}: {:?}", self.gaps);
        assert!(!is_exact || told == lost_count, "{lost:?} told as {told}: {:?} {:?}", self.gaps, self.owed);
        if let [Gap { topic: Some(topic), .. }] = self.gaps.as_slice() {
            assert!(lost.iter().all(|&offset| all[offset as usize - 1].topic() == topic), "{:?}", self.gaps);
        }
    }
}

/// What one subscription was given and told of its live-only topics: as [`Flow`], by the order of publishing, since
/// there are no offsets.
#[derive(Debug)]
pub struct LiveFlow {
    pub owed: Owed,
    pub policy: Overflow,
    pub messages: u64,
    pub gapped: u64,
    last: u64,
    told: u64,
    latest: HashMap<(Topic, Option<Arc<str>>), u64>,
    had_loss: bool,
}

impl LiveFlow {
    /// Live-only messages have numbers here: in `owed`, `after` is the last before it came, and `selected` those before
    /// it that are on their way yet.
    pub fn new(owed: Owed, policy: Overflow) -> Self {
        let last = owed.selected.first().map_or(owed.after, |first| first - 1);
        Self { owed, policy, messages: 0, gapped: 0, last, told: 0, latest: HashMap::new(), had_loss: false }
    }

    /// It was given the `number`th live-only message.
    pub fn message(&mut self, all: &[Arc<Published>], number: u64) {
        assert!(self.owed.has(all, number), "{number} is not owed");
        assert!(number > self.last, "{number} after {}", self.last);
        self.check_to(all, number - 1);
        let message = &all[number as usize - 1].message;
        self.latest.insert((message.topic.clone(), message.key.clone()), number);
        self.messages += 1;
        self.last = number;
        self.told = 0;
    }

    /// It was told a gap of its live-only topics.
    pub fn gap(&mut self, gap: Gap) {
        assert_eq!((gap.policy, gap.from, gap.to, gap.at_most), (self.policy, None, None, None));
        let Some(count) = gap.count.filter(|&count| count > 0) else { panic!("no count: {gap:?}") };
        self.had_loss |= gap.reason != GapReason::Merged;
        self.gapped += count;
        self.told += count;
    }

    /// Everything up to the `upto`th is told or given.
    pub fn check_to(&self, all: &[Arc<Published>], upto: u64) {
        let lost = self.owed.within(all, self.last, upto).count() as u64;
        assert_eq!(self.told, lost, "lost behind {} and up to {upto}", self.last);
    }

    /// It is level and nothing waits.
    pub fn check_whole(&self, all: &[Arc<Published>]) {
        self.check_to(all, all.len() as u64);
        if self.policy == Overflow::Latest && !self.had_loss {
            for number in self.owed.within(all, 0, all.len() as u64) {
                let message = &all[number as usize - 1].message;
                let newest = self.latest.get(&(message.topic.clone(), message.key.clone()));
                assert!(newest.is_some_and(|&newest| newest >= number), "{} was merged away", message.topic);
            }
        }
    }
}

/// A message to publish to `topic`, with its `number` in the payload.
pub fn draft(rng: &mut Rng, topic: &str, number: u64, most_bytes: usize) -> Draft {
    let size = if rng.u32(0..10) == 0 { rng.usize(0..=most_bytes) } else { rng.usize(0..=most_bytes / 20) };
    Draft {
        topic: Topic::parse(topic).unwrap(),
        payload: Payload::text(format!("{number} {}", "x".repeat(size))),
        key: rng.bool().then(|| format!("k{}", rng.u32(0..4)).into()),
        headers: Vec::new(),
        origin: Some(pick(rng, &["me", "you"]).into()),
    }
}

/// The number in a message's payload.
pub fn number(payload: &Payload) -> u64 {
    let text = payload.as_str().unwrap();
    text.split_once(' ').unwrap().0.parse().unwrap()
}

pub fn pick<T: Copy>(rng: &mut Rng, from: &[T]) -> T {
    from[rng.usize(0..from.len())]
}

pub fn filter(text: &str) -> Filter {
    Filter::parse(text).unwrap()
}
