//! The fallback's sessions: frames up by numbered requests, frames down by one stream of events.

mod http;

use std::{net::Shutdown, time::Duration};

use http::{Answer, Api, Events};
use serde_json::{Value, json};

/// A session as the SDK holds it.
struct Session<'a> {
    api: &'a Api,
    events: Events,
    secret: String,
    seq: u64,
    frames: std::collections::VecDeque<Value>,
}

impl<'a> Session<'a> {
    fn open(api: &'a Api, frames: &str) -> Self {
        let mut events = api.events("POST /v1/sessions", &[], frames.as_bytes());
        let first = events.next().unwrap();
        assert_eq!(first.name, "session");
        let secret = first.json()["session"].as_str().unwrap().to_owned();
        assert!(secret.len() == 32 && secret.bytes().all(|byte| byte.is_ascii_hexdigit()), "{secret}");
        Self { api, events, secret, seq: 0, frames: Default::default() }
    }

    fn bring_as(&self, seq: u64, frames: &str) -> Answer {
        let line = format!("POST /v1/sessions/{}/frames?seq={seq}", self.secret);
        self.api.ask(&line, &[("Content-Type", "text/plain;charset=UTF-8")], frames.as_bytes())
    }

    #[track_caller]
    fn bring(&mut self, frames: &str) {
        self.seq += 1;
        let answer = self.bring_as(self.seq, frames);
        assert_eq!(answer.status, 204, "{answer:?} {:?}", answer.text());
    }

    #[track_caller]
    fn frame(&mut self) -> Value {
        while self.frames.is_empty() {
            self.frames.extend(self.events.frames());
        }
        self.frames.pop_front().unwrap()
    }

    /// The next frame with this `op`.
    #[track_caller]
    fn until(&mut self, op: &str) -> Value {
        loop {
            let frame = self.frame();
            if frame["op"] == op {
                return frame;
            }
        }
    }
}

