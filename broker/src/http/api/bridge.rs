//! The way from an HTTP request to a broker connection: a socket pair, of which the shard adopts one end as it does any
//! client's WebSocket, and this side speaks the client's part. So an event stream has an outbox, policies, credit and
//! books like every other connection, and backpressure comes by itself: what HTTP does not take stays in the pair.
//!
//! Both ends are ours, so this is the part of RFC 6455 that the broker writes (whole unmasked frames) and no more.

use std::{
    io,
    net::Shutdown,
    os::unix,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes, BytesMut};
use parking_lot::Mutex;
use socket2::SockRef;
use tokio::{
    net::{
        UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::Notify,
};

/// What the kernel may hold of what the shard writes, in bytes by its own count (which knows some overhead for each
/// write). Beyond it the connection is blocked, and its policies act.
const PAIR_BYTES: usize = 64 << 10;
/// How much is read at a time: a burst and its head.
const READ_BYTES: usize = 17 << 10;
/// Answers to pings that may wait behind a body, in bytes: one each ping interval.
const PONGS_BYTES: usize = 1 << 10;

/// What the broker said.
#[derive(Debug)]
pub(super) enum Heard {
    /// One WebSocket message: frames, one a line.
    Frames(Bytes),
    /// Its ping. It is answered already.
    Ping,
    /// It closes, with this code and reason.
    Close(u16, String),
    /// It is gone.
    End,
}

/// The reading side. When it is dropped, the connection ends.
#[derive(Debug)]
pub(super) struct Listener {
    half: OwnedReadHalf,
    /// Of a frame that has not come as a whole; empty while nothing is under way.
    partial: BytesMut,
    speaker: Arc<Speaker>,
}

/// The writing side. It never waits: what the pair does not take at once waits here, and nothing is to be
/// [said](Speaker::say) meanwhile.
#[derive(Debug)]
pub(super) struct Speaker {
    half: OwnedWriteHalf,
    waiting: Mutex<Waiting>,
    /// Told when nothing waits any more.
    room: Notify,
}

#[derive(Debug, Default)]
struct Waiting {
    bytes: Bytes,
    /// What comes behind `bytes`.
    pongs: Vec<u8>,
    flushing: bool,
}

/// A new pair: the shard's end, and ours.
///
/// # Errors
///
/// The kernel gives no socket.
pub(super) fn open() -> io::Result<(unix::net::UnixStream, Listener, Arc<Speaker>)> {
    let (theirs, ours) = unix::net::UnixStream::pair()?;
    SockRef::from(&theirs).set_send_buffer_size(PAIR_BYTES / 2)?;
    theirs.set_nonblocking(true)?;
    ours.set_nonblocking(true)?;
    let (read, write) = UnixStream::from_std(ours)?.into_split();
    let speaker = Arc::new(Speaker { half: write, waiting: Mutex::default(), room: Notify::new() });
    let listener = Listener { half: read, partial: BytesMut::new(), speaker: speaker.clone() };
    Ok((theirs, listener, speaker))
}

impl Listener {
    /// The next thing the broker says.
    pub(super) fn poll_heard(&mut self, context: &mut Context<'_>) -> Poll<Heard> {
        loop {
            match parse(&mut self.partial) {
                Parsed::Heard(Heard::Ping) => {
                    self.speaker.answer_ping();
                    return Poll::Ready(Heard::Ping);
                }
                Parsed::Heard(heard) => return Poll::Ready(heard),
                Parsed::Needs(bytes) => {
                    if self.partial.is_empty() {
                        self.partial = BytesMut::new();
                    }
                    let stream: &UnixStream = self.half.as_ref();
                    if ready!(stream.poll_read_ready(context)).is_err() {
                        return Poll::Ready(Heard::End);
                    }
                    self.partial.reserve(bytes.max(READ_BYTES));
                    match self.half.try_read_buf(&mut self.partial) {
                        Ok(0) => return Poll::Ready(Heard::End),
                        Ok(_) => {}
                        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                        Err(_) => return Poll::Ready(Heard::End),
                    }
                }
            }
        }
    }

    /// Answers the broker's close frame.
    pub(super) fn answer_close(&self, code: u16) {
        self.speaker.put(|waiting| push_frame(&mut waiting.pongs, CLOSE, &code.to_be_bytes()));
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        // The speaker may live on for a moment in a request that brings frames. It fails only where the broker has gone.
        let stream: &UnixStream = self.half.as_ref();
        let _ = SockRef::from(stream).shutdown(Shutdown::Both);
    }
}

impl Speaker {
    /// Whether all that was said is handed over.
    pub(super) fn has_room(&self) -> bool {
        self.waiting.lock().bytes.is_empty()
    }

    /// Waits until [`has_room`](Self::has_room) may be true.
    pub(super) fn room(&self) -> tokio::sync::futures::Notified<'_> {
        self.room.notified()
    }

    /// Says one message, behind what waits.
    pub(super) fn say(self: &Arc<Self>, message: &[u8]) {
        let mut frame = Vec::with_capacity(message.len() + 14);
        push_frame(&mut frame, TEXT, message);
        self.put(|waiting| {
            waiting.bytes = if waiting.bytes.is_empty() && waiting.pongs.is_empty() {
                frame.into()
            } else {
                let pongs = std::mem::take(&mut waiting.pongs);
                [&waiting.bytes[..], &pongs, &frame].concat().into()
            };
        });
    }

    fn answer_ping(self: &Arc<Self>) {
        self.put(|waiting| {
            if waiting.pongs.len() < PONGS_BYTES {
                push_frame(&mut waiting.pongs, PONG, &[]);
            }
        });
    }

    fn put(self: &Arc<Self>, put: impl FnOnce(&mut Waiting)) {
        let mut waiting = self.waiting.lock();
        put(&mut waiting);
        self.flush(&mut waiting);
        if !waiting.bytes.is_empty() && !waiting.flushing {
            waiting.flushing = true;
            drop(waiting);
            let speaker = self.clone();
            tokio::task::spawn_local(async move { speaker.flush_all().await });
        }
    }

    async fn flush_all(&self) {
        while self.half.writable().await.is_ok() {
            let mut waiting = self.waiting.lock();
            self.flush(&mut waiting);
            if waiting.bytes.is_empty() {
                waiting.flushing = false;
                break;
            }
        }
        self.room.notify_waiters();
    }

    /// Hands over what the pair takes now.
    fn flush(&self, waiting: &mut Waiting) {
        loop {
            if waiting.bytes.is_empty() {
                if waiting.pongs.is_empty() {
                    return;
                }
                waiting.bytes = std::mem::take(&mut waiting.pongs).into();
            }
            match self.half.try_write(&waiting.bytes) {
                Ok(taken) => waiting.bytes.advance(taken),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                // The broker has let go: nobody is to hear it.
                Err(_) => *waiting = Waiting { flushing: waiting.flushing, ..Waiting::default() },
            }
        }
    }
}

