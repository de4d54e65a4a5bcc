//! What a client can do wrong costs that client an error or its connection, and nobody else anything.

mod raw;

use raw::Raw;
use serde_json::json;
use tidegate::{config::Config, server::Server};
use tidegate_protocol::{
    ClientFrame, Codec, From, Payload, ServerFrame, Topic,
    frame::{Publish, Subscribe},
};

/// A broker and a client that must not notice anything.
struct Scene {
    server: Server,
    bystander: Raw,
}

impl Scene {
    async fn new() -> Self {
        let mut config = Config::default();
        config.server.listen = "127.0.0.1:0".parse().unwrap();
        Self::with(config).await
    }

    async fn with(config: Config) -> Self {
        let server = Server::start(config).unwrap();
        let mut bystander = Raw::json(&server.url()).await;
        bystander.say(r#"{"op":"subscribe","id":1,"filter":"quiet.>"}"#).await;
        assert_eq!(bystander.frame().await["op"], "ack");
        Self { server, bystander }
    }

    async fn client(&self) -> Raw {
        Raw::json(&self.server.url()).await
    }

    /// The bystander is served as if nothing had happened.
    async fn end(mut self) {
        let mut publisher = self.client().await;
        publisher.say(r#"{"op":"publish","id":1,"topic":"quiet.now","text":"still here"}"#).await;
        assert_eq!(publisher.frame().await["op"], "ack");
        let frame = self.bystander.frame().await;
        assert_eq!((&frame["op"], &frame["text"]), (&json!("message"), &json!("still here")));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frame_that_cannot_be_carried_out_is_answered_with_its_number_and_the_connection_lives() {
    let scene = Scene::new().await;
    let mut client = scene.client().await;
    let deep = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
    let long = "x".repeat(256);
    let cases: Vec<(String, u64)> = vec![
        ("{nonsense".into(), 1001),
        ("[]".into(), 1001),
        (r#"{"op":"levitate","id":10}"#.into(), 1002),
        (r#"{"op":"ping"}"#.into(), 1003),
        (r#"{"op":"ping","id":11,"extra":1}"#.into(), 1003),
        (r#"{"op":"ping","id":9007199254740992}"#.into(), 1003),
        (format!(r#"{{"op":"publish","id":20,"topic":"{long}","text":""}}"#), 1200),
        (r#"{"op":"publish","id":21,"topic":"a..b","text":""}"#.into(), 1200),
        (r#"{"op":"publish","id":22,"topic":"a.*","text":""}"#.into(), 1200),
        (r#"{"op":"subscribe","id":23,"filter":"a.>.b"}"#.into(), 1201),
        (r#"{"op":"publish","id":24,"topic":"a","binary":"not base64!"}"#.into(), 1202),
        (format!(r#"{{"op":"publish","id":25,"topic":"a","text":"{}"}}"#, "x".repeat(65_537)), 1203),
        (format!(r#"{{"op":"publish","id":26,"topic":"a","json":{}}}"#, deep(65)), 1204),
        (format!(r#"{{"op":"publish","id":27,"topic":"a","json":{}}}"#, deep(1_000)), 1204),
        (format!(r#"{{"op":"publish","id":28,"topic":"a","json":{}}}"#, deep(30_000)), 1204),
        (r#"{"op":"publish","id":29,"topic":"$sys.a","text":""}"#.into(), 1205),
        (r#"{"op":"unsubscribe","id":30,"sub":7}"#.into(), 1300),
        (r#"{"op":"connect","id":31}"#.into(), 1005),
        (r#"{"op":"ping","id":31}"#.into(), 1004),
    ];
    for (frame, code) in cases {
        client.say(&frame).await;
        let answer = client.frame().await;
        let shown = &frame[..frame.len().min(80)];
        assert_eq!((&answer["op"], &answer["code"]), (&json!("error"), &json!(code)), "{shown}: {answer}");
    }
    client.say(r#"{"op":"ping","id":40}"#).await;
    assert_eq!(client.frame().await, json!({"op": "pong", "id": 40}));
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_payload_64_deep_is_welcome() {
    let scene = Scene::new().await;
    let mut client = scene.client().await;
    let deep = format!("{}{}", "[".repeat(64), "]".repeat(64));
    client.say(format!(r#"{{"op":"publish","id":1,"topic":"a","json":{deep}}}"#)).await;
    assert_eq!(client.frame().await["op"], "ack");
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_above_the_limit_closes_with_1009() {
    let scene = Scene::new().await;
    let mut client = scene.client().await;
    client.say(format!(r#"{{"op":"publish","id":1,"topic":"a","text":"{}"}}"#, "x".repeat(200_000))).await;
    assert_eq!(client.closed().await, Some(1009));
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_of_the_other_codecs_kind_closes_with_1003() {
    let scene = Scene::new().await;
    let mut client = scene.client().await;
    use futures_util::SinkExt;
    let binary = tokio_tungstenite::tungstenite::Message::binary(vec![7, 1]);
    client.socket().send(binary).await.unwrap();
    assert_eq!(client.closed().await, Some(1003));
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bincode_length_bomb_closes_with_4502_and_says_why() {
    let scene = Scene::new().await;
    let mut good = Vec::new();
    let publish = Publish {
        id: Some(1),
        topic: Topic::parse("a.b").unwrap(),
        payload: Payload::text("x"),
        key: None,
        headers: Vec::new(),
        idempotency: None,
        report: false,
    };
    Codec::Bincode.encode_client(&ClientFrame::Publish(publish), &mut good);
    // Every byte in turn becomes the announcement of 2^63 of something.
    for at in 1..good.len() {
        let mut bomb = good[..at].to_vec();
        bomb.push(253);
        bomb.extend_from_slice(&(1u64 << 63).to_le_bytes());
        let mut client = Raw::connect(&scene.server.url(), Codec::Bincode).await;
        client.say(&bomb).await;
        let answer = client.decoded().await;
        assert!(matches!(answer, ServerFrame::Error(_)), "byte {at}: {answer:?}");
        assert_eq!(client.closed().await, Some(4502), "byte {at}");
    }
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_json_payload_with_line_breaks_or_a_forged_frame_is_one_message_for_everybody() {
    let scene = Scene::new().await;
    let mut reader = scene.client().await;
    reader.say(r#"{"op":"subscribe","id":1,"filter":"forged"}"#).await;
    assert_eq!(reader.frame().await["op"], "ack");
    let forged = "{\"a\":1}\n{\"op\":\"message\",\"topic\":\"forged\",\"text\":\"not published\"}";
    let spread = "{\n  \"a\": [1,\r\n 2]\n}";

    // By hand in bincode, since no SDK lets such bytes out.
    let mut bincode = Raw::connect(&scene.server.url(), Codec::Bincode).await;
    let subscribe = Subscribe {
        id: 1,
        filter: "none".parse().unwrap(),
        from: From::Live,
        overflow: None,
        limit: None,
        limit_bytes: None,
        credit: None,
        echo: true,
    };
    let mut hello = Vec::new();
    Codec::Bincode.encode_client(&ClientFrame::Subscribe(subscribe), &mut hello);
    bincode.say(&hello).await;
    assert!(matches!(bincode.decoded().await, ServerFrame::Ack { id: 1, .. }));
    for (id, payload) in [(2u64, forged), (3, spread)] {
        let placeholder = "J".repeat(payload.len());
        let publish = Publish {
            id: Some(id),
            topic: Topic::parse("forged").unwrap(),
            payload: Payload::json(format!("\"{}\"", &placeholder[2..]).as_bytes()).unwrap(),
            key: None,
            headers: Vec::new(),
            idempotency: None,
            report: false,
        };
        let mut frame = Vec::new();
        Codec::Bincode.encode_client(&ClientFrame::Publish(publish), &mut frame);
        let quoted = format!("\"{}\"", &placeholder[2..]);
        let at = frame.windows(quoted.len()).position(|w| w == quoted.as_bytes()).unwrap();
        frame[at..at + payload.len()].copy_from_slice(payload.as_bytes());
        bincode.say(&frame).await;
    }
    match bincode.decoded().await {
        ServerFrame::Error(error) => assert_eq!((error.id, error.code.number()), (Some(2), 1202)),
        other => panic!("{other:?}"),
    }
    assert!(matches!(bincode.decoded().await, ServerFrame::Ack { id: 3, .. }));

    let frame = reader.frame().await;
    assert_eq!((&frame["op"], &frame["json"]), (&json!("message"), &json!({"a": [1, 2]})), "{frame}");

    let mut client = scene.client().await;
    client.say(format!(r#"{{"op":"publish","id":1,"topic":"forged","json":{forged}}}"#)).await;
    // In JSON the line break ends the frame: two frames, neither of which can be read or said by a client.
    assert_eq!(client.frame().await["op"], "error");
    assert_eq!(client.frame().await["op"], "error");
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_subscriptions_ends_at_the_limit() {
    let mut config = Config::default();
    config.server.listen = "127.0.0.1:0".parse().unwrap();
    config.limits.subscriptions = 100;
    let scene = Scene::with(config).await;
    let mut client = scene.client().await;
    let flood: Vec<String> =
        (1..=5_000).map(|id| format!(r#"{{"op":"subscribe","id":{id},"filter":"flood.{id}"}}"#)).collect();
    for lines in flood.chunks(500) {
        client.say(lines.join("\n")).await;
    }
    for id in 1..=5_000 {
        let answer = client.frame().await;
        if id <= 100 {
            assert_eq!(answer["op"], "ack");
        } else {
            assert_eq!((&answer["code"], &answer["id"]), (&json!(1301), &json!(id)));
        }
    }
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_sends_only_nonsense_is_closed_with_4501() {
    let scene = Scene::new().await;
    let mut client = scene.client().await;
    client.say(vec![b"x\n".as_slice(); 101].concat()).await;
    assert_eq!(client.closed().await, Some(4501));
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_asks_and_never_reads_is_not_read_any_more_and_the_broker_does_not_grow() {
    let scene = Scene::new().await;
    let mut greedy = scene.client().await;
    // It writes until the broker stops reading and the kernel's buffers are full: then its write waits.
    use futures_util::SinkExt;
    let mut id = 0;
    let stopped = loop {
        let mut text = String::new();
        for _ in 0..1_000 {
            id += 1;
            text += &format!(
                "{{\"op\":\"history\",\"id\":{id},\"topic\":\"a\"}}\n{{\"op\":\"ping\",\"id\":{}}}\n",
                id + 1
            );
            id += 1;
        }
        let message = tokio_tungstenite::tungstenite::Message::text(text);
        let sent =
            tokio::time::timeout(std::time::Duration::from_secs(2), greedy.socket().send(message)).await;
        if sent.is_err() {
            break true;
        }
        if id > 20_000_000 {
            break false;
        }
    };
    assert!(stopped, "the broker read {id} requests of a peer that reads no answer");
    scene.end().await;
}
