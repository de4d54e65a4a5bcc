//! RFC 6455 as strictly as a broker on an open port needs it: the frame reader by itself, byte by byte, and then over
//! real sockets through the same HTTP front and connection that the broker runs.
//!
//! What Autobahn never sends stands here: frames without a mask, endless fragments, heads cut at every byte.

mod echo;

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    ops::ControlFlow,
    sync::OnceLock,
    time::Duration,
};

use proptest::prelude::*;
use tidegate::websocket::{
    Event, FrameReader, Kind, Opcode, ReaderLimits, Violation,
    writer::{HEAD_BYTES, header, push_close},
};
use tidegate_protocol::CloseCode;
use tokio_tungstenite::tungstenite::{self, Message, protocol::Role};

const LIMITS: ReaderLimits = ReaderLimits { max_message_bytes: 128 * 1024, max_fragments: 16 };

/// An event, kept.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Told {
    Text(String),
    Binary(Vec<u8>),
    Ping(Vec<u8>),
    Pong(Vec<u8>),
    Close(Option<u16>, String),
}

impl From<Event<'_>> for Told {
    fn from(event: Event<'_>) -> Self {
        match event {
            Event::Message { kind: Kind::Text, data } => {
                Self::Text(std::str::from_utf8(data).expect("text is UTF-8").to_owned())
            }
            Event::Message { kind: Kind::Binary, data } => Self::Binary(data.to_vec()),
            Event::Ping(payload) => Self::Ping(payload.to_vec()),
            Event::Pong(payload) => Self::Pong(payload.to_vec()),
            Event::Close(code, reason) => Self::Close(code, reason.to_owned()),
        }
    }
}

/// What the reader makes of `pieces`: the events, and the violation with the index of the byte that it was told at the
/// latest.
fn read<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> (Vec<Told>, Option<(usize, Violation)>) {
    let (mut reader, mut told, mut at) = (FrameReader::new(), Vec::new(), 0);
    for piece in pieces {
        let mut piece = piece.to_vec();
        let fed = reader.feed(&mut piece, &LIMITS, &mut |event| {
            told.push(event.into());
            ControlFlow::Continue(())
        });
        at += piece.len();
        match fed {
            Ok(used) => assert_eq!(used, piece.len(), "nothing breaks, so all is used"),
            Err(violation) => {
                assert_eq!(reader.buffered(), 0, "a reader that has failed holds nothing");
                return (told, Some((at - 1, violation)));
            }
        }
    }
    (told, None)
}

/// A client's frame.
fn frame(fin: bool, opcode: Opcode, payload: &[u8]) -> Vec<u8> {
    masked(fin, opcode, payload, [0x37, 0xfa, 0x21, 0x3d])
}

fn masked(fin: bool, opcode: Opcode, payload: &[u8], mask: [u8; 4]) -> Vec<u8> {
    let mut head = [0; HEAD_BYTES];
    let used = header(opcode, payload.len(), &mut head);
    head[0] = opcode as u8 | if fin { 0x80 } else { 0 };
    head[1] |= 0x80;
    let mut bytes = [&head[..used], &mask].concat();
    bytes.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    bytes
}

fn text(payload: &str) -> Vec<u8> {
    frame(true, Opcode::Text, payload.as_bytes())
}

fn close(code: u16, reason: &[u8]) -> Vec<u8> {
    frame(true, Opcode::Close, &[&code.to_be_bytes(), reason].concat())
}

/// A session with everything in it that a client may send, and what it says.
fn session() -> (Vec<u8>, Vec<Told>) {
    let long = "κόσμε ".repeat(50);
    let bytes = [
        text("hello"),
        text(""),
        frame(true, Opcode::Binary, &[0x00, 0xff, 0x80]),
        frame(true, Opcode::Ping, b"amid nothing"),
        // A text in fragments that cut its characters, with control frames and an empty fragment between them.
        frame(false, Opcode::Text, "κόσ".as_bytes().split_at(5).0),
        frame(true, Opcode::Ping, b"amid fragments"),
        frame(false, Opcode::Continuation, b""),
        frame(true, Opcode::Pong, b""),
        frame(true, Opcode::Continuation, &"κόσμε".as_bytes()[5..]),
        frame(false, Opcode::Binary, b""),
        frame(true, Opcode::Continuation, b""),
        // Both longer forms of a length, at their lower ends.
        frame(true, Opcode::Binary, &[7; 126]),
        masked(true, Opcode::Text, long.as_bytes(), [0; 4]),
        frame(true, Opcode::Ping, &[9; 125]),
        close(4123, "so long κ".as_bytes()),
        // Whatever follows a close frame means nothing, not even a violation.
        vec![0xff; 9],
        text("too late"),
    ];
    let told = vec![
        Told::Text("hello".into()),
        Told::Text("".into()),
        Told::Binary(vec![0x00, 0xff, 0x80]),
        Told::Ping(b"amid nothing".to_vec()),
        Told::Ping(b"amid fragments".to_vec()),
        Told::Pong(b"".to_vec()),
        Told::Text("κόσμε".into()),
        Told::Binary(b"".to_vec()),
        Told::Binary(vec![7; 126]),
        Told::Text(long),
        Told::Ping(vec![9; 125]),
        Told::Close(Some(4123), "so long κ".into()),
    ];
    (bytes.concat(), told)
}

