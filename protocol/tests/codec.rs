//! The codecs as a peer meets them: what a person types, what is refused and how.

use tidegate_protocol::{
    ClientFrame, Codec, ErrorCode, ServerFrame,
    codec::{self, DecodeError},
    frame::{AckResult, Published},
};

fn client(line: &str) -> Result<ClientFrame, DecodeError> {
    codec::json::decode_client(line.as_bytes())
}

#[test]
fn a_client_frame_may_have_its_fields_in_any_order_and_reads_back_in_both_codecs() {
    for line in [
        r#"{"op":"connect","id":1,"token":"t","client":"shop/2.1","instance":"b7"}"#,
        r#"{"filter":"chat.>","echo":false,"from":"beginning","op":"subscribe","id":2,"limit":256,"overflow":"catch_up","limit_bytes":262144,"credit":100}"#,
        r#" { "id" : 3 , "json" : { "text" : "hi" } , "topic" : "chat.room1" , "op" : "publish", "key":"k1","headers":{"a":"b"},"idempotency":"6b1","report":true } "#,
        r#"{"op":"publish","topic":"a","text":"\u00e4\n\ud83d\ude00"}"#,
        r#"{"op":"publish","topic":"a","binary":"AAEC/w=="}"#,
        r#"{"op":"publish","topic":"a","json":null}"#,
        r#"{"op":"unsubscribe","id":4,"sub":2}"#,
        r#"{"op":"credit","sub":2,"add":100}"#,
        r#"{"op":"ping","id":5}"#,
        r#"{"op":"refresh","id":5,"token":"t"}"#,
        r#"{"op":"history","id":6,"topic":"chat.room1","from":{"last":20},"limit":100}"#,
    ] {
        let frame = client(line).unwrap_or_else(|e| panic!("{line}: {e}"));
        for codec in Codec::ALL {
            let mut bytes = Vec::new();
            codec.encode_client(&frame, &mut bytes);
            let back: Vec<_> = codec.decode_client(&bytes).collect();
            assert_eq!(back, [Ok(frame.clone())], "{codec:?} {:?}", String::from_utf8_lossy(&bytes));
        }
    }
}

#[test]
fn every_kind_of_ack_is_told_apart_without_knowing_the_request() {
    for result in
        [AckResult::Done, AckResult::Published(Published { position: None, duplicate: false, report: None })]
    {
        let frame = ServerFrame::Ack { id: 3, result };
        for codec in Codec::ALL {
            let mut bytes = Vec::new();
            codec.encode_server(&frame, &mut bytes);
            assert_eq!(codec.decode_server(&bytes).collect::<Vec<_>>(), [Ok(frame.clone())]);
        }
    }
}

#[test]
fn a_frame_that_is_refused_says_why_and_for_which_request() {
    let deep = |n: usize| "[".repeat(n) + &"]".repeat(n);
    let payload = |json: &str| format!(r#"{{"op":"publish","id":9,"topic":"a","json":{json}}}"#);
    for (line, id, code) in [
        ("{".into(), None, ErrorCode::MalformedFrame),
        ("5".into(), None, ErrorCode::MalformedFrame),
        (r#"["ping",9]"#.into(), None, ErrorCode::MalformedFrame),
        (r#"{"id":9,"op":"ping""#.into(), Some(9), ErrorCode::MalformedFrame),
        (r#"{"op":"ping","id":9}{}"#.into(), Some(9), ErrorCode::MalformedFrame),
        (r#"{"op":"dance","id":9,"x":1}"#.into(), Some(9), ErrorCode::UnknownOp),
        (r#"{"op":"ping","id":9,"x":1}"#.into(), Some(9), ErrorCode::BadField),
        (r#"{"op":"ping","topic":"a","id":9}"#.into(), Some(9), ErrorCode::BadField),
        (r#"{"op":7,"id":9}"#.into(), Some(9), ErrorCode::BadField),
        (r#"{"id":9}"#.into(), Some(9), ErrorCode::BadField),
        (r#"{"op":"ping"}"#.into(), None, ErrorCode::BadField),
        (r#"{"op":"ping","id":9,"id":9}"#.into(), Some(9), ErrorCode::BadField),
        (r#"{"op":"ping","id":9007199254740992}"#.into(), None, ErrorCode::BadField),
        (r#"{"op":"ping","id":-1}"#.into(), None, ErrorCode::BadField),
        (r#"{"op":"publish","topic":5,"id":9}"#.into(), Some(9), ErrorCode::BadField),
        (r#"{"op":"publish","topic":"a..b","id":9,"text":""}"#.into(), Some(9), ErrorCode::TopicInvalid),
        (r#"{"op":"subscribe","filter":">.a","id":9}"#.into(), Some(9), ErrorCode::FilterInvalid),
        (r#"{"op":"publish","topic":"a","id":9}"#.into(), Some(9), ErrorCode::BadField),
        (r#"{"op":"publish","topic":"a","id":9,"text":"","json":1}"#.into(), Some(9), ErrorCode::BadField),
        (r#"{"op":"publish","topic":"a","id":9,"binary":"AA"}"#.into(), Some(9), ErrorCode::PayloadInvalid),
        (payload("[1,]"), Some(9), ErrorCode::MalformedFrame),
        (payload(&deep(65)), Some(9), ErrorCode::TooDeep),
        (payload(&deep(100_000)), Some(9), ErrorCode::TooDeep),
        (deep(65), None, ErrorCode::TooDeep),
        (deep(100_000), None, ErrorCode::TooDeep),
        ("[".repeat(100_000), None, ErrorCode::TooDeep),
        (format!(r#"{{"op":"ping","id":9,"x":{}}}"#, deep(100_000)), Some(9), ErrorCode::TooDeep),
        (
            format!(r#"{{"op":"subscribe","filter":"a","from":{},"id":9}}"#, deep(100_000)),
            Some(9),
            ErrorCode::TooDeep,
        ),
    ] {
        let error = client(&line).unwrap_err();
        let line = &line[..line.len().min(80)];
        assert_eq!((error.id, error.code, error.fatal), (id, code, false), "{line}: {error}");
        assert!(error.message.len() <= 256, "{line}");
    }
    assert!(client(&payload(&deep(64))).is_ok());
}
