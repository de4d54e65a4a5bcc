//! How many connections there may be, over all shards and however they come.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::Relaxed},
};

/// What all shards count in, so that two of them never give the last place twice.
#[derive(Debug)]
pub struct Admissions {
    given: AtomicUsize,
    most: usize,
}

/// A place among the connections. It is taken before a client is told that it is welcome, goes with its connection, and
/// is free again when dropped.
#[derive(Debug)]
pub struct Admission(Arc<Admissions>);

impl Admissions {
    /// For so many connections at a time.
    pub fn new(most: usize) -> Arc<Self> {
        Arc::new(Self { given: AtomicUsize::new(0), most })
    }

    /// A place, unless all are taken.
    pub fn admit(self: &Arc<Self>) -> Option<Admission> {
        // The count stands for itself: nothing else is read by it, so no order is needed.
        let admitted =
            self.given.fetch_update(Relaxed, Relaxed, |given| (given < self.most).then_some(given + 1));
        admitted.is_ok().then(|| Admission(self.clone()))
    }

    /// How many places there are.
    pub fn most(&self) -> usize {
        self.most
    }
}

impl Drop for Admission {
    fn drop(&mut self) {
        self.0.given.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_free_again_when_it_is_dropped() {
        let admissions = Admissions::new(2);
        let first = admissions.admit().expect("the first");
        let second = admissions.admit().expect("the second");
        assert!(admissions.admit().is_none());
        drop(first);
        let third = admissions.admit().expect("the first one's");
        assert!(admissions.admit().is_none());
        drop((second, third));
        assert_eq!(admissions.given.load(Relaxed), 0);
    }

    #[test]
    fn a_place_is_one_word() {
        assert_eq!(size_of::<Option<Admission>>(), size_of::<usize>());
    }
}
