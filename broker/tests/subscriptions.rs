//! Subscriptions, publishes and history over a real socket, in the frames that `docs/protocol.md` shows.

mod raw;

use raw::Raw;
use serde_json::{Value, json};
use std::time::Duration;
use tidegate::{
    config::{Config, Stream},
    server::Server,
};

fn config() -> Config {
    let mut config = Config::default();
    config.server.listen = "127.0.0.1:0".parse().unwrap();
    config.server.shards = 2;
    config
}

fn stream(name: &str, filters: &[&str]) -> Stream {
    let filters = filters.iter().map(|filter| filter.parse().unwrap()).collect();
    Stream { name: name.into(), filters, ..Config::default().streams[0].clone() }
}

async fn publish(client: &mut Raw, id: u64, topic: &str, text: &str) -> Value {
    client.say(json!({"op": "publish", "id": id, "topic": topic, "text": text}).to_string()).await;
    client.until("ack").await
}

/// Subscribes; the ack.
async fn subscribe(client: &mut Raw, frame: Value) -> Value {
    let mut whole = json!({"op": "subscribe"});
    whole.as_object_mut().unwrap().extend(frame.as_object().unwrap().clone());
    client.say(whole.to_string()).await;
    let ack = client.frame().await;
    assert_eq!(ack["op"], "ack", "{ack}");
    ack
}

async fn texts(client: &mut Raw, count: usize) -> Vec<String> {
    let mut texts = Vec::new();
    for _ in 0..count {
        texts.push(client.until("message").await["text"].as_str().unwrap().to_owned());
    }
    texts
}

