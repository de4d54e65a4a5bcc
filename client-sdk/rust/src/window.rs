//! How much may be published whose ack has not come yet.

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering::Relaxed},
};

use tidegate_protocol::frame::PublishWindow;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, TryAcquireError};

/// The publish window as publishers see it: they wait here, before anything of theirs is queued.
///
/// It only grows. A broker whose window is smaller than the one before it is obeyed by the session, which knows what
/// is in flight.
#[derive(Debug)]
pub(crate) struct Window {
    messages: Arc<Semaphore>,
    bytes: Arc<Semaphore>,
    /// What `bytes` holds when nothing is in flight: no message may ask for more, or it would wait for ever.
    byte_capacity: AtomicU32,
    message_capacity: AtomicU32,
}

/// A publish's place in the window, given back when dropped.
#[derive(Debug)]
pub(crate) struct Place {
    _message: OwnedSemaphorePermit,
    _bytes: OwnedSemaphorePermit,
}

/// Why there is no place.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum NoPlace {
    Full,
    Closed,
}

impl Window {
    /// Empty until the first welcome.
    pub(crate) fn new() -> Self {
        Self {
            messages: Arc::new(Semaphore::new(0)),
            bytes: Arc::new(Semaphore::new(0)),
            byte_capacity: AtomicU32::new(0),
            message_capacity: AtomicU32::new(0),
        }
    }

    /// Grows to what a welcome tells.
    pub(crate) fn grow_to(&self, window: PublishWindow) {
        let grow = |semaphore: &Semaphore, capacity: &AtomicU32, to: u64| {
            let to = to.clamp(1, u64::from(u32::MAX >> 4)) as u32;
            let had = capacity.fetch_max(to, Relaxed);
            semaphore.add_permits(to.saturating_sub(had) as usize);
        };
        grow(&self.messages, &self.message_capacity, window.messages);
        grow(&self.bytes, &self.byte_capacity, window.bytes);
    }

    /// Nobody gets a place any more.
    pub(crate) fn close(&self) {
        self.messages.close();
        self.bytes.close();
    }

    /// Waits for a place; first come, first served.
    pub(crate) async fn place(&self, bytes: usize) -> Result<Place, NoPlace> {
        if let Ok(place) = self.try_place(bytes) {
            return Ok(place);
        }
        let message = self.messages.clone().acquire_owned().await.map_err(|_| NoPlace::Closed)?;
        let bytes = self.charge(bytes);
        let bytes = self.bytes.clone().acquire_many_owned(bytes).await.map_err(|_| NoPlace::Closed)?;
        Ok(Place { _message: message, _bytes: bytes })
    }

    /// A place, if there is one now and nobody waits for it.
    pub(crate) fn try_place(&self, bytes: usize) -> Result<Place, NoPlace> {
        let no_place = |error| match error {
            TryAcquireError::NoPermits => NoPlace::Full,
            TryAcquireError::Closed => NoPlace::Closed,
        };
        let message = self.messages.clone().try_acquire_owned().map_err(no_place)?;
        let bytes = self.bytes.clone().try_acquire_many_owned(self.charge(bytes)).map_err(no_place)?;
        Ok(Place { _message: message, _bytes: bytes })
    }

    fn charge(&self, bytes: usize) -> u32 {
        u32::try_from(bytes).unwrap_or(u32::MAX).min(self.byte_capacity.load(Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window(messages: u64, bytes: u64) -> Window {
        let window = Window::new();
        window.grow_to(PublishWindow { messages, bytes });
        window
    }

    #[test]
    fn a_window_is_full_in_messages_or_in_bytes_and_a_dropped_place_makes_room() {
        let window = window(2, 10);
        let first = window.try_place(4).unwrap();
        assert_eq!(window.try_place(7).unwrap_err(), NoPlace::Full);
        let second = window.try_place(6).unwrap();
        assert_eq!(window.try_place(0).unwrap_err(), NoPlace::Full);
        drop(first);
        assert!(window.try_place(4).is_ok());
        drop(second);
    }

    #[test]
    fn a_message_larger_than_the_window_takes_all_of_it() {
        let window = window(2, 10);
        let place = window.try_place(1000).unwrap();
        assert_eq!(window.try_place(1).unwrap_err(), NoPlace::Full);
        drop(place);
        assert!(window.try_place(1).is_ok());
    }

    #[test]
    fn a_window_grows_and_never_shrinks() {
        let window = window(1, 1);
        window.grow_to(PublishWindow { messages: 2, bytes: 2 });
        window.grow_to(PublishWindow { messages: 1, bytes: 1 });
        let _places = [window.try_place(1).unwrap(), window.try_place(1).unwrap()];
        assert_eq!(window.try_place(0).unwrap_err(), NoPlace::Full);
    }

    #[tokio::test]
    async fn who_waits_for_a_place_learns_that_the_window_closes() {
        let window = Arc::new(window(1, 1));
        let _place = window.try_place(1).unwrap();
        let waiting = tokio::spawn({
            let window = window.clone();
            async move { window.place(1).await.map(drop) }
        });
        tokio::task::yield_now().await;
        window.close();
        assert_eq!(waiting.await.unwrap(), Err(NoPlace::Closed));
    }
}
