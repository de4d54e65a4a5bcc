//! Which subscriptions take a topic.
//!
//! Exact filters stand in a map, wildcards in a trie whose answers are cached by topic. A topic costs one look-up, none
//! where it is known where it stands, and one more where any wildcard exists.

use std::hash::BuildHasher;

use hashbrown::{DefaultHashBuilder, HashMap, HashTable};
use slab::Slab;
use smallvec::SmallVec;
use tidegate_protocol::{Filter, Topic};

/// Subscriptions (`K`) by filter.
#[derive(Debug)]
pub struct Index<K> {
    exact: Slab<Exact<K>>,
    /// Places in `exact` by topic.
    places: HashTable<u32>,
    wild: Wild<K>,
    hasher: DefaultHashBuilder,
    len: usize,
}

/// The subscriptions that take a topic; both lists ascend, without doubles. A `K` under an exact filter and a
/// wildcard stands in both.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Matches<'a, K> {
    /// By filters without wildcards.
    pub exact: &'a [K],
    /// By filters with wildcards.
    pub wild: &'a [K],
}

impl<K> Matches<'_, K> {
    /// Whether nobody takes the topic.
    pub fn is_empty(&self) -> bool {
        self.exact.is_empty() && self.wild.is_empty()
    }
}

/// What the answers kept for wildcards may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CacheLimits {
    /// Topics whose answer is kept, at about 100 bytes each; at least one is.
    pub topics: usize,
    /// Keys in answers that merge several filters; the newest answer may exceed it alone.
    pub keys: usize,
}

impl Default for CacheLimits {
    /// 6 MiB for topics, and 2 MiB where a key has 8 bytes.
    fn default() -> Self {
        Self { topics: 65_536, keys: 1 << 18 }
    }
}

/// A topic that some filter without wildcards names.
#[derive(Debug)]
struct Exact<K> {
    /// The newest that was asked for, so that the next copy of it is known without a look at its text.
    topic: Topic,
    hash: u64,
    /// Never empty.
    keys: List<K>,
}

impl<K: Copy + Ord> Default for Index<K> {
    fn default() -> Self {
        Self::new()
    }
}

impl<K: Copy + Ord> Index<K> {
    /// Without subscriptions, with the default cache.
    pub fn new() -> Self {
        Self::with_cache(CacheLimits::default())
    }

    /// Without subscriptions.
    pub fn with_cache(limits: CacheLimits) -> Self {
        let hasher = DefaultHashBuilder::default();
        Self { exact: Slab::new(), places: HashTable::new(), wild: Wild::new(limits), hasher, len: 0 }
    }

    /// Adds `key` under `filter`; false where it stood there already. Cheapest where `key` is the largest.
    pub fn insert(&mut self, filter: &Filter, key: K) -> bool {
        let is_new =
            if filter.is_wildcard() { self.wild.insert(filter, key) } else { self.insert_exact(filter, key) };
        self.len += usize::from(is_new);
        is_new
    }

    fn insert_exact(&mut self, filter: &Filter, key: K) -> bool {
        let hash = self.hasher.hash_one(filter.as_str());
        if let Some(place) = self.find(hash, filter.as_str()) {
            return self.exact[place as usize].keys.insert(key);
        }
        let Some(topic) = filter.as_topic() else { return false };
        let mut keys = List::new();
        keys.insert(key);
        let place = self.exact.insert(Exact { topic, hash, keys }) as u32;
        let exact = &self.exact;
        self.places.insert_unique(hash, place, |&place| exact[place as usize].hash);
        true
    }

    /// Takes `key` under `filter` away; false where it did not stand there.
    pub fn remove(&mut self, filter: &Filter, key: K) -> bool {
        let was_there =
            if filter.is_wildcard() { self.wild.remove(filter, key) } else { self.remove_exact(filter, key) };
        self.len -= usize::from(was_there);
        was_there
    }

    /// Who stands under exactly this filter, ascending.
    pub fn under(&self, filter: &Filter) -> &[K] {
        if filter.is_wildcard() {
            return self.wild.list_of(filter).map_or(&[], |list| &self.wild.lists[list].0);
        }
        self.place(filter).map_or(&[], |place| &self.exact[place as usize].keys.0)
    }

