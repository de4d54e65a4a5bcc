//! The shell around one upgraded socket: it moves bytes and keeps RFC 6455; what the messages mean it does not know.
//!
//! It never waits. Reading queues what must be answered (pongs, the closing handshake) and writing sends it, so the two
//! meet only in [`Connection::has_pending`]. Time is an argument.

use std::{
    io::{self, Read as _, Write as _},
    net::Shutdown,
    ops::ControlFlow,
    time::{Duration, Instant},
};

use bytes::Bytes;
use mio::net::TcpStream;
use socket2::SockRef;
use tidegate_protocol::CloseCode;

use crate::websocket::{
    CloseHandshake, Event, FrameReader, Kind, Opcode, ReaderLimits, Violation,
    writer::{push_close, push_frame},
};

/// The answers to pings that may wait for one connection, in bytes with their heads. Room for a burst: Autobahn's 2.10
/// wants each of ten pings answered, where the RFC asks for the last one's answer only.
const PONG_BYTES: usize = 2048;
/// Data up to so many bytes is copied behind what is pending, to be one write with it.
const JOINED_BYTES: usize = 4096;

/// One WebSocket connection over a non-blocking socket that its owner polls edge-triggered.
///
/// About a hundred bytes while nothing is under way.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    /// The peer will send no further bytes than the socket holds now.
    read_closed: bool,
    reader: FrameReader,
    handshake: CloseHandshake,
    /// What was read from the socket and not yet taken: behind the upgrade request, or kept.
    unread: Option<Box<Unread>>,
    /// What goes to the socket before any data.
    pending: Option<Box<Pending>>,
    last_heard: Instant,
    stalled_since: Option<Instant>,
}

/// What [`Connection::fill`] put into the buffer, and what is to be done when it is taken.
#[derive(Debug)]
#[must_use]
pub struct Filled {
    /// So much of the buffer, from its beginning, goes to [`Connection::take`].
    pub bytes: usize,
    /// How the socket stands behind them.
    pub then: Then,
}

/// How a socket stands after a read.
#[derive(Debug)]
pub enum Then {
    /// Drained: wait until it is readable.
    Wait,
    /// There may be more: fill again, no event will tell.
    More,
    /// The peer's stream ended. Drop the connection when it [is done](Connection::is_done), and fill on until then.
    Closed(End),
}

/// How far [`Connection::take`] came.
#[derive(Debug)]
#[must_use]
pub enum Taken {
    /// All of it, and the stream goes on.
    All,
    /// So many bytes, since a message was answered with a break: the others are untouched.
    Broke(usize),
    /// All of it; the peer will send no further message. Told once: what comes behind is thrown away.
    Ended(End),
}

/// How the peer's side of a connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// It sent a close frame with this code, if it gave one; maybe as the answer to ours.
    Peer(Option<u16>),
    /// It broke the protocol; a close frame with this code is queued unless one of ours went before.
    Violation(Violation),
    /// Its stream ended, or failed with this error, without a close frame: what a browser calls 1006.
    Lost(Option<io::ErrorKind>),
}

/// What [`Connection::write`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub struct Written {
    /// How many bytes of `data` the kernel took: none while anything that was pending is not taken, and none after a
    /// close frame.
    pub taken: usize,
    /// Whether the socket takes no more for now: wait until it is writable.
    pub blocked: bool,
}

#[derive(Debug)]
struct Unread {
    bytes: Vec<u8>,
    /// Where what was not taken begins.
    at: usize,
}

/// What goes to the socket before any data.
#[derive(Debug, Default)]
struct Pending {
    /// The rest of a message that the kernel began, then whole control frames.
    bytes: Vec<u8>,
    /// How much of `bytes` the kernel has.
    at: usize,
    /// Answers to pings, at most [`PONG_BYTES`].
    pongs: Vec<u8>,
    ping: bool,
    /// A close frame that waits for the data before it.
    close: Option<Vec<u8>>,
    /// Whether the last of `bytes` is our close frame.
    closes: bool,
}

