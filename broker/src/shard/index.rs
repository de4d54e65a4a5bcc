//! Which subscriptions take a topic.

use tidegate_protocol::{Filter, Topic};

/// Subscriptions (`K`) by filter.
#[derive(Debug)]
pub struct Index<K> {
    keys: Vec<K>,
}

/// The subscriptions that take a topic; both lists ascend, without doubles. A `K` under an exact filter and a
/// wildcard one stands in both.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Matches<'a, K> {
    /// By filters without wildcards.
    pub exact: &'a [K],
    /// By filters with wildcards.
    pub wild: &'a [K],
}

impl<K: Copy + Ord> Index<K> {
    /// Without subscriptions.
    pub fn new() -> Self {
        unimplemented!()
    }

    /// Adds `key` under `filter`; false where it stood there already.
    pub fn insert(&mut self, _filter: &Filter, _key: K) -> bool {
        unimplemented!()
    }

    /// Takes `key` under `filter` away; false where it did not stand there.
    pub fn remove(&mut self, _filter: &Filter, _key: K) -> bool {
        unimplemented!()
    }

    /// Who stands under exactly this filter, ascending.
    pub fn under(&self, _filter: &Filter) -> &[K] {
        unimplemented!()
    }

    /// Whose filters take `topic`.
    pub fn matches(&mut self, _topic: &Topic) -> Matches<'_, K> {
        unimplemented!()
    }

    /// Whether any filter takes `topic`.
    pub fn any_match(&mut self, _topic: &Topic) -> bool {
        unimplemented!()
    }

    /// Whether no subscription is left.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// How many (filter, subscription) pairs there are.
    pub fn len(&self) -> usize {
        unimplemented!()
    }
}
