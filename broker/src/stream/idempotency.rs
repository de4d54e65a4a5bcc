//! Which publishes came before: idempotency keys, for a while.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    hash::BuildHasher,
    mem::size_of,
    sync::Arc,
};

use hashbrown::{DefaultHashBuilder, HashMap, HashTable};
use slab::Slab;
use tidegate_protocol::Position;

/// What came of the first publish with a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settled {
    /// Its place; absent for a topic that is in no stream.
    pub position: Option<Position>,
}

/// Whether a publish came before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Begin {
    /// No. It is remembered as pending from now on: [`Keys::settle`] must follow.
    New,
    /// Yes, and what came of it is not known yet: wait for this ticket, the first publish's.
    Pending(u64),
    /// Yes, and this came of it.
    Done(Settled),
}

/// The bounds of [`Keys`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeyLimits {
    /// How long a key is remembered, in milliseconds.
    pub window_ms: u64,
    /// How many instances have their keys remembered; beyond it the longest idle one goes.
    pub max_instances: usize,
    /// How many of its newest keys each instance keeps, whatever the others do: its publish window.
    pub per_instance_min: usize,
    /// What all keys may pin, in bytes. At it, keys beyond `per_instance_min` go first, then the longest idle instance.
    pub max_bytes: usize,
}

/// The keys of all instances.
///
/// An instance is the caller's word for who publishes: (identity, instance) in one string. Its keys are its own: nobody
/// else can ask for them, or push out its newest while it is among the busy ones.
#[derive(Debug)]
pub struct Keys {
    limits: KeyLimits,
    by_name: HashMap<Arc<str>, usize>,
    instances: Slab<Instance>,
    /// Instances by their last `begin`, the longest idle first.
    by_use: BTreeMap<u64, usize>,
    /// Instances with more keys than the least they keep.
    over_min: BTreeSet<usize>,
    hasher: DefaultHashBuilder,
    uses: u64,
    bytes: usize,
}

#[derive(Debug)]
struct Instance {
    name: Arc<str>,
    /// In the order they came. A freed key stays as a hole until its turn.
    keys: VecDeque<Key>,
    /// How many keys were ever taken off the front of `keys`.
    popped: u64,
    /// By key, without the holes: its place in `keys`, plus `popped`.
    places: HashTable<u64>,
    /// In [`Keys::by_use`].
    last_use: u64,
    /// When that was, in milliseconds since the Unix epoch.
    last_use_ms: u64,
}

#[derive(Debug)]
struct Key {
    key: Box<str>,
    hash: u64,
    /// When it came, in milliseconds since the Unix epoch.
    time_ms: u64,
    state: State,
}

#[derive(Debug)]
enum State {
    Pending(u64),
    Done(Settled),
    Freed,
}

/// What one heap block costs beyond its content, in bytes.
const BLOCK: usize = 16;
/// What a key costs besides its text, in bytes, with the room to grow that the list and the table leave.
const KEY: usize = 2 * (size_of::<Key>() + size_of::<u64>() + 1) + BLOCK;
/// What an instance costs besides its name, in bytes, likewise.
const INSTANCE: usize = 2 * (size_of::<Instance>() + size_of::<(Arc<str>, usize)>() + 1) + 5 * BLOCK;

impl Keys {
    /// Remembers nothing yet.
    pub fn new(limits: KeyLimits) -> Self {
        Self {
            limits,
            by_name: HashMap::new(),
            instances: Slab::new(),
            by_use: BTreeMap::new(),
            over_min: BTreeSet::new(),
            hasher: DefaultHashBuilder::default(),
            uses: 0,
            bytes: 0,
        }
    }

