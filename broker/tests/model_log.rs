//! The log against the dullest code that can be right: a list of everything ever published, and linear scans.
//!
//! What the model cannot know exactly, where a segment ends and what its index costs, it checks as rules: segments go
//! whole, from the front, only when a limit asks for it and never past a hold.

mod seeds;

use std::{collections::BTreeSet, sync::Arc};

use fastrand::Rng;
use tidegate::stream::{
    Draft, Last, Log, LogLimits, Published, Read, ReadBudget, Segment, Since, retained::retained_cost,
};
use tidegate_protocol::{Epoch, Filter, Payload, Topic};

/// More than a message's places in the log's indices cost, in bytes, the topic's name apart.
const INDEX_SLACK: u64 = 400;

struct Model {
    log: Log,
    limits: LogLimits,
    /// Everything ever published: offset 1 first.
    all: Vec<Arc<Published>>,
    start: u64,
    /// Offsets, ascending.
    retained: BTreeSet<u64>,
    now: u64,
    /// A segment that was read once, and must read the same for ever.
    kept: Option<Arc<Segment>>,
}

#[test]
fn the_log_does_what_a_list_of_everything_would_do() {
    seeds::for_each_seed(2_000, |rng| {
        let mut model = Model::new(rng);
        for _ in 0..rng.usize(20..160) {
            match rng.u32(0..100) {
                0..60 => model.append(rng),
                60..65 => model.expire(rng),
                65..83 => model.read(rng),
                83..90 => model.last(rng),
                90..94 => model.since(rng),
                94..97 => model.get_all(),
                _ => model.read_kept(rng),
            }
            model.check();
        }
        model.get_all();
    });
}

impl Model {
    fn new(rng: &mut Rng) -> Self {
        let limits = LogLimits {
            max_age_ms: *pick(rng, &[0, 10, 1_000, 100_000, u64::MAX]),
            max_bytes: *pick(rng, &[0, 500, 5_000, 50_000, 500_000, u64::MAX]),
            retain_last_bytes: *pick(rng, &[0, 1_000, 10_000, 1_000_000]),
        };
        let name = rng.bool().then(|| "orders".into());
        Self {
            log: Log::new(name, Epoch(7), limits),
            limits,
            all: Vec::new(),
            start: 1,
            retained: BTreeSet::new(),
            now: 1_000_000,
            kept: None,
        }
    }

    fn append(&mut self, rng: &mut Rng) {
        let (now, hold) = (self.pass_time(rng), self.hold(rng));
        let draft = draft(rng);
        let was_empty = self.held().is_empty();
        let result = self.log.append(draft.clone(), now, hold);
        let taken = result.as_ref().ok().cloned();
        let evicted = self.follow_evictions(hold, taken.as_deref().map(|message| message.cost));
        match result {
            Ok(published) => self.placed(&draft, now, published),
            Err(back) => {
                assert_eq!(back, draft);
                assert!(!was_empty || evicted > 0, "an empty log refused a message");
                let oldest_last = self.last_of_segment(self.held()[0].segment);
                assert!(hold.is_some_and(|hold| oldest_last >= hold), "refused though nothing held it back");
                let room = u64::from(draft.cost()) + INDEX_SLACK + 2 * draft.topic.as_str().len() as u64;
                assert!(
                    self.log.bytes().saturating_add(room) > self.limits.max_bytes,
                    "refused though there was room"
                );
            }
        }
    }

    fn placed(&mut self, draft: &Draft, now: u64, published: Arc<Published>) {
        let message = &published.message;
        let of_topic = |other: &&Arc<Published>| *other.topic() == draft.topic;
        let before = self.held().last();
        assert_eq!(message.offset, Some(self.all.len() as u64 + 1));
        assert_eq!(message.prev, self.held().iter().rfind(of_topic).and_then(|prev| prev.offset()));
        assert_eq!(message.time, self.all.last().map_or(now, |last| now.max(last.message.time)));
        assert_eq!(message.stream.as_ref(), self.log.name());
        assert_eq!((&message.topic, &message.payload), (&draft.topic, &draft.payload));
        assert_eq!((&message.key, &message.headers, message.sub), (&draft.key, &draft.headers, None));
        assert_eq!((&published.origin, published.cost), (&draft.origin, draft.cost()));
        let is_new_segment = Some(published.segment) == message.offset;
        assert!(is_new_segment || before.is_some_and(|before| before.segment == published.segment));
        if let Some(older) = self.all.iter().rfind(of_topic).and_then(|older| older.offset()) {
            self.retained.remove(&older);
        }
        self.all.push(published);
        let fits = self.log.bytes() <= self.limits.max_bytes;
        assert!(fits || self.held().len() == 1, "{} bytes", self.log.bytes());
    }