impl Connection {
    /// A connection over an upgraded socket. `leftover` is what the client sent right behind its request: call
    /// [`fill`](Self::fill) once without waiting for an event if it is not empty.
    pub fn new(stream: TcpStream, leftover: Bytes, now: Instant) -> Self {
        let unread = (!leftover.is_empty()).then(|| Box::new(Unread { bytes: leftover.into(), at: 0 }));
        Self {
            stream,
            read_closed: false,
            reader: FrameReader::new(),
            handshake: CloseHandshake::default(),
            unread,
            pending: None,
            last_heard: now,
            stalled_since: None,
        }
    }

    /// The socket, for registration and options.
    pub fn stream(&mut self) -> &mut TcpStream {
        &mut self.stream
    }

    /// To be called when an event says that the peer's side is closed (`mio::event::Event::is_read_closed`).
    ///
    /// A read that does not fill the scratch buffer has drained the socket, which saves a system call for each event;
    /// but the end of the stream may stand behind it, and that edge is told only once.
    pub fn on_read_closed(&mut self) {
        self.read_closed = true;
    }

    /// Reads once, what was [kept](Self::keep) first. What it read goes to [`take`](Self::take), in one piece or several,
    /// before the next call.
    pub fn fill(&mut self, buffer: &mut [u8], now: Instant) -> Filled {
        if let Some(mut unread) = self.unread.take() {
            let bytes = buffer.len().min(unread.bytes.len() - unread.at);
            buffer[..bytes].copy_from_slice(&unread.bytes[unread.at..][..bytes]);
            unread.at += bytes;
            if unread.at < unread.bytes.len() {
                self.unread = Some(unread);
            }
            return Filled { bytes, then: Then::More };
        }
        loop {
            let then = match self.stream.read(buffer) {
                Ok(0) => {
                    self.handshake.on_end();
                    Then::Closed(End::Lost(None))
                }
                Ok(bytes) => {
                    self.last_heard = now;
                    let drained = bytes < buffer.len() && !self.read_closed;
                    return Filled { bytes, then: if drained { Then::Wait } else { Then::More } };
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => Then::Wait,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => {
                    self.handshake.on_failure();
                    Then::Closed(End::Lost(Some(error.kind())))
                }
            };
            return Filled { bytes: 0, then };
        }
    }

    /// Gives each message of what was read to `on`. Where `on` breaks, it stops behind that message.
    ///
    /// Pings and close frames are answered by the next [`write`](Self::write); after a close frame of either side, or a
    /// violation, messages are thrown away.
    pub fn take(
        &mut self,
        input: &mut [u8],
        limits: &ReaderLimits,
        now: Instant,
        on: &mut dyn FnMut(Kind, &mut [u8]) -> ControlFlow<()>,
    ) -> Taken {
        let Self { reader, handshake, pending, .. } = self;
        let mut broke = false;
        let mut closed = None;
        let fed = reader.feed(input, limits, &mut |event| {
            match event {
                Event::Message { kind, data } if handshake.is_open() => {
                    let flow = on(kind, data);
                    broke = flow.is_break();
                    return flow;
                }
                Event::Ping(payload) if handshake.is_open() => {
                    pending.get_or_insert_default().push_pong(payload);
                }
                Event::Message { .. } | Event::Ping(_) | Event::Pong(_) => {}
                Event::Close(code, _) => {
                    if handshake.on_peer_close(now) {
                        queue_close(pending, code, "");
                    }
                    closed = Some(End::Peer(code));
                }
            }
            ControlFlow::Continue(())
        });
        match (fed, closed) {
            (Ok(used), _) if broke => Taken::Broke(used),
            (Ok(_), Some(end)) => Taken::Ended(end),
            (Ok(_), None) => Taken::All,
            (Err(violation), _) => {
                if handshake.on_violation(now) {
                    queue_close(pending, Some(violation.code.number()), violation.reason);
                } else if pending.is_none() && handshake.on_written() {
                    // Our close frame went before: there is nothing left to say.
                    shut_down(&self.stream);
                }
                Taken::Ended(End::Violation(violation))
            }
        }
    }

    /// Keeps the end of what [`fill`](Self::fill) gave last, which was not taken: backpressure. The next one begins
    /// with it.
    pub fn keep(&mut self, rest: &[u8]) {
        match &mut self.unread {
            _ if rest.is_empty() => {}
            Some(unread) => unread.at -= rest.len(),
            None => self.unread = Some(Box::new(Unread { bytes: rest.to_vec(), at: 0 })),
        }
    }

    /// Sends what is pending, then `data`: whole WebSocket messages, one behind the other; then, if a close frame waits
    /// and all of `data` is taken, that. So what was to be said before a close can be, and with no `data` it goes at once.
    ///
    /// Where the kernel took only part of a message of `data`, hand its rest to [`keep_partial`](Self::keep_partial).
    ///
    /// # Errors
    ///
    /// The socket failed; the connection [is done](Self::is_done).
    pub fn write(&mut self, data: &[u8], now: Instant) -> io::Result<Written> {
        let written = self.write_out(data);
        match written {
            // Progress or the beginning of a stall; one that goes on keeps its time.
            Ok((written, progress)) => {
                if !written.blocked {
                    self.stalled_since = None;
                } else if progress || self.stalled_since.is_none() {
                    self.stalled_since = Some(now);
                }
                Ok(written)
            }
            Err(error) => {
                self.handshake.on_failure();
                Err(error)
            }
        }
    }

    /// Takes over the rest of a WebSocket message that the kernel has begun. It goes first from now on.
    pub fn keep_partial(&mut self, rest: &[u8]) {
        if !rest.is_empty() {
            self.pending.get_or_insert_default().bytes.extend_from_slice(rest);
        }
    }

    /// Queues a ping unless one is waiting.
    pub fn ping(&mut self) {
        if self.handshake.is_open() {
            self.pending.get_or_insert_default().ping = true;
        }
    }

    /// Begins the closing handshake, unless one is under way: a close frame goes behind what is pending and the data of
    /// the next [`write`](Self::write), and nothing goes after it. The reason is cut at 123 bytes.
    pub fn close(&mut self, code: CloseCode, reason: &str, now: Instant) {
        if self.handshake.on_close(now) {
            queue_close(&mut self.pending, Some(code.number()), reason);
        }
    }

    /// Whether [`write`](Self::write) has something of its own to send.
    pub fn has_pending(&self) -> bool {
        self.pending.is_some()
    }

    /// Whether neither side has begun to close: messages may still be sent.
    pub fn is_open(&self) -> bool {
        self.handshake.is_open()
    }

    /// Whether to drop it now: both sides have said goodbye, the stream ended, or `close_timeout` is over.
    pub fn is_done(&self, now: Instant, close_timeout: Duration) -> bool {
        self.handshake.is_done(now, close_timeout)
    }

    /// Since when a closing handshake is under way: [`is_done`](Self::is_done) at the latest `close_timeout` later.
    pub fn closing_since(&self) -> Option<Instant> {
        self.handshake.closing_since()
    }

    /// When bytes last came from the peer, of whatever frame.
    pub fn last_heard(&self) -> Instant {
        self.last_heard
    }

    /// Since when the socket has taken nothing though there was something to send; `None` where nothing waits.
    pub fn stalled_since(&self) -> Option<Instant> {
        self.stalled_since
    }

    /// The bytes it holds, for a budget of memory: of incomplete messages, not yet read, not yet written.
    pub fn buffered(&self) -> usize {
        let unread = self.unread.as_ref().map_or(0, |unread| unread.bytes.capacity());
        let pending = self
            .pending
            .as_ref()
            .map_or(0, |pending| size_of::<Pending>() + pending.bytes.capacity() + pending.pongs.capacity());
        self.reader.buffered() + unread + pending
    }

    /// Sends what is pending, then data, then a close frame. Says also whether the kernel took anything.
    fn write_out(&mut self, data: &[u8]) -> io::Result<(Written, bool)> {
        let mut progress = false;
        let mut taken = 0;
        let before_close = self.pending.as_ref().is_some_and(|pending| pending.close.is_some());
        let takes_data = !data.is_empty() && (self.handshake.is_open() || before_close);
        if let Some(pending) = &mut self.pending
            && takes_data
            && data.len() <= JOINED_BYTES
        {
            taken = pending.send_with(data, &mut self.stream, &mut progress)?;
        }
        if !self.write_pending(&mut progress)? {
            return Ok((Written { taken, blocked: true }, progress));
        }
        if takes_data && taken < data.len() {
            taken += send(&mut self.stream, &data[taken..])?;
            progress |= taken > 0;
            if taken < data.len() {
                return Ok((Written { taken, blocked: true }, progress));
            }
        }
        if let Some(pending) = &mut self.pending
            && let Some(close) = pending.close.take()
        {
            pending.bytes = close;
            pending.at = 0;
            pending.closes = true;
        }
        let blocked = !self.write_pending(&mut progress)?;
        Ok((Written { taken, blocked }, progress))
    }

    /// Sends what is pending but a close frame that waits. Whether the kernel took all of it.
    fn write_pending(&mut self, progress: &mut bool) -> io::Result<bool> {
        while let Some(pending) = &mut self.pending {
            if pending.at < pending.bytes.len() {
                let taken = send(&mut self.stream, &pending.bytes[pending.at..])?;
                *progress |= taken > 0;
                pending.at += taken;
                if pending.at < pending.bytes.len() {
                    return Ok(false);
                }
            }
            if pending.refill() {
                continue;
            }
            if pending.close.is_none() {
                let closes = pending.closes;
                self.pending = None;
                if closes && self.handshake.on_written() {
                    shut_down(&self.stream);
                }
            }
            break;
        }
        Ok(true)
    }
}

/// A socket that would not take what was pending is reset: the kernel would otherwise go on offering it to a peer that
/// does not read, for minutes and at the cost of its memory.
impl Drop for Connection {
    fn drop(&mut self) {
        if self.pending.is_some() {
            // It fails only where the socket is of no use already.
            let _ = SockRef::from(&self.stream).set_linger(Some(Duration::ZERO));
        }
    }
}

impl Pending {
    /// All of `bytes` is sent: puts the pongs and the ping that wait in their place. Whether any did.
    fn refill(&mut self) -> bool {
        self.bytes.clear();
        self.at = 0;
        self.bytes.append(&mut self.pongs);
        if std::mem::take(&mut self.ping) {
            push_frame(&mut self.bytes, Opcode::Ping, &[]);
        }
        !self.bytes.is_empty()
    }