    /// Whether `instance` published with `key` before; if not, `ticket` is now what that key waits for.
    pub fn begin(&mut self, instance: &str, key: &str, ticket: u64, now_ms: u64) -> Begin {
        self.expire(now_ms);
        let id = self.note_use(instance, now_ms);
        while self.instances[id]
            .keys
            .front()
            .is_some_and(|oldest| self.limits.is_over(oldest.time_ms, now_ms))
        {
            self.forget_oldest(id);
        }
        let hash = self.hasher.hash_one(key);
        match self.instances[id].find(hash, key).map(|known| &known.state) {
            Some(State::Pending(first)) => return Begin::Pending(*first),
            Some(State::Done(settled)) => return Begin::Done(settled.clone()),
            Some(State::Freed) | None => {}
        }
        let key = Key { key: key.into(), hash, time_ms: now_ms, state: State::Pending(ticket) };
        self.make_room(id, key.cost());
        self.bytes += key.cost();
        self.instances[id].push(key);
        self.note_count(id);
        Begin::New
    }

    /// What came of the publish that [`Keys::begin`] took as new with `ticket`; `None` frees the key, so that a retry is
    /// new. A key that was forgotten meanwhile stays so.
    pub fn settle(&mut self, instance: &str, key: &str, ticket: u64, outcome: Option<Settled>) {
        let Some(&id) = self.by_name.get(instance) else { return };
        let hash = self.hasher.hash_one(key);
        let instance = &mut self.instances[id];
        let Some(known) = instance.find_mut(hash, key) else { return };
        if !matches!(known.state, State::Pending(first) if first == ticket) {
            return;
        }
        match outcome {
            Some(settled) => known.state = State::Done(settled),
            None => {
                self.bytes -= instance.free(hash, key);
                self.note_count(id);
            }
        }
    }

    /// Forgets the instances that were idle for the window. Each `begin` does so too, and forgets its own instance's old
    /// keys; this is for quiet times.
    pub fn expire(&mut self, now_ms: u64) {
        while let Some((_, &id)) = self.by_use.first_key_value()
            && self.limits.is_over(self.instances[id].last_use_ms, now_ms)
        {
            self.forget_instance(id);
        }
    }

    /// What is pinned, in bytes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// How many instances are remembered.
    pub fn instances(&self) -> usize {
        self.instances.len()
    }

    /// The instance's id. It is the last to be called idle now.
    fn note_use(&mut self, name: &str, now_ms: u64) -> usize {
        let id = match self.by_name.get(name) {
            Some(&id) => {
                self.by_use.remove(&self.instances[id].last_use);
                id
            }
            None => self.add_instance(name),
        };
        self.uses += 1;
        self.by_use.insert(self.uses, id);
        let instance = &mut self.instances[id];
        instance.last_use = self.uses;
        instance.last_use_ms = now_ms.max(instance.last_use_ms);
        id
    }

    fn add_instance(&mut self, name: &str) -> usize {
        while self.instances.len() >= self.limits.max_instances.max(1)
            && let Some((_, &idle)) = self.by_use.first_key_value()
        {
            self.forget_instance(idle);
        }
        let name = Arc::<str>::from(name);
        self.bytes += INSTANCE + name.len();
        let id = self.instances.insert(Instance {
            name: name.clone(),
            keys: VecDeque::new(),
            popped: 0,
            places: HashTable::new(),
            last_use: 0,
            last_use_ms: 0,
        });
        self.by_name.insert(name, id);
        id
    }

    /// Makes room for a key of `id`: at the expense of those who have more than the least they keep, itself first; then of
    /// the longest idle; then of itself.
    fn make_room(&mut self, id: usize, cost: usize) {
        while self.bytes + cost > self.limits.max_bytes {
            if self.instances[id].places.len() >= self.limits.per_instance_min.max(1) {
                self.forget_oldest(id);
            } else if let Some(&other) = self.over_min.first() {
                self.forget_oldest(other);
            } else if let Some((_, &idle)) = self.by_use.first_key_value().filter(|&(_, &idle)| idle != id) {
                self.forget_instance(idle);
            } else if !self.forget_oldest(id) {
                return;
            }
        }
    }

    fn forget_oldest(&mut self, id: usize) -> bool {
        let Some(freed) = self.instances[id].pop_oldest() else { return false };
        self.bytes -= freed;
        self.note_count(id);
        true
    }