const TEXT: u8 = 1;
const CLOSE: u8 = 8;
const PING: u8 = 9;
const PONG: u8 = 10;
const FINAL: u8 = 0x80;
const MASKED: u8 = 0x80;

/// Appends a client's frame. It is masked as it must be (RFC 6455, section 5.3), with zeros: no proxy sees it.
fn push_frame(out: &mut Vec<u8>, opcode: u8, payload: &[u8]) {
    out.push(FINAL | opcode);
    match payload.len() {
        short @ 0..=125 => out.push(MASKED | short as u8),
        middle @ 126..=0xffff => {
            out.push(MASKED | 126);
            out.extend_from_slice(&(middle as u16).to_be_bytes());
        }
        long => {
            out.push(MASKED | 127);
            out.extend_from_slice(&(long as u64).to_be_bytes());
        }
    }
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(payload);
}

enum Parsed {
    Heard(Heard),
    /// A frame is not there as a whole: so many more bytes are needed, at least.
    Needs(usize),
}

/// Takes a frame off the front.
fn parse(bytes: &mut BytesMut) -> Parsed {
    let (head, length) = match bytes[..] {
        [_, 126, high, low, ..] => (4, u16::from_be_bytes([high, low]).into()),
        [_, 127, a, b, c, d, e, f, g, h, ..] => (10, u64::from_be_bytes([a, b, c, d, e, f, g, h]) as usize),
        [_, length @ 0..=125, ..] => (2, length.into()),
        _ => return Parsed::Needs(1),
    };
    if bytes.len() < head + length {
        return Parsed::Needs(head + length - bytes.len());
    }
    let opcode = bytes[0] & 0x0f;
    bytes.advance(head);
    let payload = bytes.split_to(length);
    Parsed::Heard(match opcode {
        PING => Heard::Ping,
        CLOSE => match payload[..] {
            [high, low, ref reason @ ..] => {
                Heard::Close(u16::from_be_bytes([high, low]), String::from_utf8_lossy(reason).into_owned())
            }
            _ => Heard::End,
        },
        _ => Heard::Frames(payload.freeze()),
    })
}

