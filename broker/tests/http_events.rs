//! Server-sent events of one subscription, read as a bare `EventSource` reads them: history, then live, with positions;
//! what a slow reader is told; how a stream ends.

mod http;

use std::{net::Shutdown, time::Duration};

use http::{Api, Event, Events};
use serde_json::{Value, json};

/// Waits until the subscription is there: its ack moves the id.
fn subscribe(api: &Api, query: &str) -> Events {
    let mut events = api.events(&format!("GET /v1/subscribe?{query}"), &[], b"");
    events.wait_for_id();
    events
}

fn resume(api: &Api, query: &str, id: &str) -> Events {
    api.events(&format!("GET /v1/subscribe?{query}"), &[("Last-Event-ID", id)], b"")
}

#[test]
fn history_comes_first_then_live_and_each_message_has_its_position() {
    let api = Api::start();
    let epoch = api.publish("a", "1")["epoch"].as_str().unwrap().to_owned();
    api.publish("b", "0");
    api.publish("a", "2");
    let mut events = api.events("GET /v1/subscribe?filter=a&from=beginning", &[], b"");
    assert_eq!(events.answer.header("cache-control"), Some("no-cache, no-transform"));
    assert_eq!(events.answer.header("x-accel-buffering"), Some("no"));
    for (json, offset) in [(1, 1), (2, 3)] {
        assert_eq!(events.message()["json"], json);
        assert_eq!(events.id, format!("{epoch}:{offset}"));
    }
    assert!(events.retry.is_some_and(|retry| (200..=5000).contains(&retry)));
    api.publish("a", "3");
    let live = events.message();
    assert_eq!((&live["op"], &live["topic"], &live["json"]), (&json!("message"), &json!("a"), &json!(3)));
    assert_eq!(events.id, format!("{epoch}:4"));
}

#[test]
fn who_comes_back_with_the_last_id_misses_nothing_and_gets_nothing_twice() {
    let api = Api::start();
    let mut events = subscribe(&api, "filter=a");
    let mut got = Vec::new();
    for round in 0..20u64 {
        for n in 0..5 {
            api.publish("a", &(5 * round + n).to_string());
        }
        // Cut after two, with three on their way.
        for _ in 0..2 {
            got.push(events.message()["json"].as_u64().unwrap());
        }
        let id = events.id.clone();
        events.socket().shutdown(Shutdown::Both).unwrap();
        events = resume(&api, "filter=a", &id);
    }
    while got.len() < 100 {
        got.push(events.message()["json"].as_u64().unwrap());
    }
    assert_eq!(got, (0..100).collect::<Vec<_>>());
}

#[test]
fn cut_in_the_midst_of_a_last_the_rest_of_it_comes_and_no_more() {
    let api = Api::start();
    for n in 1..=5 {
        for topic in ["a.x", "a.y"] {
            api.publish(topic, &n.to_string());
        }
    }
    let query = "filter=a.*&from=last:2";
    let mut events = api.events(&format!("GET /v1/subscribe?{query}"), &[], b"");
    let name = |message: Value| format!("{} {}", message["topic"].as_str().unwrap(), message["json"]);
    assert_eq!(name(events.message()), "a.x 4");
    assert!(events.id.contains(".."), "{}", events.id);
    let id = events.id.clone();
    drop(events);
    api.publish("a.x", "6");
    let mut events = resume(&api, query, &id);
    let rest: Vec<_> = (0..4).map(|_| name(events.message())).collect();
    assert_eq!(rest, ["a.y 4", "a.x 5", "a.y 5", "a.x 6"]);
    assert!(!events.id.contains(".."), "{}", events.id);
    let mut events = resume(&api, query, &events.id);
    api.publish("a.y", "6");
    assert_eq!(name(events.message()), "a.y 6");
}

#[test]
fn a_filter_over_several_streams_has_a_position_in_each() {
    let api = Api::with(|config| {
        let filters = vec![tidegate_protocol::Filter::parse("orders.>").unwrap()];
        let orders = tidegate::config::Stream { name: "orders".into(), filters, ..Default::default() };
        config.streams.push(orders);
    });
    let mut events = subscribe(&api, "filter=%3E");
    api.publish("orders.1", "1");
    events.message();
    api.publish("chat", "2");
    events.message();
    assert_eq!(events.id.split(',').count(), 2, "{}", events.id);
    assert!(events.id.contains("orders@"));
    let id = events.id.clone();
    drop(events);
    api.publish("chat", "3");
    api.publish("orders.1", "4");
    let mut events = resume(&api, "filter=%3E", &id);
    let mut got = [events.message()["json"].as_u64().unwrap(), events.message()["json"].as_u64().unwrap()];
    got.sort_unstable();
    assert_eq!(got, [3, 4]);
}

#[test]
fn a_position_of_another_broker_begins_with_a_gap() {
    let api = Api::start();
    api.publish("a", "1");
    let mut events = resume(&api, "filter=a", "00000000000000ff:7");
    let gap = events.next().unwrap();
    assert_eq!((&*gap.name, &gap.json()["reason"]), ("gap", &json!("epoch")));
    assert_eq!(events.message()["json"], 1);
}

#[test]
fn the_position_of_a_quiet_subscription_in_a_busy_stream_moves_without_an_event() {
    let api = Api::pinging();
    let mut events = subscribe(&api, "filter=quiet");
    api.publish("busy", "1");
    assert!(events.wait_for_id().ends_with(":1"), "{}", events.id);
}

