//! `docs/protocol.md` says what the code does: its examples, its tables and its numbers.

use std::{collections::BTreeMap, fs, path::PathBuf};

use tidegate_protocol::{CloseCode, Codec, ErrorCode, ServerFrame, limits};

fn page() -> String {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../docs/protocol.md");
    fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// What stands under a heading of the second level.
fn section<'p>(page: &'p str, heading: &str) -> &'p str {
    let start = page.find(&format!("\n## {heading}\n")).unwrap_or_else(|| panic!("no section {heading:?}"));
    let rest = &page[start + 1..];
    rest[2..].find("\n## ").map_or(rest, |end| &rest[..end + 2])
}

/// The lines of all code blocks of one language.
fn code<'p>(text: &'p str, language: &str) -> Vec<&'p str> {
    let mut lines = text.lines();
    let mut code = Vec::new();
    while lines.any(|line| line.strip_prefix("```") == Some(language)) {
        code.extend(lines.by_ref().take_while(|&line| line != "```"));
    }
    code
}

/// The cells of all table rows whose first cell is a number.
fn numbered_rows(text: &str) -> Vec<(u64, Vec<&str>)> {
    (text.lines())
        .filter_map(|line| {
            let cells: Vec<_> =
                line.strip_prefix('|')?.strip_suffix('|')?.split('|').map(str::trim).collect();
            Some((cells[0].parse().ok()?, cells[1..].to_vec()))
        })
        .collect()
}

fn encode_client(codec: Codec, line: &str) -> Vec<u8> {
    let mut out = Vec::new();
    for frame in Codec::Json.decode_client(line.as_bytes()) {
        codec.encode_client(&frame.unwrap_or_else(|e| panic!("{line}: {e}")), &mut out);
    }
    out
}

fn encode_server(codec: Codec, line: &str) -> Vec<u8> {
    let mut out = Vec::new();
    for frame in Codec::Json.decode_server(line.as_bytes()) {
        codec.encode_server(&frame.unwrap_or_else(|e| panic!("{line}: {e}")), &mut out);
    }
    out
}

/// Every example is written as our codec writes it, and its number in bincode is the table's.
fn check_examples(
    heading: &str,
    kinds: usize,
    numbers: std::ops::Range<u64>,
    encode: fn(Codec, &str) -> Vec<u8>,
) {
    let page = page();
    let table: BTreeMap<&str, u64> = (numbered_rows(section(&page, "bincode, byte by byte")).into_iter())
        .filter(|(number, _)| numbers.contains(number))
        .map(|(number, cells)| (cells[0].trim_matches('`'), number))
        .collect();
    assert_eq!(table.len(), kinds, "{table:?}");
    let examples = code(section(&page, heading), "json");
    let mut seen = BTreeMap::new();
    for line in &examples {
        assert_eq!(String::from_utf8(encode(Codec::Json, line)).unwrap(), *line);
        let op = line.strip_prefix(r#"{"op":""#).and_then(|rest| rest.split('"').next()).expect("an op");
        assert_eq!(u64::from(encode(Codec::Bincode, line)[0]), table[op], "{op}");
        seen.insert(op, ());
    }
    assert_eq!(seen.len(), kinds, "a frame has no example: {seen:?}");
}

#[test]
fn every_client_frame_has_an_example_and_its_number() {
    check_examples("Client frames", 8, 1..16, encode_client);
}

#[test]
fn every_server_frame_has_an_example_and_its_number() {
    check_examples("Server frames", 10, 16..256, encode_server);
}

#[test]
fn the_worked_example_is_what_the_codec_writes() {
    let page = page();
    let section = section(&page, "bincode, byte by byte");
    let hex: String = code(section, "hex")
        .iter()
        .flat_map(|line| line.split(';').next())
        .flat_map(str::split_whitespace)
        .collect();
    let frame = section.lines().find_map(|line| line.split_once("the message frame `")?.1.strip_suffix("`:"));
    let bytes = encode_server(Codec::Bincode, frame.expect("the frame the example is of"));
    assert_eq!(bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>(), hex);
    assert!(matches!(Codec::Bincode.decode_server(&bytes).next(), Some(Ok(ServerFrame::Message(_)))));
}

#[test]
fn the_table_of_errors_is_the_codes() {
    let page = page();
    let rows: Vec<_> = (numbered_rows(section(&page, "Errors")).into_iter())
        .map(|(number, cells)| (number, cells[0].trim_matches('`').to_owned(), cells[1] == "yes"))
        .collect();
    let code: Vec<_> =
        ErrorCode::ALL.iter().map(|e| (u64::from(e.number()), e.name().to_owned(), e.retry())).collect();
    assert_eq!(rows, code);
}

#[test]
fn the_table_of_close_codes_is_the_codes() {
    let page = page();
    let rows: Vec<_> = (numbered_rows(section(&page, "Close codes")).into_iter())
        .map(|(number, cells)| (number, cells[0].to_owned(), cells[1] == "yes"))
        .collect();
    let code: Vec<_> = CloseCode::ALL
        .iter()
        .map(|c| (u64::from(c.number()), c.reason().to_owned(), c.reconnect()))
        .collect();
    assert_eq!(rows, code);
}

#[test]
fn the_limits_and_defaults_are_the_codes() {
    let page = page();
    for row in [
        format!("| topic, filter | {} bytes, {} tokens |", limits::TOPIC_BYTES, limits::TOPIC_TOKENS),
        format!("| JSON payload | {} levels |", limits::JSON_DEPTH),
        format!("| stream's name | {} bytes |", limits::STREAM_NAME_BYTES),
        format!("| positions in one list | {} |", limits::POSITIONS),
        format!("| key | {} bytes |", limits::KEY_BYTES),
        format!("| headers | {}, no name twice |", limits::HEADERS),
        format!("| headers' names and values together | {} bytes |", limits::HEADER_BYTES),
        format!("| idempotency key | {} bytes |", limits::IDEMPOTENCY_BYTES),
        format!("| `client`, `instance` | {} bytes |", limits::ID_BYTES),
        format!("| token | {} bytes |", limits::TOKEN_BYTES),
        format!("| ids, offsets, times, counts | {} (2^53 - 1) |", limits::MAX_INTEGER),
        format!("at most {} deep", limits::JSON_DEPTH),
        format!("messages may wait; {} where absent", limits::DEFAULT_LIMIT),
        format!("bytes may wait; {} where absent", limits::DEFAULT_LIMIT_BYTES),
        format!("at most {} KiB; a larger frame goes alone", limits::BURST_BYTES / 1024),
        format!(
            r#""payload_bytes":{},"message_bytes":{}"#,
            limits::DEFAULT_PAYLOAD_BYTES,
            limits::DEFAULT_CLIENT_MESSAGE_BYTES
        ),
    ] {
        assert!(page.contains(&row), "not on the page: {row}");
    }
    for codec in Codec::ALL {
        assert!(page.contains(&format!("| `{}` |", codec.subprotocol())));
    }
}