    /// Where the subscriptions under exactly this filter stand, as long as there are any; nowhere for a wildcard.
    pub fn place(&self, filter: &Filter) -> Option<u32> {
        self.find(self.hasher.hash_one(filter.as_str()), filter.as_str())
    }

    /// Whose filters take `topic`.
    pub fn matches(&mut self, topic: &Topic) -> Matches<'_, K> {
        self.matches_at(topic, None)
    }

    /// The same, where `place` may be what [`Index::place`] said of `topic`: that saves the look-up. A place where something
    /// else stands by now only costs a look at it.
    pub fn matches_at(&mut self, topic: &Topic, place: Option<u32>) -> Matches<'_, K> {
        let place = place
            .filter(|&place| self.exact.get(place as usize).is_some_and(|exact| exact.topic == *topic))
            .or_else(|| self.find(self.hasher.hash_one(topic.as_str()), topic.as_str()));
        let exact: &[K] = match place.and_then(|place| self.exact.get_mut(place as usize)) {
            Some(exact) => {
                if !exact.topic.is_copy_of(topic) {
                    exact.topic = topic.clone();
                }
                &exact.keys.0
            }
            None => &[],
        };
        let wild = match self.wild.lists.is_empty() {
            true => &[],
            false => self.wild.matches(self.hasher.hash_one(topic.as_str()), topic),
        };
        Matches { exact, wild }
    }

    /// What stands first at `place`, whatever it is: see [`Index::matches_at`].
    pub fn first_at(&self, place: u32) -> Option<K> {
        self.exact.get(place as usize)?.keys.0.first().copied()
    }

    /// Whether any filter takes `topic`.
    pub fn any_match(&mut self, topic: &Topic) -> bool {
        !self.matches(topic).is_empty()
    }

    /// Whether no subscription is left.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// How many (filter, subscription) pairs there are.
    pub fn len(&self) -> usize {
        self.len
    }

    fn find(&self, hash: u64, topic: &str) -> Option<u32> {
        let exact = &self.exact;
        let is_it = |&place: &u32| {
            exact.get(place as usize).is_some_and(|exact| exact.hash == hash && exact.topic.as_str() == topic)
        };
        self.places.find(hash, is_it).copied()
    }

    fn remove_exact(&mut self, filter: &Filter, key: K) -> bool {
        let hash = self.hasher.hash_one(filter.as_str());
        let Some(place) = self.find(hash, filter.as_str()) else { return false };
        let keys = &mut self.exact[place as usize].keys;
        if !keys.remove(key) {
            return false;
        }
        if keys.0.is_empty() {
            self.exact.remove(place as usize);
            if let Ok(entry) = self.places.find_entry(hash, |&known| known == place) {
                entry.remove();
            }
            if self.exact.is_empty() {
                self.exact = Slab::new();
            }
            if is_sparse(self.places.len(), self.places.capacity()) {
                let exact = &self.exact;
                self.places.shrink_to(2 * self.places.len(), |&place| exact[place as usize].hash);
            }
        }
        true
    }
}

/// Ascending, without doubles. Most filters have one subscriber or two.
#[derive(Debug)]
struct List<K>(SmallVec<[K; 2]>);

impl<K: Copy + Ord> List<K> {
    fn new() -> Self {
        Self(SmallVec::new())
    }

    fn insert(&mut self, key: K) -> bool {
        // Keys are handed out in ascending order, so the end is looked at first.
        if self.0.last().is_none_or(|&last| last < key) {
            self.0.push(key);
            return true;
        }
        let Err(at) = self.0.binary_search(&key) else { return false };
        self.0.insert(at, key);
        true
    }

    fn remove(&mut self, key: K) -> bool {
        let Ok(at) = self.0.binary_search(&key) else { return false };
        self.0.remove(at);
        if is_sparse(self.0.len(), self.0.capacity()) {
            self.0.shrink_to_fit();
        }
        true
    }
}

/// Whether a collection has shrunk so far below its capacity that giving room back is worth the copy.
fn is_sparse(len: usize, capacity: usize) -> bool {
    capacity > 64 && len < capacity / 8
}

/// Filters with wildcards.
#[derive(Debug)]
struct Wild<K> {
    root: Node,
    /// The keys under each filter; none is empty.
    lists: Slab<List<K>>,
    cache: Cache<K>,
}