#[test]
fn a_session_cut_at_any_byte_says_the_same() {
    let (bytes, told) = session();
    assert_eq!(read([&bytes[..]].into_iter()), (told.clone(), None));
    for cut in 0..=bytes.len() {
        let (before, after) = bytes.split_at(cut);
        assert_eq!(read([before, after].into_iter()), (told.clone(), None), "cut at {cut}");
    }
    for size in 1..=20 {
        assert_eq!(read(bytes.chunks(size)), (told.clone(), None), "pieces of {size}");
    }
}

#[test]
fn a_message_of_64_kib_says_the_same_in_pieces_of_any_size() {
    let payload: Vec<u8> = (0..65_536u32).map(|index| (index * 7) as u8).collect();
    let bytes = frame(true, Opcode::Binary, &payload);
    for size in [1, 2, 3, 13, 14, 15, 1000, 4096, 65_535, 65_536, 65_550] {
        assert_eq!(read(bytes.chunks(size)), (vec![Told::Binary(payload.clone())], None), "pieces of {size}");
    }
}

#[test]
fn a_break_after_any_event_leaves_the_rest_untouched_and_loses_nothing() {
    let (bytes, told) = session();
    for size in [1, 7, 64, bytes.len()] {
        let (mut reader, mut heard) = (FrameReader::new(), Vec::<Told>::new());
        for piece in bytes.chunks(size) {
            let mut at = 0;
            while at < piece.len() {
                let mut rest = piece[at..].to_vec();
                let before = heard.len();
                let used = reader
                    .feed(&mut rest, &LIMITS, &mut |event| {
                        heard.push(event.into());
                        ControlFlow::Break(())
                    })
                    .expect("no violation");
                assert_eq!(rest[used..], piece[at + used..], "what was not used was touched");
                assert!(heard.len() <= before + 1, "it went on after a break");
                at += used;
            }
        }
        assert_eq!(heard, told, "pieces of {size}");
    }
}

