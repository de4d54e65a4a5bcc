//! The closing handshake (RFC 6455, section 7): each side says goodbye once, then the server lets the socket go.

use std::time::{Duration, Instant};

/// Who has said goodbye. It moves no bytes: the connection queues the close frame when told to, and says when it is
/// written.
#[derive(Debug, Default)]
pub struct CloseHandshake {
    state: State,
}

#[derive(Debug, Default)]
enum State {
    #[default]
    Open,
    Closing {
        since: Instant,
        /// Whether the kernel has our close frame.
        written: bool,
        peer: Peer,
    },
    /// The socket is of no further use.
    Ended,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Peer {
    /// Its close frame is still to come.
    Awaited,
    /// It said goodbye, or its stream ended.
    Closed,
    /// It broke the protocol, so its close frame could not be told from anything else: only the end of its stream can.
    Unreadable,
}

impl CloseHandshake {
    /// We want to close. Whether a close frame is to be sent: only the first time, and not after an answer.
    #[must_use]
    pub fn on_close(&mut self, now: Instant) -> bool {
        self.begin(now, Peer::Awaited)
    }

    /// The peer broke the protocol. Whether a close frame is to be sent. What it sends from now on means nothing.
    #[must_use]
    pub fn on_violation(&mut self, now: Instant) -> bool {
        if let State::Closing { peer, .. } = &mut self.state {
            *peer = Peer::Unreadable;
        }
        self.begin(now, Peer::Unreadable)
    }

    /// The peer's close frame came. Whether it is to be answered with one of ours.
    #[must_use]
    pub fn on_peer_close(&mut self, now: Instant) -> bool {
        if let State::Closing { peer, .. } = &mut self.state {
            *peer = Peer::Closed;
        }
        self.begin(now, Peer::Closed)
    }

    /// The kernel took the whole of our close frame. Whether our side of the stream is to be shut down: a peer that
    /// broke the protocol is told that nothing more comes, and what it still sends is read and thrown away, for a
    /// socket closed with bytes unread is reset, and the reset overtakes the close frame.
    #[must_use]
    pub fn on_written(&mut self) -> bool {
        let State::Closing { written, peer, .. } = &mut self.state else {
            return false;
        };
        *written = true;
        *peer == Peer::Unreadable
    }

    /// The peer's stream ended. A close frame of ours that waits to be written is still written: a peer may shut down
    /// its side and read on.
    pub fn on_end(&mut self) {
        match &mut self.state {
            State::Closing { peer, .. } => *peer = Peer::Closed,
            state => *state = State::Ended,
        }
    }

    /// The socket failed.
    pub fn on_failure(&mut self) {
        self.state = State::Ended;
    }

    /// Whether messages may still be sent and delivered.
    pub fn is_open(&self) -> bool {
        matches!(self.state, State::Open)
    }

    /// When the first close frame was queued or came. A socket that is not done `close_timeout` later is dropped.
    pub fn closing_since(&self) -> Option<Instant> {
        match self.state {
            State::Closing { since, .. } => Some(since),
            State::Open | State::Ended => None,
        }
    }

    /// Whether the socket is to be closed now: both have said goodbye, the stream ended, or `close_timeout` is over.
    /// The server closes first, so that the client is not the one left with a socket in TIME_WAIT (section 7.1.1).
    pub fn is_done(&self, now: Instant, close_timeout: Duration) -> bool {
        match self.state {
            State::Open => false,
            State::Closing { written: true, peer: Peer::Closed, .. } | State::Ended => true,
            State::Closing { since, .. } => now.saturating_duration_since(since) >= close_timeout,
        }
    }

    fn begin(&mut self, now: Instant, peer: Peer) -> bool {
        let open = self.is_open();
        if open {
            self.state = State::Closing { since: now, written: false, peer };
        }
        open
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(1);

    #[test]
    fn a_close_of_ours_is_sent_once_and_waits_for_the_answer() {
        let (mut close, now) = (CloseHandshake::default(), Instant::now());
        assert!(close.is_open());
        assert!(close.on_close(now));
        assert!(!close.on_close(now), "only one close frame is ever sent");
        assert!(!close.is_open());
        assert!(!close.on_written(), "the peer's answer is still to be read");
        assert!(!close.is_done(now, TIMEOUT));
        assert!(!close.on_peer_close(now), "the answer to ours is not answered");
        assert!(close.is_done(now, TIMEOUT));
    }

    #[test]
    fn a_close_of_the_peer_is_answered_once_and_ends_when_the_answer_is_written() {
        let (mut close, now) = (CloseHandshake::default(), Instant::now());
        assert!(close.on_peer_close(now));
        assert!(!close.on_peer_close(now));
        assert!(!close.on_close(now));
        assert!(!close.is_done(now, TIMEOUT), "the answer is not written");
        assert!(!close.on_written());
        assert!(close.is_done(now, TIMEOUT));
    }

    #[test]
    fn closes_that_cross_are_a_whole_handshake() {
        let (mut close, now) = (CloseHandshake::default(), Instant::now());
        assert!(close.on_close(now));
        assert!(!close.on_peer_close(now));
        assert!(!close.is_done(now, TIMEOUT), "ours is not written");
        assert!(!close.on_written());
        assert!(close.is_done(now, TIMEOUT));
    }

    #[test]
    fn a_peer_that_never_answers_is_dropped_after_the_timeout() {
        let (mut close, now) = (CloseHandshake::default(), Instant::now());
        assert!(close.on_close(now));
        assert!(!close.on_written());
        assert!(!close.is_done(now + TIMEOUT - Duration::from_nanos(1), TIMEOUT));
        assert!(close.is_done(now + TIMEOUT, TIMEOUT));
    }

    #[test]
    fn a_socket_that_takes_no_close_frame_is_dropped_after_the_timeout() {
        let (mut close, now) = (CloseHandshake::default(), Instant::now());
        assert!(close.on_peer_close(now));
        assert!(close.is_done(now + TIMEOUT, TIMEOUT));
    }

    #[test]
    fn after_a_violation_our_side_is_shut_and_only_the_end_of_the_stream_counts() {
        let (mut close, now) = (CloseHandshake::default(), Instant::now());
        assert!(close.on_violation(now));
        assert!(close.on_written(), "shut down our side");
        assert!(!close.is_done(now, TIMEOUT));
        close.on_end();
        assert!(close.is_done(now, TIMEOUT));
    }

    #[test]
    fn a_close_frame_that_waits_is_written_though_the_peers_side_is_shut() {
        let (mut close, now) = (CloseHandshake::default(), Instant::now());
        assert!(close.on_peer_close(now));
        close.on_end();
        assert!(!close.is_done(now, TIMEOUT));
        assert!(!close.on_written());
        assert!(close.is_done(now, TIMEOUT));
    }

    #[test]
    fn a_stream_that_ends_or_fails_without_a_close_frame_is_done_at_once() {
        let (mut ended, mut failed, now) =
            (CloseHandshake::default(), CloseHandshake::default(), Instant::now());
        ended.on_end();
        assert!(ended.is_done(now, TIMEOUT));
        assert!(failed.on_close(now));
        failed.on_failure();
        assert!(failed.is_done(now, TIMEOUT));
    }

    #[test]
    fn a_violation_after_our_close_sends_no_second_one() {
        let (mut close, now) = (CloseHandshake::default(), Instant::now());
        assert!(close.on_close(now));
        assert!(!close.on_violation(now));
        assert!(close.on_written());
        assert!(close.is_done(now + TIMEOUT, TIMEOUT));
    }
}
