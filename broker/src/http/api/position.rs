//! Positions as texts: the `id:` of a server-sent event, `Last-Event-ID`, and `from` in a query.
//!
//! A position is `EPOCH:OFFSET`, in a stream that is not the default one `STREAM@EPOCH:OFFSET`; several stand in a list
//! with commas. `EPOCH:OFFSET..LIVE` says that the messages of a `last` were still on their way: it began when the log
//! stood at LIVE. Bytes of a stream's name that could be taken for any of this are percent-encoded.

use std::fmt::Write as _;

use tidegate_protocol::{
    Epoch, ErrorCode, From, Position,
    limits::{MAX_INTEGER, POSITIONS},
    position::{At, DEFAULT_STREAM, StreamName},
};

use super::{super::refusal::Refusal, query::percent_decode};

/// How far a reader is in one stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) stream: Option<StreamName>,
    pub(super) epoch: Epoch,
    pub(super) offset: u64,
    /// Where the log stood when the `last` began whose messages are still on their way.
    pub(super) live: Option<u64>,
}

/// Writes a list of places.
pub(super) fn write(places: &[Place], out: &mut Vec<u8>) {
    let mut text = String::new();
    for (index, Place { stream, epoch, offset, live }) in places.iter().enumerate() {
        if index > 0 {
            text.push(',');
        }
        if let Some(stream) = stream {
            for byte in stream.bytes() {
                if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'~') {
                    text.push(char::from(byte));
                } else {
                    let _ = write!(text, "%{byte:02X}");
                }
            }
            text.push('@');
        }
        let _ = write!(text, "{epoch}:{offset}");
        if let Some(live) = live.filter(|live| offset < live) {
            let _ = write!(text, "..{live}");
        }
    }
    out.extend_from_slice(text.as_bytes());
}

/// Reads a list of places.
pub(super) fn read(text: &str) -> Result<Vec<Place>, Refusal> {
    let bad = |why: &str| {
        let message = format!("{:?} is not a position: {why}", text.chars().take(256).collect::<String>());
        Refusal::error(ErrorCode::BadField, message)
    };
    let mut places: Vec<Place> = Vec::new();
    for part in text.split(',') {
        let (stream, rest) = match part.split_once('@') {
            Some((stream, rest)) => (Some(percent_decode(stream, false)?), rest),
            None => (None, part),
        };
        let (epoch, offsets) = rest.split_once(':').ok_or_else(|| bad("EPOCH:OFFSET is the form"))?;
        let epoch = epoch.parse().map_err(|_| bad("an epoch has 16 lower-case hexadecimal digits"))?;
        let (offset, live) = match offsets.split_once("..") {
            Some((offset, live)) => (offset, Some(live)),
            None => (offsets, None),
        };
        let number = |digits: &str| integer(digits).ok_or_else(|| bad("an offset is a whole number"));
        let stream = stream.filter(|name| name != DEFAULT_STREAM).map(StreamName::from);
        if places.iter().any(|place| place.stream == stream) {
            return Err(bad("it names a stream twice"));
        }
        places.push(Place { stream, epoch, offset: number(offset)?, live: live.map(number).transpose()? });
        if places.len() > POSITIONS {
            return Err(bad("it names too many streams"));
        }
    }
    Ok(places)
}

/// Reads what stands as `from` in a query: `live`, `beginning`, `last:N`, `since:MILLISECONDS` or positions.
pub(super) fn read_from(text: &str) -> Result<From, Refusal> {
    let bad = |what: &str| Refusal::error(ErrorCode::BadField, format!("`from`: {what}"));
    Ok(match text.split_once(':') {
        _ if text == "live" => From::Live,
        _ if text == "beginning" => From::Beginning,
        Some(("last", n)) => {
            let n = integer(n).and_then(|n| u32::try_from(n).ok());
            From::Last { n: n.ok_or_else(|| bad("last:N counts messages"))?, at: None }
        }
        Some(("since", time)) => {
            From::Since(integer(time).ok_or_else(|| bad("since:N is in milliseconds since the Unix epoch"))?)
        }
        Some(_) => From::Positions(positions(&read(text)?)),
        None => return Err(bad("is one of live, beginning, last:N, since:MILLISECONDS, EPOCH:OFFSET")),
    })
}

