//! What a stream of events costs that nothing comes over.
//!
//! A test of its own process: what another one did meanwhile would be counted with it.

#![cfg(target_os = "linux")]

mod http;

use std::io::Read;

use http::Api;

/// Of this process, in KiB.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// The test's own end of a stream, too, is in this process.
#[test]
fn a_thousand_idle_streams_cost_what_is_stated() {
    const STREAMS: u64 = 1000;
    /// KiB for each, with hyper's buffers: docs/http.md states it.
    const EACH: u64 = 32;
    let api = Api::start();
    let open = || {
        let mut stream = api.send("GET /v1/subscribe?filter=a", &[], b"");
        // Not through a buffer of its own: the first events are here, and that is all.
        let mut got = Vec::new();
        while !got.windows(4).any(|end| end == b"id: ") {
            let mut piece = [0; 256];
            let read = stream.read(&mut piece).unwrap();
            assert!(read > 0);
            got.extend_from_slice(&piece[..read]);
        }
        stream
    };
    let _warm: Vec<_> = (0..50).map(|_| open()).collect();
    let before = resident();
    let streams: Vec<_> = (0..STREAMS).map(|_| open()).collect();
    let each = resident().saturating_sub(before) / STREAMS;
    eprintln!("{each} KiB for each idle stream of events");
    assert!(each <= EACH, "{each} KiB");
    // They are all there.
    let ack = api.ask("POST /v1/topics/a?report=true", &[("Content-Type", "application/json")], b"1").json();
    assert_eq!(ack["report"]["matched"], STREAMS + 50);
    drop(streams);
}