    fn forget_instance(&mut self, id: usize) {
        let instance = self.instances.remove(id);
        self.bytes -= INSTANCE + instance.name.len() + instance.keys.iter().map(Key::cost).sum::<usize>();
        self.by_name.remove(&instance.name);
        self.by_use.remove(&instance.last_use);
        self.over_min.remove(&id);
    }

    /// Follows a change of how many keys an instance has.
    fn note_count(&mut self, id: usize) {
        match self.instances[id].places.len().checked_sub(self.limits.per_instance_min) {
            Some(1..) => self.over_min.insert(id),
            Some(0) | None => self.over_min.remove(&id),
        };
    }
}

impl KeyLimits {
    fn is_over(&self, time_ms: u64, now_ms: u64) -> bool {
        now_ms.saturating_sub(time_ms) > self.window_ms
    }
}

impl Key {
    fn cost(&self) -> usize {
        KEY + self.key.len()
    }
}

impl Instance {
    fn find(&self, hash: u64, key: &str) -> Option<&Key> {
        let is_it = |&place: &u64| *self.keys[(place - self.popped) as usize].key == *key;
        let &place = self.places.find(hash, is_it)?;
        self.keys.get((place - self.popped) as usize)
    }

    fn find_mut(&mut self, hash: u64, key: &str) -> Option<&mut Key> {
        let is_it = |&place: &u64| *self.keys[(place - self.popped) as usize].key == *key;
        let &place = self.places.find(hash, is_it)?;
        self.keys.get_mut((place - self.popped) as usize)
    }

    fn push(&mut self, key: Key) {
        let place = self.popped + self.keys.len() as u64;
        let hash = key.hash;
        self.keys.push_back(key);
        let (keys, popped) = (&self.keys, self.popped);
        self.places.insert_unique(hash, place, |&place| keys[(place - popped) as usize].hash);
    }

    /// Forgets the oldest key or hole; returns what that frees, in bytes.
    fn pop_oldest(&mut self) -> Option<usize> {
        let oldest = self.keys.pop_front()?;
        if let Ok(place) = self.places.find_entry(oldest.hash, |&place| place == self.popped) {
            place.remove();
        }
        self.popped += 1;
        if self.keys.capacity() > 64 && self.keys.len() < self.keys.capacity() / 8 {
            self.keys.shrink_to(2 * self.keys.len());
            let (keys, popped) = (&self.keys, self.popped);
            self.places.shrink_to(2 * self.places.len(), |&place| keys[(place - popped) as usize].hash);
        }
        Some(oldest.cost())
    }

    /// Turns a key into a hole; returns what that frees, in bytes.
    fn free(&mut self, hash: u64, key: &str) -> usize {
        let is_it = |&place: &u64| *self.keys[(place - self.popped) as usize].key == *key;
        let Ok(entry) = self.places.find_entry(hash, is_it) else { return 0 };
        let (place, _) = entry.remove();
        let Some(hole) = self.keys.get_mut((place - self.popped) as usize) else { return 0 };
        let mut freed = hole.key.len();
        hole.key = Box::default();
        hole.state = State::Freed;
        while self.keys.back().is_some_and(|last| matches!(last.state, State::Freed)) {
            freed += self.keys.pop_back().map_or(0, |hole| hole.cost());
        }
        freed
    }
}

#[cfg(test)]
mod tests {
    use fastrand::Rng;
    use tidegate_protocol::Epoch;

    use super::*;

    const LIMITS: KeyLimits =
        KeyLimits { window_ms: 1_000, max_instances: 3, per_instance_min: 2, max_bytes: usize::MAX };

    fn settled(offset: u64) -> Settled {
        Settled { position: Some(Position { stream: None, epoch: Epoch(1), offset }) }
    }

