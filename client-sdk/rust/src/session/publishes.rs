//! Publishes whose ack has not come: the window, the order, what goes again and what cannot.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use tidegate_protocol::{
    ClientFrame, ErrorCode,
    frame::{Publish, PublishWindow, Published},
};

use crate::{
    command::{Idempotency, PublishCommand, Reply},
    error::{PublishError, PublishErrorKind},
    stats::Counters,
    window::Place,
};

/// How long after a publish was first sent it may still be sent again. The broker remembers an idempotency key for
/// 2 minutes; the rest is for the repeat to get there.
const REPEATABLE: Duration = Duration::from_secs(110);

/// Publishes in the order they were asked for. Those at the front were sent on this connection, the others were not.
#[derive(Debug)]
pub(super) struct Publishes {
    queue: VecDeque<Unacked>,
    /// How many at the front were sent on this connection.
    sent: usize,
    in_flight: PublishWindow,
    key_prefix: String,
    next_key: u64,
}

#[derive(Debug)]
struct Unacked {
    /// Always [`ClientFrame::Publish`], ready to be written. Its id is this connection's.
    frame: ClientFrame,
    reply: Reply<Published, PublishError>,
    /// Given back to the publish window with this.
    _place: Place,
    /// Absent if no broker can have seen it.
    first_sent: Option<Instant>,
    /// Whether the broker refused it for now: it is sent, but not in flight.
    refused: bool,
}

impl Unacked {
    fn publish(&self) -> &Publish {
        match &self.frame {
            ClientFrame::Publish(publish) => publish,
            _ => unreachable!("only publishes are queued here"),
        }
    }

    fn id(&self) -> u64 {
        self.publish().id.unwrap_or(0)
    }

    fn bytes(&self) -> u64 {
        self.publish().payload.len() as u64
    }

    fn settle(self, result: Result<Published, PublishError>, counters: &Counters) {
        match result {
            Ok(_) => counters.acknowledged.add(1),
            Err(_) => counters.failed.add(1),
        }
        // Who asked may have gone.
        let _ = self.reply.send(result);
    }

    fn fail(self, kind: PublishErrorKind, counters: &Counters) {
        self.settle(Err(PublishError::new(kind)), counters);
    }
}

impl Publishes {
    /// `key_prefix` tells this client's idempotency keys from those of another with the same instance.
    pub(super) fn new(key_prefix: String) -> Self {
        let in_flight = PublishWindow { messages: 0, bytes: 0 };
        Self { queue: VecDeque::new(), sent: 0, in_flight, key_prefix, next_key: 0 }
    }

    pub(super) fn push(&mut self, command: PublishCommand) {
        let idempotency = match command.idempotency {
            Idempotency::Key(key) => Some(key),
            Idempotency::Off => None,
            Idempotency::Automatic => {
                self.next_key += 1;
                Some(format!("{}-{:x}", self.key_prefix, self.next_key).into())
            }
        };
        let frame = ClientFrame::Publish(Publish {
            id: None,
            topic: command.topic,
            payload: command.payload,
            key: command.key,
            headers: command.headers,
            idempotency,
            report: command.report,
        });
        self.queue.push_back(Unacked {
            frame,
            reply: command.reply,
            _place: command.place,
            first_sent: None,
            refused: false,
        });
    }

    /// The next one to write, now with `id`, if the broker's window has room for it. What waited too long for it
    /// fails.
    pub(super) fn send_next(
        &mut self,
        id: u64,
        window: PublishWindow,
        now: Instant,
        counters: &Counters,
    ) -> Option<&ClientFrame> {
        while self.queue.get(self.sent).is_some_and(|next| is_forgotten(next, now)) {
            self.remove(self.sent)?.fail(PublishErrorKind::OutcomeUnknown, counters);
        }
        let next = self.queue.get_mut(self.sent)?;
        let bytes = next.bytes();
        let messages_full = self.in_flight.messages >= window.messages.max(1);
        // A message larger than the window goes alone.
        let bytes_full = self.in_flight.bytes > 0 && self.in_flight.bytes + bytes > window.bytes;
        if messages_full || bytes_full {
            return None;
        }
        self.in_flight.messages += 1;
        self.in_flight.bytes += bytes;
        self.sent += 1;
        match next.first_sent {
            Some(_) => counters.resent.add(1),
            None => {
                next.first_sent = Some(now);
                counters.published.add(1);
            }
        }
        if let ClientFrame::Publish(publish) = &mut next.frame {
            publish.id = Some(id);
        }
        Some(&next.frame)
    }