/// Everything a client may not do: its name, what it sends, the code it is told, and the byte at which it is known.
fn violations() -> Vec<(&'static str, Vec<u8>, u16, usize)> {
    let binary_head = |len: u64| [&[0x82, 0xff][..], &len.to_be_bytes(), &[1, 2, 3, 4]].concat();
    let mut all = vec![
        ("text without a mask", vec![0x81, 0x05, b'h', b'e', b'l', b'l', b'o'], 1002, 1),
        ("ping without a mask", vec![0x89, 0x00], 1002, 1),
        ("close without a mask", vec![0x88, 0x02, 0x03, 0xe8], 1002, 1),
        ("first reserved bit", vec![0xc1, 0x80, 0, 0, 0, 0], 1002, 0),
        ("second reserved bit", vec![0xa1, 0x80, 0, 0, 0, 0], 1002, 0),
        ("third reserved bit", vec![0x91, 0x80, 0, 0, 0, 0], 1002, 0),
        ("reserved bit on a control frame", vec![0xc9, 0x80, 0, 0, 0, 0], 1002, 0),
        ("ping of 126 bytes", vec![0x89, 0xfe, 0, 126, 0, 0, 0, 0], 1002, 1),
        ("pong of 100 kB", [&[0x8a, 0xff][..], &100_000u64.to_be_bytes(), &[0; 4]].concat(), 1002, 1),
        ("close of 126 bytes", vec![0x88, 0xfe, 0, 126, 0, 0, 0, 0], 1002, 1),
        ("fragmented ping", frame(false, Opcode::Ping, b"a"), 1002, 0),
        ("fragmented close", frame(false, Opcode::Close, b""), 1002, 0),
        ("continuation of nothing", frame(true, Opcode::Continuation, b"a"), 1002, 5),
        ("empty continuation of nothing", frame(false, Opcode::Continuation, b""), 1002, 5),
        (
            "continuation of what is over",
            [text("over"), frame(true, Opcode::Continuation, b"a")].concat(),
            1002,
            15,
        ),
        (
            "new text amid a message",
            [frame(false, Opcode::Text, b"lost"), frame(true, Opcode::Text, b"kept")].concat(),
            1002,
            15,
        ),
        (
            "new binary amid an empty message",
            [frame(false, Opcode::Text, b""), frame(false, Opcode::Binary, b"kept")].concat(),
            1002,
            11,
        ),
        ("two bytes of length for 125", vec![0x82, 0xfe, 0, 125, 0, 0, 0, 0], 1002, 3),
        ("two bytes of length for none", vec![0x81, 0xfe, 0, 0, 0, 0, 0, 0], 1002, 3),
        ("eight bytes of length for 65,535", binary_head(65_535), 1002, 9),
        ("eight bytes of length for 1", binary_head(1), 1002, 9),
        ("highest bit of a length", binary_head(1 << 63), 1002, 9),
        ("all bits of a length", binary_head(u64::MAX), 1002, 9),
        ("one byte more than a message may have", binary_head(LIMITS.max_message_bytes as u64 + 1), 1009, 13),
        ("the longest length there is", binary_head(u64::MAX >> 1), 1009, 13),
        (
            "one byte too many over fragments",
            [
                frame(false, Opcode::Binary, &vec![0; LIMITS.max_message_bytes - 10]),
                frame(true, Opcode::Continuation, &[0; 11]),
            ]
            .concat(),
            1009,
            14 + LIMITS.max_message_bytes - 10 + 5,
        ),
        (
            "a fragment too many",
            [
                frame(false, Opcode::Binary, b"a"),
                frame(false, Opcode::Continuation, b"b").repeat(LIMITS.max_fragments as usize - 1),
                frame(true, Opcode::Continuation, b"c"),
            ]
            .concat(),
            1008,
            7 * LIMITS.max_fragments as usize + 5,
        ),
        (
            "empty fragments without an end",
            [frame(false, Opcode::Text, b""), frame(false, Opcode::Continuation, b"").repeat(1000)].concat(),
            1008,
            6 * LIMITS.max_fragments as usize + 5,
        ),
        ("close of one byte", frame(true, Opcode::Close, &[3]), 1002, 6),
        ("close whose reason is not UTF-8", close(1000, b"\xc3\x28"), 1007, 9),
        ("close whose reason ends amid a character", close(1000, b"\xe2\x82"), 1007, 9),
        ("text that ends amid a character", frame(true, Opcode::Text, b"ab\xe2\x82"), 1007, 9),
        (
            "fragments that end amid a character",
            [frame(false, Opcode::Text, b"\xe2"), frame(true, Opcode::Continuation, b"\x82")].concat(),
            1007,
            13,
        ),
    ];
    for code in [0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65_535] {
        all.push(("close code that may not be sent", close(code, b""), 1002, 7));
    }
    for opcode in [3, 4, 5, 6, 7, 0xb, 0xc, 0xd, 0xe, 0xf] {
        all.push(("unknown opcode", vec![0x80 | opcode, 0x80, 0, 0, 0, 0], 1002, 0));
    }
    // A fault in a text is known at its byte, however much of the frame, or of the message, is still to come.
    let whole = "aκόσμε𝄞z".as_bytes();
    for at in 0..whole.len() {
        let mut broken = whole.to_vec();
        broken[at] = 0xff;
        all.push(("a byte that is not UTF-8", frame(true, Opcode::Text, &broken), 1007, 6 + at));
        let (first, second) = broken.split_at(whole.len() / 2);
        let fragments =
            [frame(false, Opcode::Text, first), frame(true, Opcode::Continuation, second)].concat();
        let head = if at < first.len() { 6 } else { 12 };
        all.push(("a byte that is not UTF-8 in a fragment", fragments, 1007, head + at));
    }
    all
}