/// The filters that begin with the same tokens.
#[derive(Debug, Default)]
struct Node {
    /// By the next token.
    tokens: HashMap<Box<str>, Node>,
    /// Where the next token is `*`.
    star: Option<Box<Node>>,
    /// The list of the filter that ends here.
    ends: Option<usize>,
    /// The list of the filter that ends here with `>`.
    tail: Option<usize>,
}

impl<K: Copy + Ord> Wild<K> {
    fn new(limits: CacheLimits) -> Self {
        Self { root: Node::default(), lists: Slab::new(), cache: Cache::new(limits) }
    }

    fn insert(&mut self, filter: &Filter, key: K) -> bool {
        let list = *self.root.list_mut(filter).get_or_insert_with(|| self.lists.insert(List::new()));
        let is_new = self.lists[list].insert(key);
        self.cache.is_stale |= is_new;
        is_new
    }

    fn remove(&mut self, filter: &Filter, key: K) -> bool {
        let Some(list) = self.list_of(filter) else { return false };
        if !self.lists[list].remove(key) {
            return false;
        }
        if self.lists[list].0.is_empty() {
            self.lists.remove(list);
            self.root.remove(filter.as_str());
        }
        if self.lists.is_empty() {
            *self = Self::new(self.cache.limits);
        }
        self.cache.is_stale = true;
        true
    }

    fn list_of(&self, filter: &Filter) -> Option<usize> {
        let mut node = &self.root;
        for token in filter.tokens() {
            match token {
                ">" => return node.tail,
                "*" => node = node.star.as_deref()?,
                token => node = node.tokens.get(token)?,
            }
        }
        node.ends
    }

    fn matches(&mut self, hash: u64, topic: &Topic) -> &[K] {
        if self.cache.is_stale {
            self.cache.clear();
        }
        let cached = match self.cache.find(hash, topic) {
            Some(cached) => cached,
            None => {
                let answer = self.answer(topic);
                self.cache.insert(hash, topic, answer)
            }
        };
        match &self.cache.entries[cached].answer {
            Answer::Nobody => &[],
            Answer::List(list) => &self.lists[*list].0,
            Answer::Merged(keys) => keys,
        }
    }

    fn answer(&self, topic: &Topic) -> Answer<K> {
        let mut lists = SmallVec::<[usize; 8]>::new();
        self.root.collect(topic.as_str(), &mut lists);
        match lists[..] {
            [] => Answer::Nobody,
            [list] => Answer::List(list),
            _ => {
                let mut keys =
                    lists.iter().flat_map(|&list| &self.lists[list].0).copied().collect::<Vec<_>>();
                // The stable sort, since it finds the ascending runs and merges them.
                keys.sort();
                keys.dedup();
                Answer::Merged(keys.into())
            }
        }
    }
}

impl Node {
    fn list_mut(&mut self, filter: &Filter) -> &mut Option<usize> {
        let mut node = self;
        for token in filter.tokens() {
            match token {
                ">" => return &mut node.tail,
                "*" => node = node.star.get_or_insert_default(),
                token => node = node.tokens.entry(token.into()).or_default(),
            }
        }
        &mut node.ends
    }

    /// Forgets the list of the filter `rest`, and every node that leads nowhere else.
    fn remove(&mut self, rest: &str) {
        let (token, rest) = split(rest);
        match (token, rest) {
            (">", _) => self.tail = None,
            ("*", rest) => {
                if self.star.as_deref_mut().is_some_and(|star| star.remove_end(rest)) {
                    self.star = None;
                }
            }
            (token, rest) => {
                if self.tokens.get_mut(token).is_some_and(|child| child.remove_end(rest)) {
                    self.tokens.remove(token);
                    if is_sparse(self.tokens.len(), self.tokens.capacity()) {
                        self.tokens.shrink_to_fit();
                    }
                }
            }
        }
    }

    /// As [`Node::remove`], where the filter may end here; returns whether the node leads nowhere now.
    fn remove_end(&mut self, rest: Option<&str>) -> bool {
        match rest {
            Some(rest) => self.remove(rest),
            None => self.ends = None,
        }
        self.tokens.is_empty() && self.star.is_none() && self.ends.is_none() && self.tail.is_none()
    }

