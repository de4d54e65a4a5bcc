//! The sessions of the SDK's fallback: one stream of events down, and requests up that bring frames in order.

use std::{collections::HashMap, sync::Arc, time::Duration};

use parking_lot::Mutex;

use super::{super::refusal::Refusal, bridge::Speaker};

/// How long frames wait for room before they are refused. Shorter than clients and proxies wait for an answer.
const ROOM_TIMEOUT: Duration = Duration::from_secs(5);

/// The sessions of the whole process, by their secrets: the request that brings frames may come to another shard.
/// As many as there are connections of this kind.
#[derive(Debug, Default)]
pub(crate) struct Sessions(Mutex<HashMap<u128, Arc<Session>>>);

/// One session: where its frames go, and how many requests have brought some.
#[derive(Debug)]
pub(super) struct Session {
    speaker: Arc<Speaker>,
    taken: Mutex<u64>,
}

/// While it lives, so does the session.
pub(super) struct Guard {
    sessions: Arc<Sessions>,
    secret: u128,
}

/// What came of frames that were brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Brought {
    /// They are on their way, now or since an earlier request with this number.
    Taken,
    /// The request before this one is missing.
    Hole { expected: u64 },
    /// Those before them have not all been taken.
    Full,
}

impl Sessions {
    /// A new session; its secret, in hexadecimal, is all that says whose it is.
    pub(super) fn open(self: &Arc<Self>, speaker: Arc<Speaker>) -> Result<(Guard, String), Refusal> {
        let mut secret = [0; 16];
        getrandom::fill(&mut secret)
            .map_err(|_| Refusal::unavailable("there is no randomness for a session"))?;
        let secret = u128::from_be_bytes(secret);
        self.0.lock().insert(secret, Arc::new(Session { speaker, taken: Mutex::new(0) }));
        Ok((Guard { sessions: self.clone(), secret }, format!("{secret:032x}")))
    }

    /// The session with this secret.
    pub(super) fn find(&self, secret: &str) -> Option<Arc<Session>> {
        let plain =
            secret.len() == 32 && secret.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        let secret = u128::from_str_radix(secret, 16).ok().filter(|_| plain)?;
        self.0.lock().get(&secret).cloned()
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.sessions.0.lock().remove(&self.secret);
    }
}

impl Session {
    /// Takes the frames of request number `seq`, once; waits a while for room.
    pub(super) async fn bring(&self, seq: u64, frames: &[u8]) -> Result<(), Refusal> {
        let deadline = tokio::time::Instant::now() + ROOM_TIMEOUT;
        loop {
            let room = self.speaker.room();
            tokio::pin!(room);
            // From here on no room is missed.
            room.as_mut().enable();
            match self.take(seq, frames) {
                Brought::Taken => return Ok(()),
                Brought::Hole { expected } => {
                    let message = format!("request {seq} came where {expected} was to come");
                    return Err(Refusal::new(hyper::StatusCode::CONFLICT, "sequence_hole", message));
                }
                Brought::Full => {}
            }
            if tokio::time::timeout_at(deadline, room).await.is_err() {
                return Err(Refusal::unavailable("the frames before these have not all been taken"));
            }
        }
    }

    fn take(&self, seq: u64, frames: &[u8]) -> Brought {
        let mut taken = self.taken.lock();
        if seq <= *taken {
            return Brought::Taken;
        }
        if seq != *taken + 1 {
            return Brought::Hole { expected: *taken + 1 };
        }
        if !self.speaker.has_room() {
            return Brought::Full;
        }
        *taken = seq;
        if !frames.trim_ascii().is_empty() {
            self.speaker.say(frames);
        }
        Brought::Taken
    }
}