#[test]
fn every_violation_is_told_with_its_code_at_the_byte_that_makes_it_one() {
    for (name, bytes, code, at) in violations() {
        let (told, violation) = read(bytes.chunks(1));
        let (known, violation) = violation.unwrap_or_else(|| panic!("{name}: {told:?}"));
        assert_eq!((violation.code.number(), known), (code, at), "{name}: {violation}");
        assert!(violation.reason.len() <= 123, "{name}: {}", violation.reason);
    }
}

#[test]
fn a_violation_cut_at_any_byte_is_the_same_and_so_is_what_went_before() {
    let before = [text("before"), frame(true, Opcode::Ping, b"p")].concat();
    let events = vec![Told::Text("before".into()), Told::Ping(b"p".to_vec())];
    for (name, bytes, code, _) in violations() {
        let bytes = [&before[..], &bytes].concat();
        for cut in 0..bytes.len().min(200) {
            let (first, second) = bytes.split_at(cut);
            let (mut told, violation) = read([first, second].into_iter());
            told.truncate(events.len());
            assert_eq!(told, events, "{name}, cut at {cut}");
            assert_eq!(violation.map(|(_, v)| v.code.number()), Some(code), "{name}, cut at {cut}");
        }
    }
}

#[test]
fn every_close_code_that_may_be_sent_is_taken() {
    let allowed = [1000..=1003, 1007..=1011, 3000..=4999];
    for code in 0..=u16::MAX {
        let (told, violation) = read([&close(code, b"why")[..]].into_iter());
        match violation {
            None => {
                assert!(allowed.iter().any(|range| range.contains(&code)), "{code} was taken");
                assert_eq!(told, [Told::Close(Some(code), "why".into())]);
            }
            Some((_, violation)) => {
                assert!(!allowed.iter().any(|range| range.contains(&code)), "{code} was refused");
                assert_eq!(violation.code, CloseCode::ProtocolError, "{code}");
            }
        }
    }
    assert_eq!(
        read([&frame(true, Opcode::Close, b"")[..]].into_iter()),
        (vec![Told::Close(None, "".into())], None)
    );
}

#[test]
fn a_message_of_the_largest_size_and_of_the_most_fragments_passes() {
    let payload = vec![5; LIMITS.max_message_bytes];
    let whole = frame(true, Opcode::Binary, &payload);
    assert_eq!(read([&whole[..]].into_iter()), (vec![Told::Binary(payload)], None));
    let last = LIMITS.max_fragments as usize - 2;
    let fragments = [
        frame(false, Opcode::Binary, b"a"),
        frame(false, Opcode::Continuation, b"").repeat(last),
        frame(true, Opcode::Continuation, b"z"),
    ]
    .concat();
    // Twice: the count begins anew with each message.
    let told = vec![Told::Binary(b"az".to_vec()); 2];
    assert_eq!(read([&fragments[..], &fragments].into_iter()), (told, None));
}

#[test]
fn memory_grows_with_what_has_arrived_and_goes_with_the_message() {
    let limits = ReaderLimits { max_message_bytes: 1 << 30, max_fragments: 1 << 20 };
    let mut reader = FrameReader::new();
    let feed = |reader: &mut FrameReader, bytes: &[u8]| {
        reader.feed(&mut bytes.to_vec(), &limits, &mut |_| ControlFlow::Continue(())).expect("no violation");
    };
    const HELD: usize = 512;

    // A head that announces a gibibyte.
    feed(&mut reader, &[&[0x82, 0xff][..], &(1u64 << 30).to_be_bytes(), &[0; 4]].concat());
    assert!(reader.buffered() <= HELD, "{} bytes for a head alone", reader.buffered());
    let mut arrived = 0;
    for _ in 0..100 {
        feed(&mut reader, &[1; 1000]);
        arrived += 1000;
        assert!(reader.buffered() <= 2 * arrived + HELD, "{} bytes for {arrived}", reader.buffered());
    }

    let mut reader = FrameReader::new();
    feed(&mut reader, &frame(true, Opcode::Binary, &[1; 1000])[..600]);
    assert!(reader.buffered() >= 586);
    feed(&mut reader, &frame(true, Opcode::Binary, &[1; 1000])[600..]);
    assert_eq!(reader.buffered(), 0, "nothing stays once the message is complete");

    for cut in 1..10 {
        feed(&mut reader, &frame(true, Opcode::Ping, b"1234")[..cut]);
        feed(&mut reader, &frame(true, Opcode::Ping, b"1234")[cut..]);
        assert_eq!(reader.buffered(), 0, "a control frame cut at {cut} leaves something behind");
    }
    feed(&mut reader, &frame(false, Opcode::Text, b""));
    feed(&mut reader, &frame(false, Opcode::Continuation, b"").repeat(100_000));
    assert!(reader.buffered() <= HELD, "empty fragments cost {}", reader.buffered());
}