    /// Adds the lists of the filters that take `rest`. It goes no deeper than a topic has tokens, and visits no node
    /// twice.
    fn collect(&self, rest: &str, lists: &mut SmallVec<[usize; 8]>) {
        // No wildcard stands for the broker's own tokens; see `Filter::matches`.
        let has_reserved = rest.starts_with('$') || rest.contains(".$");
        if !has_reserved {
            lists.extend(self.tail);
        }
        let (token, rest) = split(rest);
        let star = self.star.as_deref().filter(|_| !token.starts_with('$'));
        for child in self.tokens.get(token).into_iter().chain(star) {
            match rest {
                Some(rest) => child.collect(rest, lists),
                None => lists.extend(child.ends),
            }
        }
    }
}

/// The first token, and what follows it.
fn split(text: &str) -> (&str, Option<&str>) {
    text.split_once('.').map_or((text, None), |(token, rest)| (token, Some(rest)))
}

/// The wildcards' answers for the topics that were asked for lately.
#[derive(Debug)]
struct Cache<K> {
    limits: CacheLimits,
    /// Indices of entries by topic.
    slots: HashTable<u32>,
    entries: Vec<Cached<K>>,
    /// Where the search for an entry to let go goes on: a clock with second chance.
    hand: usize,
    /// The keys that the entries hold themselves.
    keys: usize,
    /// Whether a wildcard filter has come or gone since the answers were made.
    is_stale: bool,
}

#[derive(Debug)]
struct Cached<K> {
    topic: Topic,
    hash: u64,
    answer: Answer<K>,
    was_used: bool,
}

#[derive(Debug)]
enum Answer<K> {
    Nobody,
    /// The keys of one filter. It shares them, or the one `>` of thousands would be copied for each topic.
    List(usize),
    /// The keys of several filters.
    Merged(Box<[K]>),
}

impl<K> Answer<K> {
    fn keys(&self) -> usize {
        match self {
            Answer::Nobody | Answer::List(_) => 0,
            Answer::Merged(keys) => keys.len(),
        }
    }
}

impl<K> Cache<K> {
    fn new(limits: CacheLimits) -> Self {
        Self { limits, slots: HashTable::new(), entries: Vec::new(), hand: 0, keys: 0, is_stale: false }
    }

    fn clear(&mut self) {
        self.slots.clear();
        self.entries.clear();
        self.keys = 0;
        self.is_stale = false;
    }

    fn find(&mut self, hash: u64, topic: &Topic) -> Option<usize> {
        let entries = &self.entries;
        let &slot = self.slots.find(hash, |&slot| {
            let entry = &entries[slot as usize];
            entry.hash == hash && entry.topic == *topic
        })?;
        self.entries[slot as usize].was_used = true;
        Some(slot as usize)
    }

    fn insert(&mut self, hash: u64, topic: &Topic, answer: Answer<K>) -> usize {
        self.keys += answer.keys();
        let CacheLimits { topics, keys } = self.limits;
        while !self.entries.is_empty() && (self.entries.len() >= topics || self.keys > keys) {
            self.evict();
        }
        let slot = self.entries.len();
        self.entries.push(Cached { topic: topic.clone(), hash, answer, was_used: false });
        let entries = &self.entries;
        self.slots.insert_unique(hash, slot as u32, |&slot| entries[slot as usize].hash);
        slot
    }

    /// Lets go of the next entry that was not used since the hand last passed it.
    fn evict(&mut self) {
        loop {
            if self.hand >= self.entries.len() {
                self.hand = 0;
            }
            if !std::mem::take(&mut self.entries[self.hand].was_used) {
                break;
            }
            self.hand += 1;
        }
        let (gone, last) = (self.hand, self.entries.len() - 1);
        self.move_slot(last, gone);
        self.keys -= self.entries.swap_remove(gone).answer.keys();
    }

