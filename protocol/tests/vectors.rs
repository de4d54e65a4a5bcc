//! The vectors in `protocol/vectors/`, which clients in other languages read too: see the README there.

use std::{fs, path::PathBuf};

use serde::Deserialize;
use tidegate_protocol::{
    ClientFrame, Codec, Message, ServerFrame,
    codec::{self, DecodeError},
};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Frame {
    name: String,
    json: String,
    bincode: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Burst {
    name: String,
    from: Side,
    json: String,
    bincode: String,
    frames: usize,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Tagged {
    name: String,
    sub: u64,
    json: String,
    json_tagged: String,
    bincode: String,
    bincode_tagged: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Accepted {
    name: String,
    from: Side,
    codec: CodecName,
    input: String,
    json: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Refused {
    name: String,
    from: Side,
    codec: CodecName,
    input: String,
    code: u16,
    id: Option<u64>,
    fatal: bool,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Side {
    Client,
    Server,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
enum CodecName {
    Json,
    Bincode,
}

impl CodecName {
    /// The codec, and the bytes of an input in it.
    fn input(self, input: &str) -> (Codec, Vec<u8>) {
        match self {
            Self::Json => (Codec::Json, input.into()),
            Self::Bincode => (Codec::Bincode, from_hex(input)),
        }
    }
}

/// Frames of either side.
#[derive(Debug, PartialEq)]
enum AnyFrame {
    Client(ClientFrame),
    Server(ServerFrame),
}

impl Side {
    fn decode(self, codec: Codec, bytes: &[u8]) -> Vec<Result<AnyFrame, DecodeError>> {
        match self {
            Self::Client => codec.decode_client(bytes).map(|frame| frame.map(AnyFrame::Client)).collect(),
            Self::Server => codec.decode_server(bytes).map(|frame| frame.map(AnyFrame::Server)).collect(),
        }
    }

    fn decode_all(self, codec: Codec, bytes: &[u8], name: &str) -> Vec<AnyFrame> {
        let frames: Result<_, _> = self.decode(codec, bytes).into_iter().collect();
        frames.unwrap_or_else(|error| panic!("{name}: {codec:?} cannot be read: {error}"))
    }
}

impl AnyFrame {
    fn encode(&self, codec: Codec, out: &mut Vec<u8>) {
        match self {
            Self::Client(frame) => codec.encode_client(frame, out),
            Self::Server(frame) => codec.encode_server(frame, out),
        }
    }
}

fn encode_all(codec: Codec, frames: &[AnyFrame]) -> Vec<u8> {
    let mut out = Vec::new();
    for (index, frame) in frames.iter().enumerate() {
        if index > 0 {
            out.extend_from_slice(codec.separator());
        }
        frame.encode(codec, &mut out);
    }
    out
}

fn read<T: for<'de> Deserialize<'de>>(file: &str) -> Vec<T> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("vectors").join(file);
    let text = fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn from_hex(hex: &str) -> Vec<u8> {
    assert!(hex.len().is_multiple_of(2), "half a byte: {hex}");
    (0..hex.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&hex[at..at + 2], 16).expect("hexadecimal"))
        .collect()
}

/// Both forms give the same frames, and the frames give both forms.
fn check(side: Side, name: &str, json: &str, bincode: &str, count: usize) {
    let frames = side.decode_all(Codec::Json, json.as_bytes(), name);
    assert_eq!(frames.len(), count, "{name}");
    assert_eq!(side.decode_all(Codec::Bincode, &from_hex(bincode), name), frames, "{name}");
    assert_eq!(String::from_utf8(encode_all(Codec::Json, &frames)).unwrap(), json, "{name}");
    assert_eq!(to_hex(&encode_all(Codec::Bincode, &frames)), bincode, "{name}");
}

#[test]
fn client_frames_are_these_bytes() {
    for Frame { name, json, bincode } in read("client.json") {
        check(Side::Client, &name, &json, &bincode, 1);
    }
}

#[test]
fn server_frames_are_these_bytes() {
    for Frame { name, json, bincode } in read("server.json") {
        check(Side::Server, &name, &json, &bincode, 1);
    }
}

#[test]
fn one_message_carries_these_frames() {
    for Burst { name, from, json, bincode, frames } in read("bursts.json") {
        check(from, &name, &json, &bincode, frames);
    }
}

#[test]
fn a_message_is_tagged_at_its_end() {
    for Tagged { name, sub, json, json_tagged, bincode, bincode_tagged } in read("tagged.json") {
        let frame = codec::json::decode_server(json.as_bytes()).unwrap();
        let ServerFrame::Message(message) = frame else { panic!("{name}: not a message") };
        for (codec, bytes, tagged) in [
            (Codec::Json, json.into_bytes(), json_tagged.into_bytes()),
            (Codec::Bincode, from_hex(&bincode), from_hex(&bincode_tagged)),
        ] {
            let mut out = Vec::new();
            codec.encode_message(&message, &mut out);
            assert_eq!(out, bytes, "{name}");
            codec.tag_message(&mut out, sub);
            assert_eq!(out, tagged, "{name}");
            let for_one = ServerFrame::Message(Message { sub: Some(sub), ..message.clone() });
            assert_eq!(codec.decode_server(&out).collect::<Vec<_>>(), [Ok(for_one)], "{name}");
        }
    }
}

#[test]
fn these_inputs_are_taken_though_nobody_here_writes_them() {
    for Accepted { name, from, codec, input, json } in read("accepted.json") {
        let (codec, bytes) = codec.input(&input);
        let frames = from.decode_all(codec, &bytes, &name);
        assert_eq!(String::from_utf8(encode_all(Codec::Json, &frames)).unwrap(), json, "{name}");
    }
}

#[test]
fn these_inputs_are_refused_with_these_errors() {
    for Refused { name, from, codec, input, code, id, fatal } in read("refused.json") {
        let (codec, bytes) = codec.input(&input);
        match &from.decode(codec, &bytes)[..] {
            [Err(error)] => {
                assert_eq!(
                    (error.code.number(), error.id, error.fatal),
                    (code, id, fatal),
                    "{name}: {error}"
                );
            }
            other => panic!("{name}: {other:?}"),
        }
    }
}