/// A stream for tungstenite: reads what it is given, throws away what is written.
struct Recorded(std::io::Cursor<Vec<u8>>);

impl Read for Recorded {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        self.0.read(buffer)
    }
}

impl Write for Recorded {
    fn write(&mut self, buffer: &[u8]) -> std::io::Result<usize> {
        Ok(buffer.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// What tungstenite, as a server, makes of the same bytes; ends with the first close frame or error.
fn tungstenite_reads(bytes: &[u8]) -> Vec<Told> {
    let stream = Recorded(std::io::Cursor::new(bytes.to_vec()));
    let mut socket = tungstenite::WebSocket::from_raw_socket(stream, Role::Server, None);
    let mut told = Vec::new();
    while let Ok(message) = socket.read() {
        told.push(match message {
            Message::Text(text) => Told::Text(text.to_string()),
            Message::Binary(data) => Told::Binary(data.to_vec()),
            Message::Ping(payload) => Told::Ping(payload.to_vec()),
            Message::Pong(payload) => Told::Pong(payload.to_vec()),
            Message::Close(close) => {
                let close = close.map(|close| (u16::from(close.code), close.reason.to_string()));
                let (code, reason) =
                    close.map_or((None, String::new()), |(code, reason)| (Some(code), reason));
                told.push(Told::Close(code, reason));
                break;
            }
            Message::Frame(_) => unreachable!("only written, never read"),
        });
    }
    told
}

/// One message of a client as frames: its fragments, with control frames between them.
fn message() -> impl Strategy<Value = Vec<u8>> {
    let mask = any::<[u8; 4]>();
    let control =
        (prop_oneof![Just(Opcode::Ping), Just(Opcode::Pong)], prop::collection::vec(any::<u8>(), 0..=125));
    let control = (control, mask).prop_map(|((opcode, payload), mask)| masked(true, opcode, &payload, mask));
    let payload = prop_oneof![
        any::<String>().prop_map(|text| (Opcode::Text, text.into_bytes())),
        prop::collection::vec(any::<u8>(), 0..300).prop_map(|data| (Opcode::Binary, data)),
        (65_000usize..66_000).prop_map(|len| (Opcode::Binary, vec![b'x'; len])),
    ];
    let cuts = prop::collection::vec(any::<prop::sample::Index>(), 0..6);
    let controls = prop::collection::vec(prop::option::of(control), 7);
    (payload, cuts, controls, mask).prop_map(|((opcode, data), cuts, controls, mask)| {
        let mut cuts: Vec<_> = cuts.iter().map(|cut| cut.index(data.len() + 1)).collect();
        cuts.extend([0, data.len()]);
        cuts.sort_unstable();
        let last = cuts.len() - 2;
        let mut bytes = Vec::new();
        for (index, part) in cuts.windows(2).enumerate() {
            let opcode = if index == 0 { opcode } else { Opcode::Continuation };
            bytes.extend(masked(index == last, opcode, &data[part[0]..part[1]], mask));
            bytes.extend(controls.get(index).cloned().flatten().unwrap_or_default());
        }
        bytes
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_valid_stream_says_what_tungstenite_reads_in_it(
        messages in prop::collection::vec(message(), 0..8),
        ending in prop::option::of((3000u16..5000, "[a-zé]{0,20}")),
        sizes in prop::collection::vec(1usize..70_000, 1..20),
    ) {
        let mut bytes = messages.concat();
        if let Some((code, reason)) = ending {
            bytes.extend(close(code, reason.as_bytes()));
        }
        let mut rest = &bytes[..];
        let pieces = sizes.iter().cycle().map_while(|&size| {
            let (piece, after) = rest.split_at(size.min(rest.len()));
            rest = after;
            (!piece.is_empty()).then_some(piece)
        });
        let (told, violation) = read(pieces);
        prop_assert_eq!(violation, None);
        prop_assert_eq!(told, tungstenite_reads(&bytes));
    }

    #[test]
    fn a_stream_with_a_changed_byte_never_says_what_tungstenite_does_not_read_in_it(
        messages in prop::collection::vec(message(), 1..4),
        at in any::<prop::sample::Index>(),
        change in 1u8..=255,
    ) {
        let mut bytes = messages.concat();
        let at = at.index(bytes.len());
        bytes[at] ^= change;
        let (told, _) = read([&bytes[..]].into_iter());
        let theirs = tungstenite_reads(&bytes);
        // It may be refused earlier here, never later, and what was said before is the same.
        prop_assert!(theirs.starts_with(&told), "{:?} is not where {:?} begins", told, theirs);
    }

    #[test]
    fn no_bytes_bring_it_down(
        bytes in prop::collection::vec(any::<u8>(), 0..400),
        cut in any::<prop::sample::Index>(),
    ) {
        let (first, second) = bytes.split_at(cut.index(bytes.len() + 1));
        let whole = read([&bytes[..]].into_iter());
        let parts = read([first, second].into_iter());
        prop_assert_eq!(whole.0, parts.0);
        prop_assert_eq!(whole.1.map(|(_, violation)| violation), parts.1.map(|(_, violation)| violation));
    }
}

/// A raw client of the echo server.
struct Client {
    stream: TcpStream,
}

impl Client {
    /// Connects and upgrades; `behind` goes out in one piece with the request.
    fn open(behind: &[u8]) -> Self {
        static SERVER: OnceLock<SocketAddr> = OnceLock::new();
        let address = *SERVER.get_or_init(|| {
            let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
            let address = listener.local_addr().expect("an address");
            std::thread::spawn(move || echo::serve(listener, LIMITS).expect("the echo server runs"));
            address
        });
        let mut stream = TcpStream::connect(address).expect("the echo server listens");
        stream.set_nodelay(true).expect("a socket");
        // Only a bound: no test's outcome hangs on it.
        stream.set_read_timeout(Some(Duration::from_secs(120))).expect("a socket");
        let request = format!(
            "GET /ws HTTP/1.1\r\nHost: {address}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        );
        stream.write_all(&[request.as_bytes(), behind].concat()).expect("the request is sent");
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).expect("an answer");
            answer.push(byte[0]);
        }
        assert!(answer.starts_with(b"HTTP/1.1 101 "), "{}", String::from_utf8_lossy(&answer));
        Self { stream }
    }

    /// Sends what the server may no longer want to read.
    fn send(&mut self, bytes: &[u8]) {
        let _ = self.stream.write_all(bytes);
    }

    /// The next frame of the server, and that it is a whole one without a mask.
    fn frame(&mut self) -> (u8, Vec<u8>) {
        let mut head = [0; 2];
        self.stream.read_exact(&mut head).expect("a frame");
        assert_eq!(head[0] & 0xf0, 0x80, "whole, and no reserved bit");
        assert_eq!(head[1] & 0x80, 0, "a server masks nothing");
        let len = match head[1] {
            126 => {
                let mut len = [0; 2];
                self.stream.read_exact(&mut len).expect("a length");
                u64::from(u16::from_be_bytes(len))
            }
            127 => {
                let mut len = [0; 8];
                self.stream.read_exact(&mut len).expect("a length");
                u64::from_be_bytes(len)
            }
            short => u64::from(short),
        };
        let mut payload = vec![0; len as usize];
        self.stream.read_exact(&mut payload).expect("a payload");
        (head[0] & 0x0f, payload)
    }

    /// The next frame is a close frame; its code.
    fn closed(&mut self) -> Option<u16> {
        let (opcode, payload) = self.frame();
        assert_eq!(opcode, Opcode::Close as u8, "{payload:?}");
        payload.first_chunk().map(|code| u16::from_be_bytes(*code))
    }

    /// The server ends the stream, in order: neither a further frame nor a reset.
    fn ended(&mut self) {
        let mut rest = Vec::new();
        let ended = self.stream.read_to_end(&mut rest);
        assert!(ended.is_ok() && rest.is_empty(), "{ended:?}, {rest:?}");
    }
}

#[test]
fn over_a_socket_every_violation_is_answered_with_its_close_code_and_the_end_of_the_stream() {
    for (name, bytes, code, _) in violations() {
        let mut client = Client::open(&[]);
        client.send(&text("before"));
        assert_eq!(client.frame(), (1, b"before".to_vec()), "{name}");
        client.send(&bytes);
        let told = loop {
            match client.frame() {
                (8, payload) => break payload,
                // What was right before the violation is echoed.
                (opcode, _) => assert!(opcode <= 2, "{name}"),
            }
        };
        assert_eq!(told.first_chunk().map(|code| u16::from_be_bytes(*code)), Some(code), "{name}");
        assert!(
            std::str::from_utf8(&told[2..]).is_ok_and(|reason| !reason.is_empty()),
            "{name} has a reason"
        );
        client.ended();
    }
}

#[test]
fn over_a_socket_a_close_is_answered_once_with_its_own_code_and_the_server_ends_first() {
    for code in [1000, 1001, 1003, 1011, 3000, 4000, 4999] {
        let mut client = Client::open(&[]);
        client.send(&[text("last"), close(code, b"bye"), text("too late")].concat());
        assert_eq!(client.frame(), (1, b"last".to_vec()));
        assert_eq!(client.closed(), Some(code));
    }
    let mut client = Client::open(&[]);
    client.send(&frame(true, Opcode::Close, b""));
    assert_eq!(client.closed(), None);
    client.ended();
}

#[test]
fn over_a_socket_frames_behind_the_request_are_read() {
    let mut client = Client::open(&[text("in one piece"), frame(true, Opcode::Ping, b"p")].concat());
    let mut frames = [client.frame(), client.frame()];
    frames.sort();
    assert_eq!(frames, [(1, b"in one piece".to_vec()), (10, b"p".to_vec())]);
    client.send(&close(1000, b""));
    assert_eq!(client.closed(), Some(1000));
    client.ended();
}

#[test]
fn over_a_socket_a_session_byte_by_byte_is_echoed_whole() {
    let (bytes, told) = session();
    let mut client = Client::open(&[]);
    // Behind the close frame stands what nobody need read.
    let end = bytes.len() - 9 - text("too late").len();
    for byte in bytes[..end].chunks(1) {
        client.send(byte);
    }
    let (mut messages, mut pongs) = (Vec::new(), Vec::new());
    let code = loop {
        match client.frame() {
            (1, payload) => messages.push(Told::Text(String::from_utf8(payload).expect("text"))),
            (2, payload) => messages.push(Told::Binary(payload)),
            (10, payload) => pongs.push(payload),
            (8, payload) => break payload,
            other => panic!("{other:?}"),
        }
    };
    let sent = |told: &&Told| matches!(told, Told::Text(_) | Told::Binary(_));
    assert_eq!(messages, told.iter().filter(sent).cloned().collect::<Vec<_>>());
    assert_eq!(pongs.last(), Some(&vec![9; 125]), "the newest ping is answered");
    assert_eq!(code, 4123u16.to_be_bytes());
    client.ended();
}

#[test]
fn over_a_socket_a_large_message_that_the_kernel_takes_in_parts_comes_back_whole() {
    let mut client = Client::open(&[]);
    let payload: Vec<u8> = (0..LIMITS.max_message_bytes as u32).map(|index| (index % 251) as u8).collect();
    let mut writer = client.stream.try_clone().expect("a socket");
    let sent = frame(true, Opcode::Binary, &payload);
    const MESSAGES: usize = 100;
    let writing = std::thread::spawn(move || {
        for _ in 0..MESSAGES {
            writer.write_all(&sent).expect("the server reads on");
        }
    });
    for _ in 0..MESSAGES {
        assert!(client.frame() == (2, payload.clone()), "a message came back changed");
    }
    writing.join().expect("all was sent");
    client.send(&close(1000, b""));
    assert_eq!(client.closed(), Some(1000));
    client.ended();
}

#[test]
fn over_a_socket_a_client_that_leaves_amid_a_frame_harms_nobody() {
    for cut in [1, 3, 7] {
        let mut client = Client::open(&[]);
        client.send(&text("half a frame")[..cut]);
        drop(client);
    }
    let mut client = Client::open(&[]);
    client.send(&text("still here"));
    assert_eq!(client.frame(), (1, b"still here".to_vec()));
}

#[test]
fn a_close_frame_for_the_wire_is_one_that_the_reader_takes() {
    let mut bytes = Vec::new();
    push_close(&mut bytes, Some(CloseCode::Drain.number()), CloseCode::Drain.reason());
    let payload = bytes[2..].to_vec();
    let (told, violation) = read([&frame(true, Opcode::Close, &payload)[..]].into_iter());
    assert_eq!((told, violation), (vec![Told::Close(Some(4000), "draining".into())], None));
}