    /// Lets the slot of `gone` go, and makes that of `last`, which takes its place, say so.
    fn move_slot(&mut self, last: usize, gone: usize) {
        if let Ok(slot) = self.slots.find_entry(self.entries[gone].hash, |&slot| slot as usize == gone) {
            slot.remove();
        }
        if let Some(slot) = self.slots.find_mut(self.entries[last].hash, |&slot| slot as usize == last) {
            *slot = gone as u32;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filter(text: &str) -> Filter {
        Filter::parse(text).unwrap()
    }

    fn topic(text: &str) -> Topic {
        Topic::parse(text).unwrap()
    }

    #[test]
    fn a_topic_is_taken_by_name_and_by_wildcard() {
        let mut index = Index::new();
        for (text, key) in [("a.b", 2), ("a.*", 4), (">", 3), ("a.b", 1), ("a.b.>", 5), ("*.*", 4), ("a", 6)]
        {
            assert!(index.insert(&filter(text), key));
        }
        assert!(!index.insert(&filter("a.b"), 1), "once is enough");
        let matches = index.matches(&topic("a.b"));
        assert_eq!((matches.exact, matches.wild), (&[1, 2][..], &[3, 4][..]));
        let matches = index.matches(&topic("$sys.load"));
        assert!(matches.is_empty(), "wildcards do not reach the broker's own topics");
    }

    #[test]
    fn a_topic_is_found_where_it_stands_and_where_it_stood() {
        let mut index = Index::new();
        index.insert(&filter("a"), 1);
        let stood = index.place(&filter("a"));
        assert_eq!(index.matches_at(&topic("a"), stood).exact, [1]);
        index.remove(&filter("a"), 1);
        assert!(index.matches_at(&topic("a"), stood).is_empty());
        index.insert(&filter("b"), 2);
        index.insert(&filter("a"), 3);
        assert_eq!(index.place(&filter("b")), stood, "the place has another owner");
        assert_eq!(index.matches_at(&topic("a"), stood).exact, [3]);
    }

    #[test]
    fn an_answer_follows_every_change_of_the_wildcards() {
        let mut index = Index::new();
        index.insert(&filter("a.*"), 1);
        assert_eq!(index.matches(&topic("a.b")).wild, [1]);
        index.insert(&filter(">"), 2);
        assert_eq!(index.matches(&topic("a.b")).wild, [1, 2]);
        index.remove(&filter("a.*"), 1);
        assert_eq!(index.matches(&topic("a.b")).wild, [2]);
        index.remove(&filter(">"), 2);
        assert!(!index.any_match(&topic("a.b")));
    }

    #[test]
    fn the_cache_keeps_to_its_limits() {
        let mut index = Index::with_cache(CacheLimits { topics: 100, keys: 2_000 });
        for key in 0..300 {
            index.insert(&filter(">"), key);
        }
        for number in 0..10_000 {
            assert_eq!(index.matches(&topic(&format!("t{number}"))).wild.len(), 300);
            assert!(index.wild.cache.entries.len() <= 100);
        }
        assert_eq!(index.wild.cache.keys, 0, "the answer of one filter is not copied for each topic");
        for key in 300..600 {
            index.insert(&filter("*"), key);
        }
        for number in 0..10_000 {
            assert_eq!(index.matches(&topic(&format!("t{number}"))).wild.len(), 600);
            assert!(index.wild.cache.keys <= 2_000);
        }
        assert_eq!(index.wild.cache.entries.len(), 3, "what fits is kept");
    }

    #[test]
    fn nothing_is_left_after_all_have_left() {
        let mut index = Index::new();
        let filters = (0..10_000).map(|n| filter(&format!("a{n}.b"))).collect::<Vec<_>>();
        let wildcards = (0..10_000).map(|n| filter(&format!("x{n}.*.>"))).collect::<Vec<_>>();
        for one in filters.iter().chain(&wildcards) {
            index.insert(one, 1);
        }
        index.matches(&topic("x1.b.c"));
        for one in filters.iter().chain(&wildcards) {
            assert!(index.remove(one, 1));
        }
        assert!(index.is_empty());
        assert!(index.exact.capacity() <= 64 && index.places.capacity() <= 64);
        assert!(index.wild.root.tokens.capacity() == 0 && index.wild.lists.capacity() == 0);
        assert_eq!(index.wild.cache.entries.capacity(), 0);
    }

    #[test]
    fn a_list_gives_back_the_room_that_left_subscribers_used() {
        let mut index = Index::new();
        for key in 0..15_000 {
            index.insert(&filter("a"), key);
        }
        for key in 10..15_000 {
            index.remove(&filter("a"), key);
        }
        assert_eq!(index.under(&filter("a")), (0..10).collect::<Vec<_>>());
        assert!(index.exact.iter().all(|(_, exact)| exact.keys.0.capacity() <= 128));
    }
}
