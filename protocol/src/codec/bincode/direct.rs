//! The frames that nearly all of the traffic consists of, a publish and a message, without bincode's derived steps:
//! the same bytes in a fourth of the instructions. Tests hold them to what is derived.

use super::{kind_number, number};
use crate::{
    frame::{ClientFrame, Message, Publish},
    limits,
    payload::{ContentKind, Payload},
    topic::{Topic, Topics},
};

/// Reads a publish frame as most are: whole, valid, without headers. None of any other; what is wrong with one is for
/// the derived steps to say.
#[inline]
pub(super) fn publish(bytes: &[u8], topics: Option<&mut Topics>) -> Option<(ClientFrame, usize)> {
    let mut fields = Fields(bytes);
    if fields.integer()? != number::PUBLISH {
        return None;
    }
    let id = if fields.flag()? { Some(fields.integer()?) } else { None };
    let topic = fields.bytes()?;
    let kind = match fields.integer()? {
        0 => ContentKind::Json,
        1 => ContentKind::Text,
        2 => ContentKind::Binary,
        _ => return None,
    };
    let data = fields.bytes()?;
    let key = fields.optional_text(limits::KEY_BYTES)?;
    let headers = fields.integer()?;
    let idempotency = fields.optional_text(limits::IDEMPOTENCY_BYTES)?;
    let report = fields.flag()?;
    if headers > 0 || id.is_some_and(|id| id > limits::MAX_INTEGER) {
        return None;
    }
    let topic = match topics {
        Some(topics) => topics.parse_bytes(topic)?,
        None => Topic::parse(std::str::from_utf8(topic).ok()?).ok()?,
    };
    let publish = Publish {
        id,
        topic,
        payload: Payload::of_kind(kind, data).ok()?,
        key: key.map(Into::into),
        headers: Vec::new(),
        idempotency: idempotency.map(Into::into),
        report,
    };
    Some((ClientFrame::Publish(publish), bytes.len() - fields.0.len()))
}

/// What is left of a frame.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    #[inline]
    fn integer(&mut self) -> Option<u64> {
        let (&first, rest) = self.0.split_first()?;
        self.0 = rest;
        match first {
            0..=250 => Some(first.into()),
            251 => self.word().map(|word| u16::from_le_bytes(word).into()),
            252 => self.word().map(|word| u32::from_le_bytes(word).into()),
            253 => self.word().map(u64::from_le_bytes),
            _ => None,
        }
    }

    fn word<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (word, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*word)
    }

    #[inline]
    fn flag(&mut self) -> Option<bool> {
        let (&flag, rest) = self.0.split_first()?;
        self.0 = rest;
        (flag <= 1).then_some(flag == 1)
    }

    #[inline]
    fn bytes(&mut self) -> Option<&'a [u8]> {
        let length = usize::try_from(self.integer()?).ok()?;
        let (bytes, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(bytes)
    }

    /// A text of at most `limit` bytes; within, whether there is one.
    #[inline]
    fn optional_text(&mut self, limit: usize) -> Option<Option<&'a str>> {
        if !self.flag()? {
            return Some(None);
        }
        let bytes = self.bytes()?;
        if bytes.len() > limit {
            return None;
        }
        std::str::from_utf8(bytes).ok().map(Some)
    }
}

/// Appends a message's frame to `out`.
pub(super) fn message(message: &Message, out: &mut Vec<u8>) {
    let Message { topic, stream, offset, prev, time, payload, key, headers, sub } = message;
    let mut head = Head { bytes: [0; Head::BYTES], length: 0 };
    head.integer(number::MESSAGE);
    head.integer(topic.as_str().len() as u64);
    // One growth for nearly every message: the integers and flags take less than this.
    out.reserve(Head::BYTES + topic.as_str().len() + payload.len());
    head.flush(out);
    out.extend_from_slice(topic.as_str().as_bytes());
    match stream {
        None => head.byte(0),
        Some(stream) => {
            head.byte(1);
            head.integer(stream.len() as u64);
            head.flush(out);
            out.extend_from_slice(stream.as_bytes());
        }
    }
    head.optional(*offset);
    head.optional(*prev);
    head.integer(*time);
    head.integer(kind_number(payload.kind()));
    head.integer(payload.len() as u64);
    head.flush(out);
    out.extend_from_slice(payload.data());
    if key.is_none() && headers.is_empty() && sub.is_none() {
        return out.extend_from_slice(&[0, 0, 0]);
    }
    match key {
        None => head.byte(0),
        Some(key) => {
            head.byte(1);
            head.integer(key.len() as u64);
            head.flush(out);
            out.extend_from_slice(key.as_bytes());
        }
    }
    head.integer(headers.len() as u64);
    for text in headers.iter().flat_map(|(name, value)| [name, value]) {
        head.integer(text.len() as u64);
        head.flush(out);
        out.extend_from_slice(text.as_bytes());
    }
    head.optional(*sub);
    head.flush(out);
}

/// Integers and flags that stand together, gathered before they are appended.
struct Head {
    bytes: [u8; Head::BYTES],
    length: usize,
}