#[cfg(test)]
mod tests {
    use std::{future::poll_fn, io::Read as _};

    use tokio::task::LocalSet;

    use super::*;
    use crate::websocket::{
        Opcode,
        writer::{push_close, push_frame as push_broker_frame},
    };

    fn on_a_runtime(test: impl Future<Output = ()>) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        LocalSet::new().block_on(&runtime, test);
    }

    async fn heard(listener: &mut Listener) -> Heard {
        poll_fn(|context| listener.poll_heard(context)).await
    }

    #[test]
    fn frames_of_every_length_are_heard_however_they_are_cut() {
        on_a_runtime(async {
            let (theirs, mut listener, _) = open().unwrap();
            let lengths = [0, 1, 125, 126, 4000, 65_535, 65_536, 300_000];
            let mut bytes = Vec::new();
            for length in lengths {
                push_broker_frame(&mut bytes, Opcode::Text, &vec![b'x'; length]);
                push_broker_frame(&mut bytes, Opcode::Ping, &[]);
            }
            push_close(&mut bytes, Some(4008), "slow");
            let theirs = UnixStream::from_std(theirs).unwrap();
            let writing = tokio::task::spawn_local(async move {
                for (at, piece) in bytes.chunks(4999).enumerate() {
                    let mut piece = piece;
                    while !piece.is_empty() {
                        theirs.writable().await.unwrap();
                        piece = &piece[theirs.try_write(piece).unwrap_or(0)..];
                    }
                    if at % 3 == 0 {
                        tokio::task::yield_now().await;
                    }
                }
                theirs
            });
            for length in lengths {
                let Heard::Frames(frames) = heard(&mut listener).await else { panic!("{length}") };
                assert_eq!(frames.len(), length);
                assert!(matches!(heard(&mut listener).await, Heard::Ping));
            }
            let Heard::Close(4008, reason) = heard(&mut listener).await else { panic!() };
            assert_eq!(reason, "slow");
            let theirs = writing.await.unwrap();
            assert!(poll_fn(|context| Poll::Ready(listener.poll_heard(context).is_pending())).await);
            assert_eq!(listener.partial.capacity(), 0, "nothing is kept while nothing is under way");
            drop(theirs);
            assert!(matches!(heard(&mut listener).await, Heard::End));
        });
    }

    #[test]
    fn what_the_pair_does_not_take_waits_and_goes_in_order() {
        on_a_runtime(async {
            let (mut theirs, listener, speaker) = open().unwrap();
            let mut want = Vec::new();
            let mut said = 0u8;
            while speaker.has_room() {
                let message = vec![said; 40_000];
                push_frame(&mut want, TEXT, &message);
                speaker.say(&message);
                said += 1;
            }
            speaker.answer_ping();
            push_frame(&mut want, PONG, &[]);
            speaker.say(b"behind it");
            push_frame(&mut want, TEXT, b"behind it");
            let (length, room) = (want.len(), speaker.room());
            tokio::pin!(room);
            room.as_mut().enable();
            theirs.set_nonblocking(false).unwrap();
            let reading = std::thread::spawn(move || {
                let mut got = vec![0; length];
                theirs.read_exact(&mut got).map(|()| (got, theirs))
            });
            room.await;
            let (got, mut theirs) = reading.join().unwrap().unwrap();
            assert!(got == want, "not what was said");
            drop(listener);
            assert_eq!(theirs.read(&mut [0; 1]).unwrap(), 0, "without a reader the connection ends");
            speaker.say(b"to nobody");
            assert!(speaker.has_room());
        });
    }
}