    fn expire(&mut self, rng: &mut Rng) {
        let (now, hold) = (self.pass_time(rng), self.hold(rng));
        self.log.expire(now, hold);
        self.follow_evictions(hold, None);
    }

    /// Checks what the last call evicted, and evicts it here; returns how much it was.
    fn follow_evictions(&mut self, hold: Option<u64>, appended_cost: Option<u32>) -> usize {
        let start = self.log.start();
        assert!(start >= self.start, "the start went back");
        let evicted = self.all[self.start as usize - 1..start as usize - 1].to_vec();
        if let Some(last) = evicted.last() {
            assert!(hold.is_none_or(|hold| last.offset().unwrap() < hold), "a held segment went");
            assert_eq!(Some(self.last_of_segment(last.segment)), last.offset(), "a part of a segment went");
            let is_old = self.latest().saturating_sub(last.message.time) > self.limits.max_age_ms;
            let slack = |m: &Published| u64::from(m.cost) + INDEX_SLACK + 2 * m.topic().as_str().len() as u64;
            let segment = evicted.iter().filter(|m| m.segment == last.segment).map(|m| slack(m)).sum::<u64>();
            // A refused append may have made room that it could not use: then its own cost is not in the log.
            let with_it =
                self.log.bytes() + segment + appended_cost.map_or(100_000_000, |_| INDEX_SLACK + 600);
            assert!(is_old || with_it > self.limits.max_bytes, "a segment went though no limit asked for it");
        }
        for message in &evicted {
            let offset = message.offset().unwrap();
            let is_newest = self.all[offset as usize..].iter().all(|later| later.topic() != message.topic());
            if is_newest && retained_cost(message) <= self.limits.retain_last_bytes {
                self.retained.insert(offset);
            }
        }
        while self.retained_bytes() > self.limits.retain_last_bytes {
            self.retained.pop_first();
        }
        self.start = start;
        // By age only the segments that are held may stay too long.
        if let Some(oldest) = self.held().first() {
            let last = self.last_of_segment(oldest.segment);
            let age = self.latest().saturating_sub(self.all[last as usize - 1].message.time);
            assert!(
                age <= self.limits.max_age_ms || hold.is_some_and(|hold| last >= hold),
                "too old: {age} ms"
            );
        }
        evicted.len()
    }

    /// Reads as a subscription does, from some place on, and compares each part.
    fn read(&mut self, rng: &mut Rng) {
        let head = self.all.len() as u64;
        let (filter, mut after, upto) = (filter(rng), rng.u64(0..=head + 2), rng.u64(0..=head + 2));
        let budget =
            ReadBudget { messages: rng.usize(1..40), bytes: *pick(rng, &[0, 1_000, 5_000, 1 << 30]) };
        while after < upto.min(head) {
            let (messages, scanned) = match self.log.read(after, upto, &filter, budget) {
                Read::Batch { messages, scanned } => (messages, scanned),
                Read::Sealed(segment) => {
                    assert!(
                        self.matching(&filter, after, segment.first() - 1).is_empty(),
                        "passed over a message"
                    );
                    assert!(
                        segment.first() >= self.start && segment.last() > after && segment.first() <= upto
                    );
                    self.kept = Some(segment.clone());
                    segment.read(after, upto, &filter, budget)
                }
                Read::Evicted { start } => {
                    assert!(after + 1 < start);
                    assert_eq!(start, self.start);
                    after = start - 1;
                    continue;
                }
            };
            self.check_part(&filter, after, upto, budget, &messages, scanned);
            after = scanned;
        }
        let Read::Batch { messages, scanned } = self.log.read(after, upto, &filter, budget) else {
            panic!("there is more than everything")
        };
        assert_eq!((messages.len(), scanned), (0, after));
    }