/// Publishes what a stalled reader cannot take, then reads it all: the messages, the gaps, and the last id.
fn stall(api: &Api, query: &str) -> (Vec<u64>, u64) {
    let mut events = subscribe(api, query);
    let text = "x".repeat(30_000);
    let count = 600;
    for n in 0..count {
        let body = format!("{{\"n\":{n},\"text\":\"{text}\"}}");
        let headers = [("Content-Type", "application/json"), ("X-Tidegate-Key", "k")];
        assert_eq!(api.ask("POST /v1/topics/a", &headers, body.as_bytes()).status, 200);
    }
    let (mut got, mut gapped) = (Vec::new(), 0);
    while got.len() as u64 + gapped < count {
        let event = events.next().expect("the stream goes on");
        let json = event.json();
        match &*event.name {
            "gap" => gapped += json["count"].as_u64().unwrap(),
            _ => got.push(json["json"]["n"].as_u64().unwrap()),
        }
    }
    assert!(got.is_sorted_by(|a, b| a < b), "{got:?}");
    (got, gapped)
}

#[test]
fn a_slow_reader_is_held_to_each_policy_and_told_exactly() {
    let api = Api::start();
    let (got, gapped) = stall(&api, "filter=a&overflow=catch_up&limit=10");
    assert_eq!((got.len(), gapped), (600, 0), "the log has it all");
    let (got, gapped) = stall(&api, "filter=a&overflow=drop_oldest&limit=10");
    assert!(gapped > 300 && got.ends_with(&[598, 599]), "{} {gapped}", got.len());
    let (got, gapped) = stall(&api, "filter=a&overflow=drop_newest&limit=10");
    assert!(gapped > 300 && got.starts_with(&[0, 1]) && got.last() < Some(&599), "{} {gapped}", got.len());
    let (got, gapped) = stall(&api, "filter=a&overflow=latest");
    assert!(gapped > 300 && got.last() == Some(&599), "{} {gapped}", got.len());
}

#[test]
fn a_reader_that_is_to_be_cut_gets_the_code_behind_what_was_on_its_way() {
    let api = Api::start();
    let mut events = subscribe(&api, "filter=a&overflow=disconnect&limit=10");
    let text = format!("\"{}\"", "x".repeat(30_000));
    for _ in 0..600 {
        api.publish("a", &text);
    }
    let mut last = Event::default();
    let mut got = 0;
    while let Some(event) = events.next() {
        got += u32::from(event.name.is_empty());
        last = event;
    }
    assert!(got < 600);
    // What a stalled reader gets of its end is what its socket still takes; its position is sound either way.
    if last.name == "close" {
        assert_eq!(last.json()["code"], 4008);
    }
    let mut events = resume(&api, "filter=a", &events.id);
    assert_eq!(events.message()["prev"], got);
}

#[test]
fn a_stop_of_the_broker_is_an_event_with_a_delay() {
    let mut api = Api::start();
    let mut events = subscribe(&api, "filter=a");
    events.retry = None;
    let reading = std::thread::spawn(move || {
        let close = events.next();
        (close, events.next(), events.ended, events.retry)
    });
    api.stop();
    let (close, end, ended, retry) = reading.join().unwrap();
    let close = close.expect("a close event");
    assert_eq!((&*close.name, &close.json()["code"]), ("close", &json!(4000)));
    assert!(end.is_none() && ended && retry.is_some_and(|retry| retry <= 5000), "{retry:?}");
}

#[test]
fn live_only_topics_are_followed_without_positions() {
    let api = Api::with(|config| config.streams.clear());
    let mut events = api.events("GET /v1/subscribe?filter=a", &[], b"");
    // There is no position to wait for: published until it is heard.
    let mut n = 0;
    loop {
        let ack = api.ask("POST /v1/topics/a?report=true", &[("Content-Type", "text/plain")], b"x").json();
        n += 1;
        if ack["report"]["matched"] == 1 {
            break;
        }
    }
    assert_eq!(events.message()["text"], "x", "after {n}");
    assert_eq!(events.id, "");
}

#[test]
fn what_cannot_be_subscribed_to_is_refused_before_anything() {
    let api = Api::start();
    for (query, code) in [
        ("", 1003),
        ("filter=", 1201),
        ("filter=a..b", 1201),
        ("filter=a&filter=b", 1003),
        ("filter=a&from=x", 1003),
        ("filter=a&overflow=drop", 1003),
        ("filter=a&limit=many", 1003),
        ("filter=a&limits=1", 1003),
        ("filter=%", 400),
    ] {
        api.get(&format!("/v1/subscribe?{query}")).refused(400, code);
    }
    api.ask("GET /v1/subscribe?filter=a", &[("Last-Event-ID", "seven")], b"").refused(400, 1003);
}

#[test]
fn idle_streams_stay_and_are_not_counted_as_requests() {
    let api = Api::with(|config| config.websocket.handshake_timeout = Duration::from_secs(1));
    let mut events = subscribe(&api, "filter=a");
    // Another connection that asks nothing is closed after that time: more of it has passed then.
    let idle = api.connect();
    let mut all = Vec::new();
    std::io::Read::read_to_end(&mut &idle, &mut all).unwrap();
    let idle = api.connect();
    std::io::Read::read_to_end(&mut &idle, &mut all).unwrap();
    api.publish("a", "1");
    assert_eq!(events.message()["json"], 1);
}