    /// Sends what is pending but a close frame, and `data` behind it, in one write. How much of `data` the kernel took:
    /// none where there is nothing to join it to, or more than one write's worth before it.
    fn send_with(&mut self, data: &[u8], stream: &mut TcpStream, progress: &mut bool) -> io::Result<usize> {
        if self.at == self.bytes.len() {
            self.refill();
        }
        if self.bytes.is_empty() || !self.pongs.is_empty() || self.ping {
            return Ok(0);
        }
        let own = self.bytes.len();
        self.bytes.extend_from_slice(data);
        let sent = send(stream, &self.bytes[self.at..]);
        self.bytes.truncate(own);
        let end = self.at + sent?;
        *progress |= end > self.at;
        self.at = end.min(own);
        Ok(end - self.at)
    }

    /// Queues a pong. Where there is no room, what waits gives way: only the newest ping needs an answer (RFC 6455,
    /// section 5.5.3), so a peer that pings and does not read gains nothing.
    fn push_pong(&mut self, payload: &[u8]) {
        if self.pongs.len() + 2 + payload.len() > PONG_BYTES {
            self.pongs.clear();
        }
        push_frame(&mut self.pongs, Opcode::Pong, payload);
    }
}

fn queue_close(pending: &mut Option<Box<Pending>>, code: Option<u16>, reason: &str) {
    let mut close = Vec::new();
    push_close(&mut close, code, reason);
    pending.get_or_insert_default().close = Some(close);
}

/// Says that nothing more comes from us. It fails only where the peer has gone, which the next read tells.
fn shut_down(stream: &TcpStream) {
    let _ = stream.shutdown(Shutdown::Write);
}

/// How many bytes the kernel takes now; 0 where it takes none.
fn send(stream: &mut TcpStream, bytes: &[u8]) -> io::Result<usize> {
    let mut sent = 0;
    while sent < bytes.len() {
        match stream.write(&bytes[sent..]) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(taken) => {
                sent += taken;
                // Less than all means that the socket's buffer is full, and its next room is an event.
                break;
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(sent)
}

const _: () = assert!(size_of::<Connection>() <= 128, "there is one for each client");

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, TcpListener, TcpStream as Blocking};

    use mio::{Events, Interest, Poll, Token};

    use super::*;

    const LIMITS: ReaderLimits = ReaderLimits { max_message_bytes: 1 << 20, max_fragments: 16 };
    const TIMEOUT: Duration = Duration::from_secs(1);

    /// A connection, its peer's blocking socket, and a poll that tells of the connection's readiness.
    struct Pair {
        connection: Connection,
        peer: Blocking,
        poll: Poll,
        now: Instant,
    }

    impl Pair {
        fn new() -> Self {
            Self::with(Bytes::new())
        }

        fn with(leftover: Bytes) -> Self {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
            let peer = Blocking::connect(listener.local_addr().unwrap()).unwrap();
            peer.set_nodelay(true).unwrap();
            // Only a bound: no test's outcome hangs on it.
            peer.set_read_timeout(Some(Duration::from_secs(120))).unwrap();
            let (stream, _) = listener.accept().unwrap();
            stream.set_nonblocking(true).unwrap();
            let now = Instant::now();
            let mut connection = Connection::new(TcpStream::from_std(stream), leftover, now);
            let poll = Poll::new().unwrap();
            let interest = Interest::READABLE | Interest::WRITABLE;
            poll.registry().register(connection.stream(), Token(0), interest).unwrap();
            Self { connection, peer, poll, now }
        }

        /// Waits until the socket says something new.
        fn wait(&mut self) {
            let mut events = Events::with_capacity(4);
            self.poll.poll(&mut events, Some(Duration::from_secs(120))).unwrap();
            assert!(!events.is_empty(), "nothing happened");
            if events.iter().any(|event| event.is_read_closed()) {
                self.connection.on_read_closed();
            }
        }

        /// Fills a buffer once and takes it, as far as `on` goes along.
        fn read(&mut self, buffer: usize, on: &mut dyn FnMut(&[u8]) -> ControlFlow<()>) -> Then {
            let mut buffer = vec![0; buffer];
            let filled = self.connection.fill(&mut buffer, self.now);
            let input = &mut buffer[..filled.bytes];
            match self.connection.take(input, &LIMITS, self.now, &mut |_, data| on(data)) {
                Taken::All => filled.then,
                Taken::Broke(used) => {
                    self.connection.keep(&input[used..]);
                    Then::More
                }
                Taken::Ended(end) => Then::Closed(end),
            }
        }

        /// Reads until a message is `last` or the peer's side ends; gives all messages and the end.
        fn read_until(&mut self, last: &[u8]) -> (Vec<Vec<u8>>, Option<End>) {
            let mut messages: Vec<Vec<u8>> = Vec::new();
            loop {
                let then = self.read(4096, &mut |data| {
                    messages.push(data.to_vec());
                    ControlFlow::Continue(())
                });
                match then {
                    Then::Closed(end) => return (messages, Some(end)),
                    _ if messages.last().is_some_and(|message| message == last) => return (messages, None),
                    Then::Wait => self.wait(),
                    Then::More => {}
                }
            }
        }

        fn write(&mut self, data: &[u8]) -> Written {
            self.connection.write(data, self.now).unwrap()
        }

        /// Writes messages until the kernel takes no more; says how many bytes it took.
        fn fill(&mut self) -> usize {
            let mut message = Vec::new();
            push_frame(&mut message, Opcode::Binary, &[0; 65_000]);
            let mut total = 0;
            loop {
                let written = self.write(&message);
                total += written.taken;
                if written.blocked {
                    self.connection.keep_partial(&message[written.taken..]);
                    return total + message.len() - written.taken;
                }
            }
        }

        /// Everything the peer gets, until the stream ends.
        fn peer_gets(&mut self) -> io::Result<Vec<u8>> {
            let mut got = Vec::new();
            self.peer.read_to_end(&mut got).map(|_| got)
        }
    }

    /// A client's frame, masked with nothing.
    fn frame(opcode: Opcode, payload: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        push_frame(&mut bytes, opcode, payload);
        let head = bytes.len() - payload.len();
        bytes[1] |= 0x80;
        bytes.splice(head..head, [0; 4]);
        bytes
    }

    fn plain(opcode: Opcode, payload: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        push_frame(&mut bytes, opcode, payload);
        bytes
    }

    fn closing(code: u16) -> Vec<u8> {
        plain(Opcode::Close, &code.to_be_bytes())
    }

    #[test]
    fn messages_are_read_and_a_break_keeps_the_rest_for_later() {
        let sent: Vec<_> = (0..100u8).map(|index| vec![index; usize::from(index)]).collect();
        let frames: Vec<u8> = sent.iter().flat_map(|data| frame(Opcode::Binary, data)).collect();
        // The first third comes behind the request, cut where no frame ends.
        let (leftover, rest) = frames.split_at(frames.len() / 3);
        let mut pair = Pair::with(Bytes::copy_from_slice(leftover));
        pair.peer.write_all(rest).unwrap();
        let mut heard = Vec::new();
        while heard.len() < sent.len() {
            let before = heard.len();
            let then = pair.read(1000, &mut |data| {
                heard.push(data.to_vec());
                ControlFlow::Break(())
            });
            assert!(heard.len() <= before + 1, "it went on after a break");
            match then {
                Then::More => {}
                Then::Wait => pair.wait(),
                Then::Closed(end) => panic!("{end:?}"),
            }
        }
        assert_eq!(heard, sent);
        assert_eq!(pair.connection.buffered(), 0, "nothing stays behind");
    }

    #[test]
    fn pongs_never_pile_up_and_the_newest_ping_is_answered() {
        let mut pair = Pair::new();
        for index in 0..10_000u32 {
            pair.peer.write_all(&frame(Opcode::Ping, &index.to_be_bytes().repeat(30))).unwrap();
            if index % 100 == 0 {
                pair.peer.write_all(&frame(Opcode::Binary, &index.to_be_bytes())).unwrap();
                assert_eq!(pair.read_until(&index.to_be_bytes()).1, None);
                assert!(pair.connection.buffered() < 3 * PONG_BYTES, "{}", pair.connection.buffered());
            }
        }
        pair.peer.write_all(&frame(Opcode::Text, b"end")).unwrap();
        pair.read_until(b"end");
        assert_eq!(pair.write(&[]), Written { taken: 0, blocked: false });
        pair.connection.close(CloseCode::Normal, "", pair.now);
        assert!(!pair.write(&[]).blocked);
        pair.peer.shutdown(Shutdown::Write).unwrap();
        assert_eq!(pair.read_until(b"").1, Some(End::Lost(None)));
        assert!(pair.connection.is_done(pair.now, TIMEOUT));
        drop(pair.connection);
        let mut got = Vec::new();
        pair.peer.read_to_end(&mut got).unwrap();
        let newest = plain(Opcode::Pong, &9_999u32.to_be_bytes().repeat(30));
        assert!(got.ends_with(&[newest, closing(1000)].concat()));
        assert!(got.len() <= PONG_BYTES + 4);
    }

    #[test]
    fn a_burst_of_pings_is_answered_one_by_one() {
        let mut pair = Pair::new();
        let pings: Vec<u8> = (0..10u8).flat_map(|index| frame(Opcode::Ping, &[index; 100])).collect();
        pair.peer.write_all(&[pings, frame(Opcode::Text, b"end")].concat()).unwrap();
        pair.read_until(b"end");
        assert!(!pair.write(&[]).blocked);
        let want: Vec<u8> = (0..10u8).flat_map(|index| plain(Opcode::Pong, &[index; 100])).collect();
        let mut got = vec![0; want.len()];
        pair.peer.read_exact(&mut got).unwrap();
        assert_eq!(got, want);
    }

    #[test]
    fn what_the_kernel_began_goes_first_and_nothing_goes_after_a_close_frame() {
        let mut pair = Pair::new();
        let sent = pair.fill();
        assert!(pair.connection.has_pending());
        pair.connection.ping();
        pair.connection.ping();
        let last = plain(Opcode::Text, b"last words");
        pair.connection.close(CloseCode::Slow, "too slow", pair.now);
        pair.connection.close(CloseCode::Stalled, "again", pair.now);
        pair.connection.ping();
        assert_eq!(pair.write(&last), Written { taken: 0, blocked: true }, "data waits for what is pending");
        let mut peer = pair.peer.try_clone().unwrap();
        let reading = std::thread::spawn(move || {
            let mut got = Vec::new();
            peer.read_to_end(&mut got).map(|_| got)
        });
        let mut taken = 0;
        while taken < last.len() {
            pair.wait();
            taken += pair.write(&last[taken..]).taken;
        }
        while pair.connection.has_pending() {
            pair.wait();
            let _ = pair.write(&[]);
        }
        assert_eq!(pair.write(b"never"), Written { taken: 0, blocked: false });
        assert!(!pair.connection.is_done(pair.now, TIMEOUT), "the peer's close frame is to come");
        pair.peer.write_all(&frame(Opcode::Text, b"ignored")).unwrap();
        pair.peer.write_all(&frame(Opcode::Close, &4008u16.to_be_bytes())).unwrap();
        assert_eq!(pair.read_until(b"ignored"), (vec![], Some(End::Peer(Some(4008)))));
        assert!(pair.connection.is_done(pair.now, TIMEOUT));
        drop(pair.connection);
        let got = reading.join().unwrap().unwrap();
        let close = plain(Opcode::Close, &[&4008u16.to_be_bytes()[..], b"too slow"].concat());
        assert_eq!(got[sent..], [plain(Opcode::Ping, b""), last, close].concat());
    }

    #[test]
    fn a_socket_stalls_from_when_it_took_nothing_until_it_takes_something() {
        let mut pair = Pair::new();
        let begin = pair.now;
        assert_eq!(pair.connection.stalled_since(), None);
        pair.now += Duration::from_secs(3600);
        let sent = pair.fill();
        assert_eq!(pair.connection.stalled_since(), Some(pair.now), "idle time is no stall");
        let blocked = pair.now;
        pair.now += Duration::from_secs(1);
        assert!(pair.write(&[]).blocked);
        assert_eq!(pair.connection.stalled_since(), Some(blocked), "nothing taken: the stall goes on");
        let mut got = vec![0; sent];
        let mut peer = pair.peer.try_clone().unwrap();
        let reading = std::thread::spawn(move || peer.read_exact(&mut got));
        while pair.connection.has_pending() {
            pair.wait();
            let _ = pair.write(&[]);
        }
        assert_eq!(pair.connection.stalled_since(), None);
        reading.join().unwrap().unwrap();
        assert_eq!(pair.connection.last_heard(), begin, "nothing was heard");
    }

    #[test]
    fn a_stream_that_ends_without_a_close_frame_is_lost() {
        let mut pair = Pair::new();
        pair.peer.write_all(&frame(Opcode::Text, b"and then")).unwrap();
        pair.peer.shutdown(Shutdown::Write).unwrap();
        assert_eq!(pair.read_until(b""), (vec![b"and then".to_vec()], Some(End::Lost(None))));
        assert!(pair.connection.is_done(pair.now, TIMEOUT));
    }

    #[test]
    fn a_peer_that_shuts_its_side_behind_its_close_frame_is_still_answered() {
        let mut pair = Pair::new();
        pair.peer.write_all(&frame(Opcode::Close, &1001u16.to_be_bytes())).unwrap();
        pair.peer.shutdown(Shutdown::Write).unwrap();
        assert_eq!(pair.read_until(b"").1, Some(End::Peer(Some(1001))));
        assert!(!pair.connection.is_done(pair.now, TIMEOUT));
        assert!(!pair.write(&[]).blocked);
        assert!(pair.connection.is_done(pair.now, TIMEOUT));
        drop(pair.connection);
        let mut got = Vec::new();
        pair.peer.read_to_end(&mut got).unwrap();
        assert_eq!(got, closing(1001));
    }

    #[test]
    fn after_a_violation_the_rest_is_thrown_away_until_the_peer_ends() {
        let mut pair = Pair::new();
        pair.peer.write_all(&[frame(Opcode::Text, b"good"), vec![0xff; 100_000]].concat()).unwrap();
        let (messages, end) = pair.read_until(b"");
        assert_eq!(messages, [b"good"]);
        let Some(End::Violation(violation)) = end else { panic!("{end:?}") };
        assert_eq!(violation.code, CloseCode::ProtocolError);
        let reply = plain(Opcode::Text, b"good, too");
        assert_eq!(
            pair.write(&reply),
            Written { taken: reply.len(), blocked: false },
            "what went before counts"
        );
        assert_eq!(pair.write(&reply), Written { taken: 0, blocked: false });
        let got = pair.peer_gets().unwrap();
        assert!(got.starts_with(&reply) && got[reply.len()..][2..4] == 1002u16.to_be_bytes(), "{got:?}");
        assert!(!pair.connection.is_done(pair.now, TIMEOUT), "the peer may still be reading");
        pair.peer.write_all(&frame(Opcode::Text, b"means nothing")).unwrap();
        pair.peer.shutdown(Shutdown::Write).unwrap();
        assert_eq!(pair.read_until(b""), (vec![], Some(End::Lost(None))));
        assert!(pair.connection.is_done(pair.now, TIMEOUT));
    }

    #[test]
    fn a_peer_that_takes_no_close_frame_is_reset_after_the_timeout() {
        let mut pair = Pair::new();
        pair.fill();
        pair.connection.close(CloseCode::Stalled, "", pair.now);
        assert!(pair.write(&[]).blocked);
        assert!(!pair.connection.is_done(pair.now, TIMEOUT));
        assert!(pair.connection.is_done(pair.now + TIMEOUT, TIMEOUT));
        drop(pair.connection);
        let mut got = Vec::new();
        let error = pair.peer.read_to_end(&mut got).expect_err("the stream does not end in order");
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    }

    #[test]
    fn a_socket_that_fails_is_the_end_whoever_sees_it_first() {
        for write_first in [true, false] {
            let mut pair = Pair::new();
            SockRef::from(&pair.peer).set_linger(Some(Duration::ZERO)).unwrap();
            drop(std::mem::replace(&mut pair.peer, Pair::new().peer));
            pair.wait();
            if write_first {
                assert!(pair.connection.write(b"anybody", pair.now).is_err());
            } else {
                let outcome = pair.read(100, &mut |_| ControlFlow::Continue(()));
                assert!(matches!(outcome, Then::Closed(End::Lost(Some(_)))), "{outcome:?}");
            }
            assert_eq!(pair.write(b"anybody"), Written { taken: 0, blocked: false });
            assert!(pair.connection.is_done(pair.now, TIMEOUT));
        }
    }
}
