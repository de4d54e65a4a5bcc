//! How long to wait before the next attempt to connect. Pure: the randomness is passed.

use std::time::Duration;

/// The first retry comes within this time, and the later ones' window grows from it.
const FIRST: Duration = Duration::from_millis(200);

/// How long a connection has to last for the next loss to be a new one. A broker that welcomes and closes at once
/// must not be met five times a second.
pub(crate) const LIVED: Duration = Duration::from_secs(1);

/// Full jitter: a delay is drawn evenly from a window that doubles with each attempt, so that clients who lost the
/// same broker do not come back together.
#[derive(Debug, Default)]
pub(crate) struct Backoff {
    attempt: u32,
}

impl Backoff {
    /// The delay before the next attempt, where the broker's welcome named the window `(from, to)`.
    pub(crate) fn next(&mut self, window: (Duration, Duration), rng: &mut fastrand::Rng) -> Duration {
        let attempt = self.attempt;
        self.attempt = attempt.saturating_add(1);
        if attempt == 0 {
            return between(Duration::ZERO, FIRST, rng);
        }
        // A window of no width would have every client hammer a broker that is down.
        let (from, to) = (window.0, window.1.max(FIRST));
        let grown = FIRST.saturating_mul(1 << attempt.min(20));
        between(from, to.min(grown).max(from), rng)
    }

    /// Attempts since the last connection that lived.
    pub(crate) fn attempts(&self) -> u32 {
        self.attempt
    }

    /// A connection lived: the next loss is a new one.
    pub(crate) fn reset(&mut self) {
        self.attempt = 0;
    }

    /// The broker hung up on this client for being slow: it does not come back at once.
    pub(crate) fn skip_first(&mut self) {
        self.attempt = self.attempt.max(1);
    }
}

fn between(from: Duration, to: Duration, rng: &mut fastrand::Rng) -> Duration {
    from + to.saturating_sub(from).mul_f64(rng.f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    const WINDOW: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

    /// The smallest and the largest of many draws of the `n`th delay.
    fn draws(n: u32, window: (Duration, Duration)) -> (Duration, Duration) {
        let mut rng = fastrand::Rng::with_seed(7);
        let draws = (0..2000).map(|_| {
            let mut backoff = Backoff { attempt: n };
            backoff.next(window, &mut rng)
        });
        draws.fold((Duration::MAX, Duration::ZERO), |(low, high), draw| (low.min(draw), high.max(draw)))
    }

    #[test]
    fn the_first_retry_comes_within_200_ms_whatever_the_window() {
        let (low, high) = draws(0, (Duration::from_secs(3), Duration::from_secs(5)));
        assert!(low < Duration::from_millis(10) && high > Duration::from_millis(190) && high <= FIRST);
    }

    #[test]
    fn later_retries_fill_a_window_that_doubles_up_to_the_brokers() {
        for (n, most) in [(1, 400), (2, 800), (3, 1600), (5, 5000), (30, 5000), (u32::MAX - 1, 5000)] {
            let most = Duration::from_millis(most);
            let (low, high) = draws(n, WINDOW);
            assert!(low >= WINDOW.0 && low < WINDOW.0 + most / 50, "{n}: from {low:?}");
            assert!(high <= most && high > most.mul_f64(0.98), "{n}: to {high:?}");
        }
    }

    #[test]
    fn a_window_of_no_width_is_no_licence_to_hammer() {
        let (_, high) = draws(4, (Duration::ZERO, Duration::ZERO));
        assert!(high > Duration::from_millis(190));
    }

    #[test]
    fn a_client_hung_up_on_for_being_slow_skips_the_quick_retry() {
        let mut backoff = Backoff::default();
        backoff.skip_first();
        let window = (Duration::from_secs(3), Duration::from_secs(5));
        assert!(backoff.next(window, &mut fastrand::Rng::with_seed(1)) >= window.0);
        backoff.reset();
        assert!(backoff.next(window, &mut fastrand::Rng::with_seed(1)) <= FIRST);
    }
}