impl Head {
    /// Room for what stands between two texts, at most: three optional integers and two others.
    const BYTES: usize = 64;

    #[inline]
    fn byte(&mut self, byte: u8) {
        self.bytes[self.length] = byte;
        self.length += 1;
    }

    #[inline]
    fn integer(&mut self, value: u64) {
        match value {
            0..=250 => self.byte(value as u8),
            251..=0xffff => self.word(251, &(value as u16).to_le_bytes()),
            0x1_0000..=0xffff_ffff => self.word(252, &(value as u32).to_le_bytes()),
            _ => self.word(253, &value.to_le_bytes()),
        }
    }

    #[inline]
    fn word(&mut self, length: u8, bytes: &[u8]) {
        self.byte(length);
        self.bytes[self.length..][..bytes.len()].copy_from_slice(bytes);
        self.length += bytes.len();
    }

    #[inline]
    fn optional(&mut self, value: Option<u64>) {
        match value {
            None => self.byte(0),
            Some(value) => {
                self.byte(1);
                self.integer(value);
            }
        }
    }

    #[inline]
    fn flush(&mut self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.bytes[..self.length]);
        self.length = 0;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{codec::bincode, position::StreamName};

    /// Integers of every length.
    fn integer() -> impl Strategy<Value = u64> {
        (0..64u32, any::<u64>()).prop_map(|(shift, bits)| bits >> shift)
    }

    fn text(most: usize) -> impl Strategy<Value = String> {
        proptest::collection::vec(any::<char>(), 0..most).prop_map(String::from_iter)
    }

    proptest! {
        #[test]
        fn a_message_has_the_bytes_that_are_derived(
            length in 1usize..250,
            stream in proptest::option::of("[a-z]{1,20}"),
            (offset, prev, sub) in (proptest::option::of(integer()), proptest::option::of(integer()), proptest::option::of(integer())),
            time in integer(),
            data in text(400),
            key in proptest::option::of(text(40)),
            headers in proptest::collection::vec((text(8), text(300)), 0..4),
        ) {
            let message = Message {
                topic: Topic::parse(&"t".repeat(length)).unwrap(),
                stream: stream.map(|name| StreamName::from(name.as_str())),
                offset,
                prev,
                time,
                payload: Payload::text(data),
                key: key.map(Into::into),
                headers: headers.into_iter().map(|(name, value)| (name.into(), value.into())).collect(),
                sub,
            };
            let (mut direct, mut derived) = (vec![7], vec![7]);
            super::message(&message, &mut direct);
            bincode::write(&mut derived, number::MESSAGE, bincode::MessageBody::of(&message));
            prop_assert_eq!(direct, derived);
        }

        #[test]
        fn a_publish_that_is_taken_is_what_is_derived(
            id in proptest::option::of(integer()),
            topic in prop_oneof!["[a-z.]{0,20}", "[a-z.*> \u{e9}]{0,20}"],
            kind in 0u64..4,
            data in prop_oneof![Just(b"[1]".to_vec()), proptest::collection::vec(any::<u8>(), 0..300)],
            (key, idempotency) in (proptest::option::of(text(40)), proptest::option::of(text(40))),
            headers in proptest::collection::vec(Just(("name", "value")), 0..2),
            report in any::<bool>(),
            (cut, flip) in (proptest::option::weighted(0.2, any::<prop::sample::Index>()), proptest::option::weighted(0.3, (any::<prop::sample::Index>(), any::<u8>()))),
        ) {
            let mut bytes = Vec::new();
            let fields = bincode::Publish {
                id,
                topic: &topic,
                kind,
                data: &data,
                key: key.as_deref(),
                headers: bincode::List(headers),
                idempotency: idempotency.as_deref(),
                report,
            };
            bincode::write(&mut bytes, number::PUBLISH, fields);
            if let Some((at, with)) = flip {
                let at = at.index(bytes.len());
                bytes[at] = with;
            }
            if let Some(cut) = cut {
                bytes.truncate(cut.index(bytes.len()));
            }
            bytes.extend_from_slice(b"rest");
            let mut topics = Topics::new(4);
            let (derived, length) = bincode::decode_derived(&bytes);
            let topics = &mut topics;
            let ways = [publish(&bytes, None), publish(&bytes, Some(topics)), publish(&bytes, Some(topics))];
            for (frame, taken) in ways.into_iter().flatten() {
                prop_assert_eq!((Ok(frame), taken), (derived.clone(), length));
            }
        }
    }

    #[test]
    fn a_publish_as_most_are_is_taken() {
        for (id, data) in [(None, &b"[1]"[..]), (Some(1 << 40), b"{}"), (Some(7), &[b'1'; 300])] {
            let mut bytes = Vec::new();
            let fields = bincode::Publish {
                id,
                topic: "chat.room1",
                kind: 0,
                data,
                key: Some("key"),
                headers: bincode::List(Vec::new()),
                idempotency: None,
                report: true,
            };
            bincode::write(&mut bytes, number::PUBLISH, fields);
            assert!(publish(&bytes, None).is_some());
        }
    }
}