#[test]
fn what_rides_in_the_first_request_is_carried_out_first() {
    let api = Api::start();
    let mut session = Session::open(
        &api,
        "{\"op\":\"connect\",\"id\":1,\"instance\":\"i\"}\n{\"op\":\"subscribe\",\"id\":2,\"filter\":\"a\"}\n",
    );
    assert_eq!(session.frame()["op"], "welcome");
    assert_eq!(session.frame()["id"], 2);
    session.bring(r#"{"op":"publish","id":3,"topic":"a","json":{"n":1}}"#);
    let both = [session.frame(), session.frame()];
    assert!(
        both.iter().any(|frame| frame["op"] == "message" && frame["json"] == json!({"n": 1})),
        "{both:?}"
    );
    assert!(both.iter().any(|frame| frame["op"] == "ack" && frame["id"] == 3), "{both:?}");
}

#[test]
fn frames_are_carried_out_once_and_in_order() {
    let api = Api::start();
    let mut session = Session::open(&api, r#"{"op":"subscribe","id":1,"filter":"a"}"#);
    session.until("ack");
    let publish = |id: u64| format!(r#"{{"op":"publish","id":{id},"topic":"a","json":{id}}}"#);
    session.bring(&[publish(2), publish(3)].join("\n"));
    session.bring("");
    session.bring(&publish(4));
    // The answers were lost: the same requests again.
    for seq in [3, 3, 1] {
        assert_eq!(session.bring_as(seq, &publish(100)).status, 204);
    }
    let hole = session.bring_as(5, &publish(101)).refused(409, 409);
    assert!(hole.contains("request 5 came where 4 was to come"), "{hole}");
    session.bring(&publish(5));
    let mut got = Vec::new();
    while got.len() < 4 {
        got.push(session.until("message")["json"].as_u64().unwrap());
    }
    assert_eq!(got, [2, 3, 4, 5]);
    assert_eq!(api.get("/v1/streams").json()["streams"][0]["offset"], 4, "nothing was carried out twice");
}

#[test]
fn what_is_no_session_or_no_number_is_refused() {
    let api = Api::start();
    let session = Session::open(&api, "");
    for secret in ["x", "00", &"0".repeat(32), &"g".repeat(32), &session.secret.to_uppercase()] {
        if *secret != *session.secret {
            api.ask(&format!("POST /v1/sessions/{secret}/frames?seq=1"), &[], b"").refused(404, 404);
        }
    }
    let line = |query: &str| format!("POST /v1/sessions/{}/frames{query}", session.secret);
    for query in ["", "?seq=0", "?seq=x", "?seq=-1", "?seq=9007199254740992", "?seq=1&more=1"] {
        api.ask(&line(query), &[], b"").refused(400, 1003);
    }
    api.ask(&line("?seq=1"), &[], b"\xff").refused(400, 1001);
    let most = tidegate_protocol::limits::DEFAULT_CLIENT_MESSAGE_BYTES;
    assert!(session.bring_as(1, &" ".repeat(most + 1)).refused(413, 413).contains("max_message_bytes"));
    assert_eq!(session.bring_as(1, &" ".repeat(most)).status, 204);
    api.ask("POST /v1/sessions?x=1", &[], b"").refused(400, 1003);
    api.ask("POST /v1/sessions", &[], b"\xff").refused(400, 1001);
}

#[test]
fn the_end_of_the_stream_is_the_end_of_the_session() {
    let api = Api::start();
    let mut watcher = Session::open(&api, r#"{"op":"subscribe","id":1,"filter":"a"}"#);
    watcher.until("ack");
    let mut session = Session::open(&api, r#"{"op":"subscribe","id":1,"filter":"a"}"#);
    session.until("ack");
    let mut report = |id: u64| {
        watcher.bring(&format!(r#"{{"op":"publish","id":{id},"topic":"a","json":1,"report":true}}"#));
        watcher.until("ack")["report"]["matched"].clone()
    };
    assert_eq!(report(2), 2);
    session.events.socket().shutdown(Shutdown::Both).unwrap();
    // The kernel tells the broker in its own time, and nothing else does.
    let mut id = 3;
    while report(id) != 1 {
        id += 1;
    }
    session.bring_as(1, "").refused(404, 404);
}

#[test]
fn a_close_by_the_broker_is_an_event_with_its_code() {
    let api = Api::with(|config| config.limits.errors = 1);
    let mut session = Session::open(&api, "");
    session.bring("no frame\nno frame");
    assert_eq!(session.frame()["code"], 1001);
    assert_eq!(session.frame()["code"], 1001);
    let close = session.events.next().unwrap();
    assert_eq!((&*close.name, &close.json()["code"]), ("close", &json!(4501)));
    assert_eq!(session.events.next(), None);
    assert!(session.events.ended, "the stream is ended in order");
    session.bring_as(2, "").refused(404, 404);
}

#[test]
fn frames_for_which_there_is_no_room_are_not_taken() {
    // Two publishes fill the window, and no ack is read: the broker reads no further, until it has written them.
    let api = Api::with(|config| {
        config.limits.publish_window_messages = 1;
        config.limits.control_lane_bytes = 16 << 10;
        config.websocket.stall_timeout = Duration::from_secs(3600);
    });
    let mut session = Session::open(&api, "");
    let history =
        |id: u64| format!(r#"{{"op":"publish","id":{id},"topic":"a","text":"{}"}}"#, "x".repeat(60_000));
    let page = |id: u64| format!(r#"{{"op":"history","id":{id},"topic":"a","from":"beginning"}}"#);
    for id in 1..5 {
        session.bring(&history(id));
        session.until("ack");
    }
    // Pages that nobody takes block the stream; then pongs fill the control lane, and the broker stops reading.
    let (mut id, mut refused) = (5, None);
    for round in 0..200 {
        let mut frames = page(id);
        for ping in 1..1000 {
            frames += &format!("\n{{\"op\":\"ping\",\"id\":{}}}", id + ping);
        }
        id += 1000;
        let answer = session.bring_as(session.seq + 1, &frames);
        if answer.status != 204 {
            refused = Some((round, answer));
            break;
        }
        session.seq += 1;
    }
    let (_, refused) = refused.expect("it takes everything, whatever is read");
    refused.refused(503, 503);
    assert_eq!(refused.header("retry-after"), Some("1"));
    // Once it is read there is room, and nothing of what was refused was carried out.
    let seq = session.seq + 1;
    let (api, secret) = (&api, session.secret.clone());
    std::thread::scope(|scope| {
        let again = scope.spawn(move || {
            let line = format!("POST /v1/sessions/{secret}/frames?seq={seq}");
            loop {
                let frame = format!("{{\"op\":\"ping\",\"id\":{}}}", 1_000_000);
                let answer = api.ask(&line, &[], frame.as_bytes());
                if answer.status == 204 {
                    return;
                }
                assert_eq!(answer.status, 503);
            }
        });
        let mut last = 4;
        while last != 1_000_000 {
            let frame = session.frame();
            if frame["op"] == "pong" {
                let pong = frame["id"].as_u64().unwrap();
                assert!(pong > last && pong < id - 1000 || pong == 1_000_000, "{pong} behind {last}");
                last = pong;
            }
        }
        again.join().unwrap();
    });
}

#[test]
fn a_silent_session_hears_a_comment_with_each_ping() {
    let api = Api::pinging();
    let mut session = Session::open(&api, r#"{"op":"subscribe","id":1,"filter":"a"}"#);
    session.until("ack");
    // It lives on over several of them: they are answered.
    loop {
        let frame = session.frame();
        assert_eq!(frame["op"], "mark", "{frame}");
        if session.events.comments >= 4 {
            break;
        }
        let id = 2 + session.seq;
        session.bring(&format!(r#"{{"op":"publish","topic":"b{id}","json":1}}"#));
    }
}

#[test]
fn a_stop_of_the_broker_is_told_in_order() {
    let mut api = Api::with(|config| config.server.drain_timeout = Duration::from_secs(60));
    let mut events = api.events("POST /v1/sessions", &[], br#"{"op":"subscribe","id":1,"filter":"a"}"#);
    assert_eq!(events.next().unwrap().name, "session");
    assert_eq!(events.frames()[0]["op"], "ack");
    let reading = std::thread::spawn(move || {
        let mut ops = Vec::new();
        while let Some(event) = events.next() {
            let frames = event.data.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
            ops.extend(frames.map(|frame| frame["op"].as_str().unwrap_or("close").to_owned()));
        }
        (ops, events.ended)
    });
    api.stop();
    let (ops, ended) = reading.join().unwrap();
    assert_eq!(ops.last().map(String::as_str), Some("close"), "{ops:?}");
    assert!(ops.contains(&"drain".to_owned()) && ended, "{ops:?}");
}

#[test]
fn sessions_count_as_connections() {
    let api = Api::with(|config| config.server.max_connections = 2);
    let mut one = Session::open(&api, r#"{"op":"ping","id":1}"#);
    let mut two = Session::open(&api, r#"{"op":"ping","id":1}"#);
    one.until("pong");
    two.until("pong");
    let refused = api.ask("POST /v1/sessions", &[], b"");
    assert!(refused.refused(503, 503).contains("server.max_connections"));
    api.ask("GET /v1/subscribe?filter=a", &[], b"").refused(503, 503);
    assert_eq!(api.get("/v1/streams").status, 200, "other requests are served");
}
