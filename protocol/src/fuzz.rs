//! What holds for any bytes at all. `fuzz/` hands each of these what its fuzzer makes up; the property tests call them too.

use crate::{ClientFrame, Codec, ContentKind, Filter, Payload, ServerFrame, Topic};

/// What a broker reads from a client: it may be refused; what is taken reads back the same in either codec.
pub fn client_frames(data: &[u8]) {
    for codec in Codec::ALL {
        for frame in codec.decode_client(data).filter_map(Result::ok) {
            for codec in Codec::ALL {
                let mut bytes = Vec::new();
                codec.encode_client(&frame, &mut bytes);
                let back: Vec<_> = codec.decode_client(&bytes).collect();
                assert_eq!(back, [Ok(ClientFrame::clone(&frame))], "{codec:?}");
            }
        }
    }
}

/// The same for what a client reads from a broker.
pub fn server_frames(data: &[u8]) {
    for codec in Codec::ALL {
        for frame in codec.decode_server(data).filter_map(Result::ok) {
            for codec in Codec::ALL {
                let mut bytes = Vec::new();
                codec.encode_server(&frame, &mut bytes);
                let back: Vec<_> = codec.decode_server(&bytes).collect();
                assert_eq!(back, [Ok(ServerFrame::clone(&frame))], "{codec:?}");
            }
        }
    }
}

/// A JSON payload is taken where another parser takes it, but for its depth, and stands on one line then.
pub fn json_payload(data: &[u8]) {
    let valid =
        std::str::from_utf8(data).is_ok() && serde_json::from_slice::<serde::de::IgnoredAny>(data).is_ok();
    match Payload::of_kind(ContentKind::Json, data) {
        Ok(payload) => {
            assert!(valid);
            assert!(!payload.data().iter().any(|byte| matches!(byte, b'\n' | b'\r')));
            assert_eq!(
                Payload::json(payload.data()),
                Ok(payload.clone()),
                "what was taken once is taken as it is"
            );
        }
        Err(error) => assert!(!valid || error == crate::payload::PayloadError::Depth, "{error}"),
    }
}

/// A topic is a filter that takes itself; a filter without wildcards is a topic.
pub fn topics(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(topic) = Topic::parse(text) {
        assert!(Filter::parse(text).is_ok_and(|filter| !filter.is_wildcard() && filter.matches(&topic)));
    }
    if let Ok(filter) = Filter::parse(text) {
        assert_eq!(filter.as_topic().is_some(), !filter.is_wildcard());
        assert!(filter.overlaps(&filter));
    }
}
