//! Counters of one client, over all its connections.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// A client's counters since it was made. See [`Client::stats`](crate::Client::stats).
        ///
        /// ```
        /// # mod broker { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/broker.rs")); }
        /// # broker::run(async |client, url| {
        /// for n in 0..10 {
        ///     client.publish("numbers", n.to_string()).await?;
        /// }
        /// let stats = client.stats();
        /// assert_eq!((stats.published, stats.acknowledged, stats.resent), (10, 10, 0));
        /// # Ok(()) });
        /// ```
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
        #[non_exhaustive]
        pub struct Stats { $($(#[$doc])* pub $name: u64,)* }

        /// The counters as the driver writes them. One task writes, so no counter needs an order with another.
        #[derive(Debug, Default)]
        pub(crate) struct Counters { $(pub(crate) $name: Counter,)* }

        impl Counters {
            pub(crate) fn snapshot(&self) -> Stats {
                Stats { $($name: self.$name.0.load(Relaxed),)* }
            }
        }
    };
}

counters! {
    /// Publish frames sent for the first time.
    published,
    /// Publish frames sent again after a connection was lost.
    resent,
    /// Publishes acknowledged.
    acknowledged,
    /// Publishes that failed.
    failed,
    /// Messages handed to subscriptions.
    delivered,
    /// Messages dropped since the subscription had them already.
    duplicates,
    /// Messages told missing by gaps: exact counts, else upper bounds.
    gapped,
    /// Gaps, with a count or without.
    gaps,
    /// How often a subscription's books and the broker's differed. Must stay 0.
    books_differ,
    /// Connections that were welcomed.
    connections,
    /// Frames of the broker that could not be read. Must stay 0.
    unreadable,
}

#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add(&self, n: u64) {
        self.0.fetch_add(n, Relaxed);
    }
}