/// A broker and a publisher that has put 1 to 5 into `chat.a`, and 6 into `chat.b`.
async fn history() -> (Server, Raw) {
    let server = Server::start(config()).unwrap();
    let mut publisher = Raw::json(&server.url()).await;
    for n in 1..=6 {
        publish(&mut publisher, n, if n < 6 { "chat.a" } else { "chat.b" }, &n.to_string()).await;
    }
    (server, publisher)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_subscribes_ack_comes_first_and_says_the_terms() {
    let (server, _publisher) = history().await;
    let mut client = Raw::json(&server.url()).await;
    let ack = subscribe(&mut client, json!({"id": 1, "filter": "chat.>", "from": "beginning"})).await;
    assert_eq!(
        (&ack["overflow"], &ack["limit"], &ack["limit_bytes"]),
        (&json!("catch_up"), &json!(256), &json!(262144))
    );
    let position = &ack["positions"][0];
    assert_eq!((&position["offset"], &position["live"]), (&json!(0), &json!(6)));
    assert_eq!(texts(&mut client, 6).await, ["1", "2", "3", "4", "5", "6"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn more_than_the_broker_gives_is_cut_and_the_ack_says_so() {
    let server = Server::start(config()).unwrap();
    let mut client = Raw::json(&server.url()).await;
    let ask = json!({"id": 1, "filter": "a", "limit": 4_000_000_000u32, "limit_bytes": 4_000_000_000u32, "overflow": "latest"});
    let ack = subscribe(&mut client, ask).await;
    assert_eq!(
        (&ack["overflow"], &ack["limit"], &ack["limit_bytes"]),
        (&json!("latest"), &json!(16_384), &json!(8 << 20))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn every_from_starts_where_it_says() {
    let position = |epoch: &str, offset: u64| json!({"epoch": epoch, "offset": offset});
    type From = Box<dyn Fn(&str) -> Value>;
    let cases: Vec<(From, &str, &[&str])> = vec![
        (Box::new(|_| json!("live")), "chat.a", &[]),
        (Box::new(|_| json!("beginning")), "chat.a", &["1", "2", "3", "4", "5"]),
        (Box::new(move |epoch| position(epoch, 3)), "chat.>", &["4", "5", "6"]),
        (Box::new(move |epoch| json!([position(epoch, 4)])), "chat.a", &["5"]),
        (Box::new(|_| json!({"last": 2})), "chat.>", &["4", "5", "6"]),
        (Box::new(|_| json!({"last": 1})), "chat.>", &["5", "6"]),
        (Box::new(|_| json!({"last": 1, "at": 3})), "chat.a", &["3", "4", "5"]),
        (Box::new(move |epoch| json!({"last": 1, "at": [position(epoch, 3)]})), "chat.a", &["3", "4", "5"]),
        (Box::new(|_| json!({"since": 0})), "chat.b", &["6"]),
        (Box::new(|_| json!({"since": 9_000_000_000_000u64})), "chat.a", &[]),
    ];
    for (from, filter, expected) in cases {
        for overflow in ["catch_up", "drop_oldest", "drop_newest", "disconnect"] {
            let (server, mut publisher) = history().await;
            let mut client = Raw::json(&server.url()).await;
            let ack = subscribe(&mut client, json!({"id": 1, "filter": "none"})).await;
            let from = from(ack["positions"][0]["epoch"].as_str().unwrap());
            let ask = json!({"id": 2, "filter": filter, "from": from, "overflow": overflow});
            subscribe(&mut client, ask).await;
            publish(&mut publisher, 100, if filter == "chat.b" { "chat.b" } else { "chat.a" }, "live").await;
            let mut got = texts(&mut client, expected.len() + 1).await;
            assert_eq!(got.pop().as_deref(), Some("live"), "{from} {filter} {overflow}");
            assert_eq!(got, expected, "{from} {filter} {overflow}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_position_of_an_unknown_epoch_gives_a_gap_and_then_the_log_from_its_beginning() {
    let (server, _publisher) = history().await;
    for from in [
        json!({"epoch": "00000000000000ff", "offset": 2}),
        json!({"last": 1, "at": [{"epoch": "00000000000000ff", "offset": 2}]}),
    ] {
        let mut client = Raw::json(&server.url()).await;
        subscribe(&mut client, json!({"id": 1, "filter": "chat.a", "from": from})).await;
        let gap = client.frame().await;
        assert_eq!((&gap["op"], &gap["reason"], &gap["sub"]), (&json!("gap"), &json!("epoch"), &json!(1)));
        assert!(gap.get("count").is_none() && gap.get("at_most").is_none());
        assert_eq!(texts(&mut client, 5).await, ["1", "2", "3", "4", "5"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn latest_that_resumes_is_given_the_newest_of_each_key_and_told_of_the_rest() {
    let (server, mut publisher) = history().await;
    let mut client = Raw::json(&server.url()).await;
    let ack = subscribe(&mut client, json!({"id": 1, "filter": "none"})).await;
    let epoch = &ack["positions"][0]["epoch"];
    let from = json!({"epoch": epoch, "offset": 1});
    subscribe(&mut client, json!({"id": 2, "filter": "chat.>", "overflow": "latest", "from": from})).await;
    let gap = client.frame().await;
    assert_eq!(
        gap,
        json!({"op": "gap", "sub": 2, "topic": "chat.a", "count": 3, "from": 2, "to": 4, "reason": "merged", "policy": "latest"})
    );
    assert_eq!(texts(&mut client, 2).await, ["5", "6"]);
    publish(&mut publisher, 100, "chat.a", "7").await;
    assert_eq!(texts(&mut client, 1).await, ["7"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn credit_holds_messages_back_until_more_is_given() {
    let server = Server::start(config()).unwrap();
    let mut publisher = Raw::json(&server.url()).await;
    let mut client = Raw::json(&server.url()).await;
    subscribe(
        &mut client,
        json!({"id": 1, "filter": "a", "credit": 2, "overflow": "drop_oldest", "limit": 3}),
    )
    .await;
    for n in 1..=9 {
        publish(&mut publisher, n, "a", &n.to_string()).await;
    }
    assert_eq!(texts(&mut client, 2).await, ["1", "2"]);
    // The control lane is not held back.
    client.say(r#"{"op":"ping","id":2}"#).await;
    assert_eq!(client.frame().await, json!({"op": "pong", "id": 2}));
    client.say(r#"{"op":"credit","sub":1,"add":2}"#).await;
    let gap = client.frame().await;
    assert_eq!((&gap["count"], &gap["from"], &gap["to"]), (&json!(4), &json!(3), &json!(6)), "{gap}");
    assert_eq!(texts(&mut client, 2).await, ["7", "8"]);
    client.say(r#"{"op":"credit","sub":1,"add":100}"#).await;
    assert_eq!(texts(&mut client, 1).await, ["9"]);
    publish(&mut publisher, 20, "a", "level again").await;
    let frame = client.frame().await;
    assert_eq!((&frame["text"], frame.get("sub")), (&json!("level again"), None), "shared bytes once level");
}

#[tokio::test(flavor = "multi_thread")]
async fn echo_false_holds_back_what_the_instance_published_itself_and_only_that() {
    let server = Server::start(config()).unwrap();
    let mut client = Raw::json(&server.url()).await;
    client.say(r#"{"op":"connect","id":1,"instance":"me"}"#).await;
    assert_eq!(client.frame().await["op"], "welcome");
    subscribe(&mut client, json!({"id": 2, "filter": "a", "echo": false})).await;
    subscribe(&mut client, json!({"id": 3, "filter": "a.>"})).await;
    publish(&mut client, 4, "a", "mine").await;
    let mut other = Raw::json(&server.url()).await;
    publish(&mut other, 1, "a", "theirs").await;
    assert_eq!(texts(&mut client, 1).await, ["theirs"]);
    // After a reconnect the same instance still does not read itself from the log.
    let mut again = Raw::json(&server.url()).await;
    again.say(r#"{"op":"connect","id":1,"instance":"me"}"#).await;
    again.frame().await;
    subscribe(&mut again, json!({"id": 2, "filter": "a", "echo": false, "from": "beginning"})).await;
    assert_eq!(texts(&mut again, 1).await, ["theirs"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_for_several_subscriptions_comes_once_without_sub_where_all_are_level() {
    let server = Server::start(config()).unwrap();
    let mut publisher = Raw::json(&server.url()).await;
    let mut client = Raw::json(&server.url()).await;
    for (id, filter) in [(1, "chat.room1"), (2, "chat.>"), (3, "chat.*")] {
        subscribe(&mut client, json!({"id": id, "filter": filter})).await;
    }
    publish(&mut publisher, 1, "chat.room1", "x").await;
    publish(&mut publisher, 2, "chat.room1", "y").await;
    let frames = [client.frame().await, client.frame().await];
    assert_eq!(frames.clone().map(|frame| frame["text"].clone()), [json!("x"), json!("y")]);
    assert!(frames.iter().all(|frame| frame.get("sub").is_none()));
    assert_eq!((&frames[0].get("prev"), &frames[1]["prev"]), (&None, &frames[0]["offset"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_seen_before_acks_the_first_position() {
    let server = Server::start(config()).unwrap();
    let frame = |id: u64| {
        json!({"op": "publish", "id": id, "topic": "a", "text": "once", "idempotency": "k1"}).to_string()
    };
    let mut first = Raw::json(&server.url()).await;
    first.say(r#"{"op":"connect","id":1,"instance":"me"}"#).await;
    first.frame().await;
    first.say(frame(2)).await;
    let ack = first.frame().await;
    assert_eq!((&ack["offset"], ack.get("duplicate")), (&json!(1), None));
    let mut again = Raw::json(&server.url()).await;
    again.say(r#"{"op":"connect","id":1,"instance":"me"}"#).await;
    again.frame().await;
    again.say(frame(2)).await;
    let repeated = again.frame().await;
    assert_eq!((&repeated["offset"], &repeated["duplicate"]), (&json!(1), &json!(true)));
    let mut other = Raw::json(&server.url()).await;
    other.say(frame(1)).await;
    assert_eq!(other.frame().await["offset"], 2, "another instance's key is another key");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_report_tells_how_the_fan_out_went_on_all_shards() {
    let server = Server::start(config()).unwrap();
    let mut readers = Vec::new();
    for _ in 0..4 {
        let mut reader = Raw::json(&server.url()).await;
        subscribe(&mut reader, json!({"id": 1, "filter": "a"})).await;
        readers.push(reader);
    }
    subscribe(&mut readers[0], json!({"id": 2, "filter": "*", "credit": 0})).await;
    subscribe(
        &mut readers[1],
        json!({"id": 2, "filter": "*", "credit": 0, "overflow": "drop_newest", "limit": 1}),
    )
    .await;
    subscribe(&mut readers[2], json!({"id": 2, "filter": "*", "credit": 0, "overflow": "latest"})).await;
    let mut publisher = Raw::json(&server.url()).await;
    let mut reports = Vec::new();
    for id in 1..=2 {
        publisher
            .say(json!({"op": "publish", "id": id, "topic": "a", "text": "x", "report": true}).to_string())
            .await;
        reports.push(publisher.frame().await["report"].clone());
    }
    assert_eq!(reports[0], json!({"matched": 7, "queued": 7, "merged": 0, "dropped": 0, "behind": 0}));
    assert_eq!(reports[1], json!({"matched": 7, "queued": 5, "merged": 1, "dropped": 1, "behind": 0}));
    publisher
        .say(json!({"op": "publish", "id": 9, "topic": "nobody", "text": "x", "report": true}).to_string())
        .await;
    let nobody = publisher.frame().await["report"].clone();
    assert_eq!(nobody["matched"], 3, "the wildcards alone");
}

#[tokio::test(flavor = "multi_thread")]
async fn history_comes_in_pages_that_continue_from_their_position() {
    let (server, _publisher) = history().await;
    let mut client = Raw::json(&server.url()).await;
    let ask = |id: u64, from: Value| {
        json!({"op": "history", "id": id, "topic": "chat.a", "from": from, "limit": 2}).to_string()
    };
    client.say(ask(1, json!("beginning"))).await;
    let (mut page, mut got, mut id) = (client.frame().await, Vec::new(), 1);
    loop {
        assert_eq!((&page["op"], &page["id"]), (&json!("history"), &json!(id)));
        got.extend(
            page["messages"].as_array().unwrap().iter().map(|m| m["text"].as_str().unwrap().to_owned()),
        );
        if page.get("more") != Some(&json!(true)) {
            break;
        }
        id += 1;
        client.say(ask(id, page["position"].clone())).await;
        page = client.frame().await;
    }
    assert_eq!(got, ["1", "2", "3", "4", "5"]);
    client.say(ask(10, json!({"last": 2}))).await;
    let page = client.frame().await;
    assert_eq!(
        page["messages"].as_array().unwrap().iter().map(|m| m["text"].clone()).collect::<Vec<_>>(),
        ["4", "5"]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn several_streams_have_positions_of_their_own_and_topics_in_none_are_live_only() {
    let mut config = config();
    config.streams = vec![stream("orders", &["shop.order.>"]), stream("carts", &["shop.cart.>"])];
    let server = Server::start(config).unwrap();
    let mut publisher = Raw::json(&server.url()).await;
    let first = publish(&mut publisher, 1, "shop.order.1", "o1").await;
    assert_eq!((&first["stream"], &first["offset"]), (&json!("orders"), &json!(1)));
    publish(&mut publisher, 2, "shop.cart.1", "c1").await;
    publish(&mut publisher, 3, "shop.order.1", "o2").await;
    let live_only = publish(&mut publisher, 4, "shop.visit", "v1").await;
    assert!(live_only.get("offset").is_none());
    let mut client = Raw::json(&server.url()).await;
    let ack = subscribe(&mut client, json!({"id": 1, "filter": "shop.>", "from": "beginning"})).await;
    assert_eq!(ack["live_only"], true);
    let names: Vec<&Value> = ack["positions"].as_array().unwrap().iter().map(|p| &p["stream"]).collect();
    assert_eq!(names, ["orders", "carts"]);
    let mut came = Vec::new();
    for _ in 0..3 {
        let frame = client.until("message").await;
        came.push((frame["stream"].as_str().unwrap().to_owned(), frame["text"].as_str().unwrap().to_owned()));
    }
    came.sort();
    assert_eq!(
        came,
        [("carts", "c1"), ("orders", "o1"), ("orders", "o2")].map(|(a, b)| (a.into(), b.into()))
    );
    publish(&mut publisher, 5, "shop.visit", "v2").await;
    let frame = client.until("message").await;
    assert_eq!((&frame["text"], frame.get("offset"), frame.get("stream")), (&json!("v2"), None, None));
    client.say(r#"{"op":"history","id":5,"topic":"shop.visit"}"#).await;
    assert_eq!(client.frame().await["code"], 1303);
    // A position of one stream; the other, not named, starts at its beginning.
    let mut again = Raw::json(&server.url()).await;
    let epoch = &ack["positions"][0]["epoch"];
    let from = json!([{"stream": "orders", "epoch": epoch, "offset": 1}]);
    subscribe(&mut again, json!({"id": 1, "filter": "shop.>", "from": from})).await;
    let mut came = texts(&mut again, 2).await;
    came.sort();
    assert_eq!(came, ["c1", "o2"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn marks_tell_the_books_and_the_position_of_a_quiet_subscription() {
    let mut config = config();
    config.websocket.ping_interval = Duration::from_millis(100);
    let server = Server::start(config).unwrap();
    let mut publisher = Raw::json(&server.url()).await;
    let mut client = Raw::json(&server.url()).await;
    subscribe(&mut client, json!({"id": 1, "filter": "busy"})).await;
    subscribe(&mut client, json!({"id": 2, "filter": "quiet"})).await;
    subscribe(&mut client, json!({"id": 3, "filter": "busy", "credit": 0})).await;
    for n in 1..=3 {
        publish(&mut publisher, n, "busy", "x").await;
    }
    publish(&mut publisher, 4, "elsewhere", "x").await;
    texts(&mut client, 3).await;
    loop {
        let mark = client.until("mark").await;
        if mark["positions"][0]["offset"] != 4 {
            continue;
        }
        let subs = mark["subs"].as_array().unwrap();
        let of = |id: u64| subs.iter().find(|sub| sub["sub"] == id);
        assert!(of(2).is_none(), "no traffic: {mark}");
        let behind = of(3).expect("one that is behind is always told");
        assert_eq!((&behind["messages"], &behind["behind"]), (&json!(0), &json!(true)));
        if let Some(level) = of(1) {
            assert_eq!(
                (&level["messages"], &level["gapped"], level.get("behind")),
                (&json!(3), &json!(0), None)
            );
        }
        break;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unsubscribe_is_marked_and_acknowledged_and_nothing_comes_after_it() {
    let server = Server::start(config()).unwrap();
    let mut publisher = Raw::json(&server.url()).await;
    let mut client = Raw::json(&server.url()).await;
    subscribe(&mut client, json!({"id": 1, "filter": "a"})).await;
    publish(&mut publisher, 1, "a", "x").await;
    texts(&mut client, 1).await;
    client.say(r#"{"op":"unsubscribe","id":2,"sub":1}"#).await;
    let mark = client.frame().await;
    assert_eq!(mark["subs"], json!([{"sub": 1, "messages": 1, "gapped": 0}]), "{mark}");
    assert_eq!(client.frame().await, json!({"op": "unsubscribed", "sub": 1}));
    assert_eq!(client.frame().await, json!({"op": "ack", "id": 2}));
    publish(&mut publisher, 2, "a", "y").await;
    client.say(r#"{"op":"ping","id":3}"#).await;
    assert_eq!(client.frame().await["op"], "pong");
}

#[tokio::test(flavor = "multi_thread")]
async fn disconnect_closes_with_4008_and_the_counters() {
    let server = Server::start(config()).unwrap();
    let mut publisher = Raw::json(&server.url()).await;
    let mut client = Raw::json(&server.url()).await;
    subscribe(
        &mut client,
        json!({"id": 1, "filter": "a", "overflow": "disconnect", "limit": 2, "credit": 0}),
    )
    .await;
    for n in 1..=3 {
        publish(&mut publisher, n, "a", "x").await;
    }
    assert_eq!(client.closed().await, Some(4008));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_tells_each_client_its_books_and_when_to_come_back() {
    let server = Server::start(config()).unwrap();
    let mut client = Raw::json(&server.url()).await;
    subscribe(&mut client, json!({"id": 1, "filter": "a"})).await;
    let stopping = tokio::task::spawn_blocking(move || server.stop());
    assert_eq!(client.frame().await["op"], "mark");
    let drain = client.frame().await;
    assert_eq!(drain["op"], "drain");
    assert!(drain["reconnect_ms"].as_u64().unwrap() <= 5_000);
    assert_eq!(client.closed().await, Some(4000));
    stopping.await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_is_too_small_tells_a_reader_who_is_behind_exactly_how_much_it_lost() {
    let mut config = config();
    config.streams = vec![Stream { max_bytes: 1 << 20, retain_last_bytes: 0, ..stream("default", &[]) }];
    let server = Server::start(config).unwrap();
    let mut publisher = Raw::json(&server.url()).await;
    let mut client = Raw::json(&server.url()).await;
    subscribe(&mut client, json!({"id": 1, "filter": "a", "credit": 1, "limit": 2})).await;
    let text = "x".repeat(10_000);
    let (mut id, total) = (0, 400u64);
    for n in 1..=total {
        // Half of them are somebody else's.
        id += 1;
        publish(&mut publisher, id, if n % 2 == 0 { "a" } else { "b" }, &text).await;
    }
    client.say(r#"{"op":"credit","sub":1,"add":100000}"#).await;
    let (mut came, mut told, mut last) = (0, 0, 0);
    while last < total {
        let frame = client.frame().await;
        match frame["op"].as_str().unwrap() {
            "message" => {
                came += 1;
                last = frame["offset"].as_u64().unwrap();
            }
            "gap" => {
                told += frame["count"].as_u64().expect("exact");
                assert_eq!(frame["reason"], "evicted");
                let to = frame["to"].as_u64().unwrap();
                assert!(to > last && to < total);
                last = to;
            }
            _ => {}
        }
    }
    assert!(told > 0);
    assert_eq!(came + told, total / 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flush_interval_gathers_without_losing_anything() {
    let mut config = config();
    config.websocket.flush_interval = Duration::from_millis(20);
    let server = Server::start(config).unwrap();
    let mut publisher = Raw::json(&server.url()).await;
    let mut client = Raw::json(&server.url()).await;
    subscribe(&mut client, json!({"id": 1, "filter": "a"})).await;
    for n in 1..=50 {
        publisher.say(json!({"op": "publish", "topic": "a", "text": n.to_string()}).to_string()).await;
    }
    let expected: Vec<String> = (1..=50).map(|n| n.to_string()).collect();
    assert_eq!(texts(&mut client, 50).await, expected);
}

/// Publishes far more than a shard's inbox holds, in bursts, with subscribers on both shards.
async fn flood_through_a_tiny_inbox(mut config: Config) {
    config.memory.shard_queue_messages = 16;
    let server = Server::start(config).unwrap();
    let mut readers = Vec::new();
    for _ in 0..4 {
        let mut reader = Raw::json(&server.url()).await;
        let ask = json!({"id": 1, "filter": "a", "overflow": "drop_oldest", "limit": 16_384, "limit_bytes": 8 << 20});
        subscribe(&mut reader, ask).await;
        readers.push(reader);
    }
    let mut publisher = Raw::json(&server.url()).await;
    let frame = |n: u32| json!({"op": "publish", "topic": "a", "text": n.to_string()}).to_string();
    for burst in (1..=5_000u32).collect::<Vec<_>>().chunks(500) {
        publisher.say(burst.iter().map(|&n| frame(n)).collect::<Vec<_>>().join("\n")).await;
    }
    let expected: Vec<String> = (1..=5_000).map(|n| n.to_string()).collect();
    for mut reader in readers {
        assert_eq!(texts(&mut reader, 5_000).await, expected);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shard_whose_inbox_is_full_reads_the_log_and_misses_nothing() {
    flood_through_a_tiny_inbox(config()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_live_only_publish_waits_for_room_in_an_inbox_and_is_not_lost() {
    flood_through_a_tiny_inbox(Config { streams: Vec::new(), ..config() }).await;
}