    /// The one that was to be written is larger than the broker takes.
    pub(super) fn refuse_last(&mut self, counters: &Counters) {
        if let Some(last) = self.sent.checked_sub(1).and_then(|last| self.remove(last)) {
            last.fail(PublishErrorKind::TooLarge, counters);
        }
    }

    pub(super) fn on_ack(&mut self, id: u64, published: Published, counters: &Counters) {
        if let Some(acked) = self.take_sent(id) {
            acked.settle(Ok(published), counters);
        }
    }

    /// True if `id` is a publish's.
    pub(super) fn on_error(&mut self, id: u64, code: ErrorCode, message: &str, counters: &Counters) -> bool {
        let Some(at) = self.position(id) else { return false };
        if code == ErrorCode::Draining {
            // It was not published, and neither was what came after it: all of it goes to the next broker, in order.
            let refused = &mut self.queue[at];
            if !refused.refused {
                (refused.refused, refused.first_sent) = (true, None);
                let bytes = refused.bytes();
                self.land(bytes);
            }
        } else if let Some(refused) = self.remove(at) {
            let kind = match code {
                ErrorCode::OutcomeUnknown => PublishErrorKind::OutcomeUnknown,
                ErrorCode::PayloadTooLarge => PublishErrorKind::TooLarge,
                code => PublishErrorKind::Refused(code),
            };
            refused.settle(Err(PublishError::with_detail(kind, message)), counters);
        }
        true
    }

    /// The connection is gone: what was sent goes again, but what has no key to be known by.
    pub(super) fn on_disconnected(&mut self, counters: &Counters) {
        self.in_flight = PublishWindow { messages: 0, bytes: 0 };
        self.sent = 0;
        let lost =
            |unacked: &Unacked| unacked.first_sent.is_some() && unacked.publish().idempotency.is_none();
        for mut unacked in std::mem::take(&mut self.queue) {
            if lost(&unacked) {
                unacked.fail(PublishErrorKind::OutcomeUnknown, counters);
            } else {
                unacked.refused = false;
                self.queue.push_back(unacked);
            }
        }
    }

    /// Fails what can no longer be sent again. Only while there is no connection.
    pub(super) fn expire(&mut self, now: Instant, counters: &Counters) {
        while let Some(at) = self.queue.iter().skip(self.sent).position(|unacked| is_forgotten(unacked, now))
        {
            let Some(expired) = self.remove(self.sent + at) else { return };
            expired.fail(PublishErrorKind::OutcomeUnknown, counters);
        }
    }

    /// When [`Publishes::expire`] has something to do.
    pub(super) fn deadline(&self) -> Option<Instant> {
        // Sent in order, so the first is the oldest; one that was refused for now has no time and is passed over.
        self.queue.iter().skip(self.sent).find_map(|unacked| unacked.first_sent).map(|sent| sent + REPEATABLE)
    }

    /// The client ends.
    pub(super) fn fail_all(&mut self, counters: &Counters) {
        for unacked in std::mem::take(&mut self.queue) {
            let kind = match unacked.first_sent {
                Some(_) => PublishErrorKind::OutcomeUnknown,
                None => PublishErrorKind::Closed,
            };
            unacked.fail(kind, counters);
        }
        self.sent = 0;
    }

    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    pub(super) fn in_flight(&self) -> u64 {
        self.in_flight.messages
    }

    fn take_sent(&mut self, id: u64) -> Option<Unacked> {
        let at = self.position(id)?;
        self.remove(at)
    }

    /// Acks come nearly always in order: look at the first before searching.
    fn position(&self, id: u64) -> Option<usize> {
        if self.sent > 0 && self.queue[0].id() == id {
            return Some(0);
        }
        // Ids of what was sent grow.
        let (mut low, mut high) = (0, self.sent);
        while low < high {
            let middle = low + (high - low) / 2;
            match self.queue[middle].id().cmp(&id) {
                std::cmp::Ordering::Equal => return Some(middle),
                std::cmp::Ordering::Less => low = middle + 1,
                std::cmp::Ordering::Greater => high = middle,
            }
        }
        None
    }

    fn remove(&mut self, at: usize) -> Option<Unacked> {
        let removed = self.queue.remove(at)?;
        if at < self.sent {
            self.sent -= 1;
            if !removed.refused {
                self.land(removed.bytes());
            }
        }
        Some(removed)
    }

    fn land(&mut self, bytes: u64) {
        self.in_flight.messages = self.in_flight.messages.saturating_sub(1);
        self.in_flight.bytes = self.in_flight.bytes.saturating_sub(bytes);
    }
}

/// Whether the broker may have forgotten its idempotency key.
fn is_forgotten(unacked: &Unacked, now: Instant) -> bool {
    unacked.first_sent.is_some_and(|sent| now.saturating_duration_since(sent) >= REPEATABLE)
}