    fn check_part(
        &self,
        filter: &Filter,
        after: u64,
        upto: u64,
        budget: ReadBudget,
        messages: &[Arc<Published>],
        scanned: u64,
    ) {
        assert!(scanned > after, "the reader would never come to an end");
        assert!(scanned <= upto);
        assert_eq!(messages, self.matching(filter, after, scanned));
        let bytes = messages.iter().map(|m| m.cost as usize).sum::<usize>();
        assert!(messages.len() <= budget.messages);
        assert!(bytes <= budget.bytes || messages.len() == 1);
        // Where it ended in the midst of a segment, the next message was beyond the budget.
        let is_end = scanned == upto.min(self.all.len() as u64) || scanned == self.segment_end(scanned);
        if !is_end {
            let next = &self.all[scanned as usize];
            assert!(filter.matches(next.topic()));
            assert!(messages.len() == budget.messages || bytes + next.cost as usize > budget.bytes);
        }
    }

    /// A sealed segment reads the same whatever happened to the log since.
    fn read_kept(&mut self, rng: &mut Rng) {
        let Some(segment) = self.kept.clone() else { return };
        let (filter, after) = (filter(rng), rng.u64(segment.first() - 1..=segment.last()));
        let budget = ReadBudget { messages: usize::MAX, bytes: usize::MAX };
        let (messages, scanned) = segment.read(after, u64::MAX, &filter, budget);
        assert_eq!(scanned, segment.last());
        assert_eq!(messages, self.matching(&filter, after, segment.last()));
    }

    fn last(&mut self, rng: &mut Rng) {
        let (filter, n, cap) = (filter(rng), rng.u32(0..6), *pick(rng, &[0, 1, 5, 1_000]));
        let at = rng.bool().then(|| rng.u64(0..=self.all.len() as u64 + 1));
        let mut expected = Vec::new();
        for topic in self.all.iter().map(|m| m.topic()).collect::<BTreeSet<_>>() {
            let stood = self.all.iter().filter(|m| m.topic() == topic && filter.matches(topic));
            let offsets = stood.filter_map(|m| m.offset()).filter(|&offset| self.has(offset));
            let mut offsets = offsets.filter(|&offset| at.is_none_or(|at| offset <= at)).collect::<Vec<_>>();
            expected.extend(offsets.drain(offsets.len().saturating_sub(n as usize)..));
        }
        expected.sort_unstable();
        let cut = expected.drain(..expected.len().saturating_sub(cap)).collect::<Vec<_>>();
        let expected =
            Last { offsets: expected, cut: cut.len() as u64, cut_to: cut.last().copied().unwrap_or(0) };
        assert_eq!(self.log.last(&filter, n, at, cap), expected);
    }

    fn since(&mut self, rng: &mut Rng) {
        let from = self.all.first().map_or(0, |m| m.message.time.saturating_sub(2));
        let time = rng.u64(from..=self.latest() + 2);
        let is_later = |m: &Arc<Published>| m.message.time >= time;
        let first = self.held().iter().find(|m| is_later(m)).and_then(|m| m.offset());
        let expected = Since {
            after: first.map_or(self.all.len() as u64, |first| first - 1),
            complete: !self.all[..self.start as usize - 1].iter().any(is_later),
        };
        assert_eq!(self.log.since(time), expected);
    }

    fn get_all(&mut self) {
        assert!(self.log.get(0).is_none());
        assert!(self.log.get(self.all.len() as u64 + 1).is_none());
        for message in &self.all {
            let offset = message.offset().unwrap();
            assert_eq!(self.log.get(offset), self.has(offset).then(|| message.clone()));
        }
    }