    #[test]
    fn a_repeated_publish_waits_for_the_first_and_then_has_its_position() {
        let mut keys = Keys::new(LIMITS);
        assert_eq!(keys.begin("a", "k", 7, 0), Begin::New);
        assert_eq!(keys.begin("a", "k", 8, 1), Begin::Pending(7));
        keys.settle("a", "k", 7, Some(settled(41)));
        assert_eq!(keys.begin("a", "k", 9, 2), Begin::Done(settled(41)));
        assert_eq!(keys.begin("b", "k", 10, 2), Begin::New, "keys belong to their instance");
    }

    #[test]
    fn a_failure_frees_the_key() {
        let mut keys = Keys::new(LIMITS);
        keys.begin("a", "k", 1, 0);
        let before = keys.bytes();
        keys.settle("a", "k", 1, None);
        assert!(keys.bytes() < before);
        assert_eq!(keys.begin("a", "k", 2, 0), Begin::New);
        keys.settle("a", "k", 1, Some(settled(1)));
        assert_eq!(keys.begin("a", "k", 3, 0), Begin::Pending(2), "only its own ticket settles a key");
    }

    #[test]
    fn a_key_is_forgotten_after_the_window_and_an_idle_instance_with_it() {
        let mut keys = Keys::new(LIMITS);
        keys.begin("a", "old", 1, 0);
        keys.begin("a", "young", 2, 600);
        assert_eq!(keys.begin("a", "old", 3, 1_000), Begin::Pending(1));
        assert_eq!(keys.begin("a", "old", 4, 1_001), Begin::New);
        assert_eq!(keys.begin("a", "young", 5, 1_001), Begin::Pending(2));
        keys.expire(2_001);
        assert_eq!(keys.instances(), 1);
        keys.expire(2_002);
        assert_eq!((keys.instances(), keys.bytes()), (0, 0));
    }

    #[test]
    fn beyond_the_cap_on_instances_the_longest_idle_one_goes() {
        let mut keys = Keys::new(LIMITS);
        for (name, now) in [("a", 0), ("b", 1), ("c", 2), ("a", 3), ("d", 4)] {
            keys.begin(name, "k", 1, now);
        }
        assert_eq!(keys.instances(), 3);
        assert_eq!(keys.begin("a", "k", 2, 5), Begin::Pending(1));
        assert_eq!(keys.begin("b", "k", 2, 5), Begin::New);
    }

    #[test]
    fn an_instance_that_floods_does_not_push_out_the_last_keys_of_the_others() {
        let max_bytes = 2 * (INSTANCE + 1) + 20 * (KEY + 3);
        let mut keys = Keys::new(KeyLimits { max_bytes, ..LIMITS });
        for ticket in 0..3 {
            keys.begin("q", &format!("{ticket:03}"), ticket, 0);
        }
        for ticket in 0..500 {
            assert_eq!(keys.begin("f", &format!("{ticket:03}"), ticket, 1), Begin::New);
            assert!(keys.bytes() <= max_bytes);
        }
        for ticket in 0..2 {
            assert_eq!(keys.begin("n", &format!("{ticket:03}"), ticket, 1), Begin::New);
            assert!(keys.bytes() <= max_bytes);
        }
        assert_eq!(keys.begin("f", "499", 1_000, 2), Begin::Pending(499));
        assert_eq!(keys.begin("f", "490", 1_000, 2), Begin::Pending(490));
        assert_eq!(keys.begin("q", "002", 1_000, 2), Begin::Pending(2));
        assert_eq!(keys.begin("q", "001", 1_000, 2), Begin::Pending(1), "though it was idle the longest");
    }

    #[test]
    fn instances_that_are_gone_pay_for_nobody() {
        let max_bytes = 3 * (INSTANCE + 1) + 8 * (KEY + 1);
        let mut keys = Keys::new(KeyLimits { max_bytes, ..LIMITS });
        let mut publish = |instance, count: u64, now| {
            for key in 0..count {
                assert_eq!(keys.begin(instance, &key.to_string(), key, now), Begin::New);
            }
        };
        publish("c", 1, 0);
        publish("a", 3, 0);
        publish("b", 3, 0);
        publish("c", 9, 1_001);
        publish("d", 2, 1_001);
        assert_eq!(keys.instances(), 2);
        assert_eq!(keys.begin("d", "0", 9, 1_001), Begin::Pending(0));
        assert_eq!(keys.begin("c", "8", 9, 1_001), Begin::Pending(8));
    }

