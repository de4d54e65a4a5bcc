//! How many messages of a fixed rate are due. No I/O; `now` is given.

use std::time::{Duration, Instant};

/// A publisher's clock.
#[derive(Debug)]
pub(super) struct Pace {
    /// Messages a second.
    rate: f64,
    since: Instant,
    /// The part of a message that was due at `since`.
    rest: f64,
}

/// What one look gives at the most, as time: a publisher that was held up, or rested, does not make up for it.
const LONGEST: Duration = Duration::from_millis(100);

impl Pace {
    pub(super) fn new(rate: u32, now: Instant) -> Self {
        Self { rate: rate.into(), since: now, rest: 0.0 }
    }

    /// How many messages have become due since the last look.
    pub(super) fn due(&mut self, now: Instant) -> u32 {
        let passed = now.saturating_duration_since(self.since).min(LONGEST);
        let due = self.rest + passed.as_secs_f64() * self.rate;
        (self.since, self.rest) = (now, due.fract());
        due as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_in_uneven_steps_gives_the_rate() {
        let mut rng = fastrand::Rng::with_seed(1);
        let start = Instant::now();
        for rate in [1, 30, 333, 10_000] {
            let mut pace = Pace::new(rate, start);
            let (mut passed, mut given) = (Duration::ZERO, 0);
            while passed < Duration::from_secs(1) {
                passed += Duration::from_micros(rng.u64(..50_000));
                given += pace.due(start + passed);
            }
            let expected = passed.as_secs_f64() * f64::from(rate);
            assert!((f64::from(given) - expected).abs() <= 1.0, "{given} of {expected}");
        }
    }

    #[test]
    fn who_was_held_up_does_not_make_up_for_it() {
        let start = Instant::now();
        let mut pace = Pace::new(1000, start);
        assert_eq!(pace.due(start + Duration::from_secs(60)), 100);
        assert_eq!(pace.due(start + Duration::from_secs(60)), 0);
    }
}