    /// What holds after every step.
    fn check(&self) {
        assert_eq!(self.log.head(), self.all.len() as u64);
        assert_eq!(self.log.start(), self.start);
        assert_eq!(self.log.messages(), self.held().len() as u64);
        let topic_bytes = |m: &&Arc<Published>| 32 + m.topic().as_str().len() as u64;
        let costs = self.held().iter().map(|m| u64::from(m.cost) - topic_bytes(&m)).sum::<u64>();
        let slack = self.held().iter().map(|m| INDEX_SLACK + m.topic().as_str().len() as u64).sum::<u64>();
        assert!((costs..=costs + slack).contains(&self.log.bytes()));
        assert_eq!(self.log.retained_bytes(), self.retained_bytes());
        assert!(self.log.retained_bytes() <= self.limits.retain_last_bytes);
        let known = self.all.iter().filter(|m| self.has(m.offset().unwrap()));
        assert_eq!(self.log.topics(), known.map(|m| m.topic()).collect::<BTreeSet<_>>().len());
    }

    fn held(&self) -> &[Arc<Published>] {
        &self.all[self.start as usize - 1..]
    }

    fn has(&self, offset: u64) -> bool {
        offset >= self.start || self.retained.contains(&offset)
    }

    fn retained_bytes(&self) -> u64 {
        self.retained.iter().map(|&offset| retained_cost(&self.all[offset as usize - 1])).sum()
    }

    fn matching(&self, filter: &Filter, after: u64, upto: u64) -> Vec<Arc<Published>> {
        let upto = upto.min(self.all.len() as u64).max(after);
        let range = &self.all[after as usize..upto as usize];
        range.iter().filter(|m| filter.matches(m.topic())).cloned().collect()
    }

    fn last_of_segment(&self, segment: u64) -> u64 {
        self.all.iter().rfind(|m| m.segment == segment).unwrap().offset().unwrap()
    }

    fn segment_end(&self, offset: u64) -> u64 {
        self.last_of_segment(self.all[offset as usize - 1].segment)
    }

    /// The time the log goes by: its clock does not go back.
    fn latest(&self) -> u64 {
        self.all.last().map_or(self.now, |last| self.now.max(last.message.time))
    }

    /// Mostly forward; sometimes the clock is set back.
    fn pass_time(&mut self, rng: &mut Rng) -> u64 {
        self.now = match rng.u32(0..20) {
            0 => self.now - rng.u64(0..50),
            1 => self.now + rng.u64(0..200_000),
            2..8 => self.now,
            _ => self.now + rng.u64(0..30),
        };
        self.now
    }

    fn hold(&self, rng: &mut Rng) -> Option<u64> {
        (rng.u32(0..3) == 0).then(|| rng.u64(self.start..=self.all.len() as u64 + 1))
    }
}

fn draft(rng: &mut Rng) -> Draft {
    let size = match rng.u32(0..50) {
        0 => rng.usize(0..100_000),
        1..5 => rng.usize(0..5_000),
        _ => rng.usize(0..100),
    };
    Draft {
        topic: Topic::parse(&topic(rng)).unwrap(),
        payload: Payload::binary(vec![rng.u8(..); size]),
        key: (rng.u32(0..4) == 0).then(|| "k".repeat(rng.usize(1..20)).into()),
        headers: if rng.u32(0..4) == 0 { vec![("name".into(), "value".into())] } else { Vec::new() },
        origin: rng.bool().then(|| "me".into()),
    }
}

fn topic(rng: &mut Rng) -> String {
    let second = *pick(rng, &["x", "y", "z", "$own"]);
    match rng.u32(0..8) {
        // One that floods.
        0..3 => "a.x".into(),
        // Some that come once.
        3 => format!("once.t{}", rng.u32(0..1_000)),
        4 => "c".into(),
        _ => format!("{}.{second}", pick(rng, &["a", "b"])),
    }
}

fn filter(rng: &mut Rng) -> Filter {
    let text = match rng.u32(0..3) {
        0 => (*pick(rng, &[">", "a.*", "*.x", "once.>", "*", "*.$own"])).to_owned(),
        1 => "a.x".to_owned(),
        _ => topic(rng),
    };
    Filter::parse(&text).unwrap()
}

fn pick<'a, T>(rng: &mut Rng, from: &'a [T]) -> &'a T {
    &from[rng.usize(0..from.len())]
}
