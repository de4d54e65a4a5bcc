//! A market of 400 prices that change 10,000 times a second.
//!
//! All stand in one topic and are told apart by their key, live only: a subscriber with the policy `latest` gets every
//! change while it keeps up, and the newest of each price while it does not.

use std::{
    convert::Infallible,
    sync::Arc,
    time::{Duration, Instant},
};

use fastrand::Rng;
use serde::Serialize;
use tidegate_client::{Client, PublishErrorKind, PublishOptions, Topic};
use tokio::time::sleep;

use super::{Failure, REST, failed, json, pace::Pace, report};

const PRICES: &str = "dashboard.prices";
/// How far the publisher has come; who is subscribed to this has the page open.
const PROGRESS: &str = "demo.dashboard";

/// Updates a second.
const RATE: u32 = 10_000;
const TICK: Duration = Duration::from_millis(10);
const PROGRESS_INTERVAL: Duration = Duration::from_millis(250);

#[derive(Debug, Serialize)]
struct Progress {
    /// Updates since the start.
    published: u64,
    /// What this publisher aims at, in updates a second.
    rate: u32,
}

pub(super) async fn publish(client: Client, seed: u64) -> Result<Infallible, Failure> {
    let topic = Topic::parse(PRICES).map_err(failed(PRICES))?;
    let mut market = Market::new(seed);
    let mut pace = Pace::new(RATE, Instant::now());
    let (mut published, mut is_watched, mut next_progress) = (0, false, Instant::now());
    loop {
        let now = Instant::now();
        if now >= next_progress {
            is_watched = report(&client, PROGRESS, &Progress { published, rate: RATE }).await?;
            next_progress = now + PROGRESS_INTERVAL;
        }
        if !is_watched {
            sleep(REST).await;
            continue;
        }
        for _ in 0..pace.due(now) {
            let (symbol, quote) = market.change();
            // One that is lost with the connection is worth nothing a moment later.
            let options = PublishOptions::new().key(symbol).without_idempotency();
            match client.try_publish_with(topic.clone(), json(&quote)?, options) {
                Ok(ack) => drop(ack),
                // The broker takes no more at the moment. What is due next is newer.
                Err(error) if error.kind() == PublishErrorKind::Full => break,
                Err(error) => return Err(failed(PRICES)(error)),
            }
            published += 1;
        }
        sleep(TICK).await;
    }
}

/// Prices that wander. The same seed makes the same changes.
struct Market {
    rng: Rng,
    prices: Vec<(Arc<str>, f64)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
struct Quote {
    price: f64,
}

const LOWEST: f64 = 1.0;
const HIGHEST: f64 = 999.99;

impl Market {
    fn new(seed: u64) -> Self {
        let mut rng = Rng::with_seed(seed);
        let prices = (0..400).map(|n| (symbol(n), 20.0 + 180.0 * rng.f64())).collect();
        Self { rng, prices }
    }

    /// Some price's next value: up to half a percent away, in cents.
    fn change(&mut self) -> (Arc<str>, Quote) {
        let (symbol, price) = &mut self.prices[self.rng.usize(..400)];
        let step = 1.0 + 0.01 * (self.rng.f64() - 0.5);
        *price = (*price * step).clamp(LOWEST, HIGHEST);
        (symbol.clone(), Quote { price: (*price * 100.0).round() / 100.0 })
    }
}

/// Four letters that can be spoken: BABA to RORO.
fn symbol(n: usize) -> Arc<str> {
    let syllable = |n: usize| [b"BDKLR"[n / 4 % 5] as char, b"AEIO"[n % 4] as char];
    syllable(n / 20).into_iter().chain(syllable(n % 20)).collect::<String>().into()
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;

    #[test]
    fn every_price_has_a_symbol_of_its_own() {
        let symbols: BTreeSet<_> = (0..400).map(symbol).collect();
        assert_eq!(symbols.len(), 400);
        assert!(symbols.iter().all(|symbol| symbol.len() == 4));
    }

    #[test]
    fn the_same_seed_makes_the_same_market() {
        let run = |seed| {
            let mut market = Market::new(seed);
            (0..1000).map(|_| market.change()).collect::<Vec<_>>()
        };
        assert_eq!(run(1), run(1));
        assert_ne!(run(1), run(2));
    }

    #[test]
    fn prices_stay_prices_and_all_of_them_move() {
        let mut market = Market::new(3);
        let mut changes = BTreeMap::new();
        for _ in 0..100_000 {
            let (symbol, Quote { price }) = market.change();
            assert!((LOWEST..=HIGHEST).contains(&price), "{symbol} {price}");
            *changes.entry(symbol).or_insert(0) += 1;
        }
        assert_eq!(changes.len(), 400);
        assert!(changes.values().all(|&n| n > 100), "{changes:?}");
    }
}
