//! A peer claims lengths and counts it never sends. One test, since it counts what the whole process allocates.

use std::{fs, path::PathBuf};

use peak_alloc::PeakAlloc;
use tidegate_protocol::Codec;

#[global_allocator]
static ALLOCATOR: PeakAlloc = PeakAlloc;

/// What may be allocated whatever the input: an error's text, the first pieces of lists.
const BASE: usize = 16 * 1024;
/// What may be allocated for a byte of a client's input. A value of the wrong type is quoted in its error, escaped,
/// before that is cut.
const PER_CLIENT_BYTE: usize = 24;
/// What may be allocated for a byte of a broker's input, whom its clients chose: a list of empty objects is the worst,
/// three bytes each.
const PER_SERVER_BYTE: usize = 256;

#[test]
fn decoding_allocates_by_what_was_sent_and_never_by_what_was_claimed() {
    let claims: [&[u8]; 8] = [
        &[0xfb, 0xff, 0xff],
        &[0xfc, 0xff, 0xff, 0xff, 0xff],
        &[0xfd, 0, 0, 0, 0, 2, 0, 0, 0],    // 2^33
        &[0xfd, 0, 0, 0, 0, 0, 0, 0, 0x80], // 2^63
        &[0xfd, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f],
        &[0xfd, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff],
        &[0xfd, 0, 0, 0, 1, 0, 0, 0, 0], // 2^24: what the codec's own limit allows
        &[0xfe, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
    ];
    let mut inputs = 0;
    for file in ["client.json", "server.json"] {
        for frame in vectors(file) {
            for at in 1..frame.len() {
                for claim in claims {
                    // In the place of a byte that may be a length, with and without what follows.
                    let lie = [&frame[..at], claim].concat();
                    let whole = [&lie[..], &frame[at + 1..]].concat();
                    for input in [lie, whole] {
                        check(Codec::Bincode, &input);
                        inputs += 1;
                    }
                }
            }
        }
    }
    assert!(inputs > 10_000, "only {inputs} inputs");

    // Many small items, nested where something can be: as much memory for as few bytes as there is to get.
    for number in 1..=25 {
        for filler in [0, 1, b'a'] {
            check(Codec::Bincode, &[&[number][..], &[filler; 60_000]].concat());
            let mut page = vec![number, 9, 0xfb, 0xff, 0xff];
            page.resize(60_000, filler);
            check(Codec::Bincode, &page);
        }
    }
    for text in [
        "[".repeat(60_000),
        format!(r#"{{"op":"publish","topic":"a","json":{}"#, "[".repeat(60_000)),
        format!(r#"{{"op":"mark","positions":[{}]"#, "{},".repeat(20_000)),
        format!(r#"{{"op":"history","messages":[{}]"#, "{},".repeat(20_000)),
        format!(r#"{{"op":"subscribe","from":[{}{{}}]}}"#, "{},".repeat(20_000)),
        format!(r#"{{"op":"publish","headers":{{{}}}}}"#, r#""":"","#.repeat(10_000)),
        format!(r#"{{"op":"ping","id":"{}"}}"#, "\u{7f}".repeat(60_000)),
        format!(r#"{{"op":"ping","{}":1}}"#, "\u{7f}".repeat(60_000)),
        format!(r#"{{"op":"{}"}}"#, "\u{7f}".repeat(60_000)),
    ] {
        check(Codec::Json, text.as_bytes());
    }
}

fn check(codec: Codec, input: &[u8]) {
    let bound = BASE + PER_CLIENT_BYTE * input.len();
    let peak = peak(|| codec.decode_client(input).for_each(drop));
    assert!(peak <= bound, "{peak} bytes for a client's {}: {input:02x?}", input.len());

    let bound = BASE + PER_SERVER_BYTE * input.len();
    let peak = self::peak(|| codec.decode_server(input).for_each(drop));
    assert!(peak <= bound, "{peak} bytes for a broker's {}: {input:02x?}", input.len());
}

/// How much more was allocated at once while `work` ran.
fn peak(work: impl FnOnce()) -> usize {
    ALLOCATOR.reset_peak_usage();
    let before = ALLOCATOR.current_usage();
    work();
    ALLOCATOR.peak_usage().saturating_sub(before)
}

fn vectors(file: &str) -> Vec<Vec<u8>> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("vectors").join(file);
    let text = fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let frames: Vec<serde_json::Value> = serde_json::from_str(&text).expect("a list of frames");
    (frames.iter())
        .map(|frame| {
            let hex = frame["bincode"].as_str().expect("hexadecimal");
            (0..hex.len())
                .step_by(2)
                .map(|at| u8::from_str_radix(&hex[at..at + 2], 16).expect("hexadecimal"))
                .collect()
        })
        .collect()
}