    /// One key as the model knows it: instance, key, time, state.
    type Known = (usize, u32, u64, State);

    #[test]
    fn keys_do_what_a_list_of_them_would_do() {
        for seed in seeds() {
            eprintln!("seed {seed}: rerun it with TIDEGATE_SEED={seed}");
            against_a_list(&mut Rng::with_seed(seed));
        }
    }

    fn seeds() -> std::ops::Range<u64> {
        match std::env::var("TIDEGATE_SEED") {
            Ok(seed) => seed.parse().map(|seed: u64| seed..seed + 1).expect("a number"),
            Err(_) => 0..500,
        }
    }

    fn against_a_list(rng: &mut Rng) {
        let names = ["a", "b", "c", "d", "e"];
        let limits = KeyLimits {
            window_ms: rng.u64(1..100),
            max_instances: names.len(),
            per_instance_min: rng.usize(0..4),
            max_bytes: usize::MAX,
        };
        let (mut keys, mut list, mut now) = (Keys::new(limits), Vec::<Known>::new(), 0);
        for ticket in 0..rng.u64(1..200) {
            now += rng.u64(0..8);
            let (instance, key) = (rng.usize(0..names.len()), rng.u32(0..12));
            let text = key.to_string();
            list.retain(|&(.., time, _)| now - time <= limits.window_ms);
            let known = list.iter_mut().find(|known| (known.0, known.1) == (instance, key));
            if rng.bool() {
                let expected = match known.map(|known| &known.3) {
                    Some(State::Pending(first)) => Begin::Pending(*first),
                    Some(State::Done(settled)) => Begin::Done(settled.clone()),
                    Some(State::Freed) | None => {
                        list.push((instance, key, now, State::Pending(ticket)));
                        Begin::New
                    }
                };
                assert_eq!(keys.begin(names[instance], &text, ticket, now), expected);
            } else if let Some((.., state)) = known
                && let State::Pending(first) = *state
            {
                let outcome = rng.bool().then(|| settled(ticket));
                keys.settle(names[instance], &text, first, outcome.clone());
                match outcome {
                    Some(settled) => *state = State::Done(settled),
                    None => list.retain(|known| (known.0, known.1) != (instance, key)),
                }
            }
        }
        keys.expire(now + limits.window_ms + 1);
        assert_eq!((keys.instances(), keys.bytes()), (0, 0));
    }

    #[test]
    fn the_bounds_hold_whatever_comes() {
        for seed in seeds() {
            eprintln!("seed {seed}: rerun it with TIDEGATE_SEED={seed}");
            let mut rng = Rng::with_seed(seed);
            let limits = KeyLimits {
                window_ms: rng.u64(1..1_000),
                max_instances: rng.usize(0..5),
                per_instance_min: rng.usize(0..6),
                max_bytes: INSTANCE + KEY + 10 + rng.usize(0..5_000),
            };
            let (mut keys, mut now) = (Keys::new(limits), 0);
            for ticket in 0..300 {
                now += rng.u64(0..20);
                let (name, key) = (rng.u32(0..8).to_string(), rng.u32(0..30).to_string());
                if keys.begin(&name, &key, ticket, now) == Begin::New && rng.bool() {
                    keys.settle(&name, &key, ticket, rng.bool().then(|| settled(ticket)));
                }
                assert!(keys.bytes() <= limits.max_bytes);
                assert!(keys.instances() <= limits.max_instances.max(1));
                let pinned = keys.instances.iter().map(|(_, instance)| {
                    INSTANCE + instance.name.len() + instance.keys.iter().map(Key::cost).sum::<usize>()
                });
                assert_eq!(keys.bytes(), pinned.sum::<usize>());
            }
        }
    }
}