/// Where a reader goes on that was in these places, of a stream of events that began at `from`. Where that was a `last`
/// whose messages were still on their way, it is asked for as it stood then, and what lies up to the places is to be
/// passed over.
pub(super) fn resume(places: &[Place], from: From) -> From {
    match from {
        From::Last { n, .. } if places.iter().any(|place| place.live.is_some()) => {
            let at = places.iter().map(|place| Position {
                stream: place.stream.clone(),
                epoch: place.epoch,
                offset: place.live.unwrap_or(place.offset),
            });
            From::Last { n, at: Some(At::Positions(at.collect())) }
        }
        _ => From::Positions(positions(places)),
    }
}

fn positions(places: &[Place]) -> Vec<Position> {
    let position =
        |place: &Place| Position { stream: place.stream.clone(), epoch: place.epoch, offset: place.offset };
    places.iter().map(position).collect()
}

/// A number that JavaScript holds, in digits alone.
pub(super) fn integer(digits: &str) -> Option<u64> {
    let plain = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    digits.parse().ok().filter(|&number| plain && number <= MAX_INTEGER)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(stream: Option<&str>, offset: u64, live: Option<u64>) -> Place {
        Place { stream: stream.map(StreamName::from), epoch: Epoch(0x8f3a), offset, live }
    }

    #[test]
    fn what_is_written_reads_back_whatever_a_stream_is_called() {
        let places = [
            place(None, 42, None),
            place(Some("orders"), 0, Some(7)),
            place(Some("a,b@c:d..e%41"), 1, None),
            place(Some("größe"), 9, None),
        ];
        let mut text = Vec::new();
        write(&places, &mut text);
        let text = String::from_utf8(text).unwrap();
        assert!(text.is_ascii());
        assert!(text.starts_with("0000000000008f3a:42,orders@0000000000008f3a:0..7,a%2Cb%40c"), "{text}");
        assert_eq!(read(&text).unwrap(), places);
    }

    #[test]
    fn a_last_that_is_through_leaves_no_trace() {
        let mut text = Vec::new();
        write(&[place(None, 7, Some(7))], &mut text);
        assert_eq!(text, b"0000000000008f3a:7");
    }

    #[test]
    fn what_is_no_position_is_refused() {
        let epoch = "0000000000008f3a";
        let many = vec![format!("{epoch}:1"); 2].join(",");
        for bad in [
            "",
            ",",
            "live",
            "8f3a:1",
            epoch,
            &format!("{epoch}:"),
            &format!("{epoch}:-1"),
            &format!("{epoch}:1.."),
            &format!("{epoch}:9007199254740992"),
            &format!("a%zz@{epoch}:1"),
            &format!("default@{epoch}:1,{epoch}:2"),
            &many,
        ] {
            assert!(read(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn from_has_five_forms() {
        assert_eq!(read_from("live").unwrap(), From::Live);
        assert_eq!(read_from("beginning").unwrap(), From::Beginning);
        assert_eq!(read_from("last:20").unwrap(), From::Last { n: 20, at: None });
        assert_eq!(read_from("since:1790000000000").unwrap(), From::Since(1_790_000_000_000));
        let position = Position { stream: None, epoch: Epoch(0x8f3a), offset: 41 };
        assert_eq!(read_from("0000000000008f3a:41").unwrap(), From::Positions(vec![position]));
        for bad in ["", "newest", "last", "last:", "last:+1", "last:4294967296", "since:x", "last:1:2"] {
            assert!(read_from(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_last_that_was_cut_in_its_midst_is_asked_for_as_it_stood() {
        let from = From::Last { n: 3, at: None };
        let places = [place(None, 5, Some(9)), place(Some("b"), 7, None)];
        let From::Last { n: 3, at: Some(At::Positions(at)) } = resume(&places, from.clone()) else {
            panic!()
        };
        assert_eq!(at.iter().map(|position| position.offset).collect::<Vec<_>>(), [9, 7]);
        assert!(matches!(resume(&[place(None, 9, None)], from), From::Positions(_)));
        assert!(matches!(resume(&places, From::Live), From::Positions(_)));
    }
}
