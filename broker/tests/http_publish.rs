//! Publishing and reading over HTTP: one message, batches, history, listings, and what is refused.

mod http;

use std::io::{BufReader, Write};

use http::{Answer, Api};
use serde_json::{Value, json};

const JSON: (&str, &str) = ("Content-Type", "application/json");
const TEXT: (&str, &str) = ("Content-Type", "text/plain; charset=UTF-8");
const BINARY: (&str, &str) = ("Content-Type", "application/octet-stream");

#[test]
fn each_content_type_is_a_kind_and_reads_back() {
    let api = Api::start();
    let ack = api.ask("POST /v1/topics/chat.room1", &[JSON], b"{\n \"text\": \"hi\"\n}").json();
    assert_eq!(ack["offset"], 1, "{ack}");
    assert!(ack["epoch"].is_string() && ack.get("stream").is_none() && ack.get("duplicate").is_none());
    api.ask("POST /v1/topics/chat.room1", &[TEXT], "grün\n".as_bytes()).json();
    let headers = [BINARY, ("X-Tidegate-Key", "k1"), ("X-Tidegate-Header-Trace", "abc")];
    api.ask("POST /v1/topics/chat.room1", &headers, b"\xff\0").json();
    let page = api.get("/v1/topics/chat.room1/history").json();
    let messages = page["messages"].as_array().unwrap();
    assert_eq!(messages[0]["json"], json!({"text": "hi"}));
    assert_eq!(messages[1]["text"], "grün\n");
    assert_eq!(messages[2]["binary"], "/wA=");
    assert_eq!((&messages[2]["key"], &messages[2]["headers"]), (&json!("k1"), &json!({"trace": "abc"})));
    assert_eq!(messages[2]["op"], "message");
    assert_eq!((&page["more"], &page["position"]["offset"]), (&json!(false), &json!(3)));
}

#[test]
fn what_is_not_what_it_claims_is_refused_with_its_number() {
    let api = Api::start();
    let deep = "[".repeat(65) + &"]".repeat(65);
    let (long_key, long_idempotency) = ("k".repeat(256), "i".repeat(65));
    let many: Vec<_> = (0..17).map(|at| (format!("X-Tidegate-Header-n{at}"), "v")).collect();
    // Path, headers and body; status and number of the refusal.
    type Case<'a> = (&'a str, &'a [(&'a str, &'a str)], &'a [u8], u16, u16);
    let cases: &[Case<'_>] = &[
        ("a", &[JSON], b"{", 400, 1202),
        ("a", &[JSON], b"1 2", 400, 1202),
        ("a", &[JSON], b"", 400, 1202),
        ("a", &[JSON], deep.as_bytes(), 400, 1204),
        ("a", &[TEXT], b"\xff", 400, 1202),
        ("a", &[("Content-Type", "application/x-www-form-urlencoded")], b"1", 415, 415),
        ("a", &[("Content-Type", "text/plain; charset=latin1")], b"1", 415, 415),
        ("a", &[], b"1", 415, 415),
        ("a..b", &[JSON], b"1", 400, 1200),
        ("a.*", &[JSON], b"1", 400, 1200),
        ("a%20b", &[JSON], b"1", 400, 1200),
        ("a%2", &[JSON], b"1", 400, 400),
        ("a%zz", &[JSON], b"1", 400, 400),
        ("a%ff", &[JSON], b"1", 400, 400),
        ("$sys", &[JSON], b"1", 403, 1205),
        ("a?reprot=true", &[JSON], b"1", 400, 1003),
        ("a?report=yes", &[JSON], b"1", 400, 1003),
        ("a?report=true&report=true", &[JSON], b"1", 400, 1003),
        ("a", &[JSON, ("X-Tidegate-Key", &long_key)], b"1", 400, 1206),
        ("a", &[JSON, ("Idempotency-Key", &long_idempotency)], b"1", 400, 1206),
        ("a", &[JSON, ("Idempotency-Key", "1"), ("Idempotency-Key", "2")], b"1", 400, 1003),
    ];
    for (path, headers, body, status, code) in cases {
        let message = api.ask(&format!("POST /v1/topics/{path}"), headers, body).refused(*status, *code);
        assert!(!message.is_empty(), "{path}");
    }
    let mut headers = vec![JSON];
    headers.extend(many.iter().map(|(name, value)| (&**name, *value)));
    api.ask("POST /v1/topics/a", &headers, b"1").refused(400, 1206);
    assert_eq!(api.get("/v1/topics").json()["topics"], json!([]), "nothing of it was published");
}

#[test]
fn a_body_is_bounded_and_its_sender_reads_why() {
    let api = Api::start();
    let most = tidegate_protocol::limits::DEFAULT_PAYLOAD_BYTES;
    let line = "POST /v1/topics/a";
    api.ask(line, &[BINARY], &vec![0; most]).json();
    let refused = api.ask(line, &[BINARY], &vec![0; most + 1]);
    assert!(refused.refused(413, 1203).contains("limits.payload_bytes"));
    api.ask(line, &[BINARY], &vec![0; 1_000_000]).refused(413, 1203);
    // Without a length, in chunks that never end.
    let mut stream = api.connect();
    let head = format!(
        "{line} HTTP/1.1\r\nHost: {}\r\nTransfer-Encoding: chunked\r\nContent-Type: text/plain\r\n\r\n",
        api.address
    );
    stream.write_all(head.as_bytes()).unwrap();
    let chunk = [b"8000\r\n".to_vec(), vec![b'x'; 0x8000], b"\r\n".to_vec()].concat();
    // More than is thrown away for it: it is cut, and may notice while it writes.
    for _ in 0..40 {
        if stream.write_all(&chunk).is_err() {
            break;
        }
    }
    assert_eq!(Answer::read(stream, false).status, 413);
}

#[test]
fn a_body_in_chunks_is_read_and_one_with_a_length_too_is_the_last_of_its_connection() {
    let api = Api::start();
    let head = |more: &str| {
        format!(
            "POST /v1/topics/a HTTP/1.1\r\nHost: {}\r\nContent-Type: text/plain\r\n{more}\r\n",
            api.address
        )
    };
    let mut stream = api.connect();
    let request = head("Transfer-Encoding: chunked\r\n") + "2\r\nab\r\n1\r\nc\r\n0\r\n\r\n";
    stream.write_all(request.repeat(2).as_bytes()).unwrap();
    let mut reader = BufReader::new(stream);
    assert_eq!(Answer::next(&mut reader, false).json()["offset"], 1);
    assert_eq!(Answer::next(&mut reader, false).json()["offset"], 2);
    for both in [
        "Transfer-Encoding: chunked\r\nContent-Length: 4\r\n",
        "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n",
    ] {
        let mut stream = api.connect();
        // What a proxy that goes by the length takes for the next request.
        let request = head(both) + "0\r\n\r\nGET /live HTTP/1.1\r\nHost: localhost\r\n\r\n";
        stream.write_all(request.as_bytes()).unwrap();
        let mut all = String::new();
        std::io::Read::read_to_string(&mut stream, &mut all).unwrap();
        assert_eq!(all.matches("HTTP/1.1 ").count(), 1, "{all}");
        assert!(!all.contains("live\n"), "{all}");
    }
    let mut stream = api.connect();
    let request = head("Transfer-Encoding: gzip\r\n") + "x";
    stream.write_all(request.as_bytes()).unwrap();
    assert_eq!(Answer::read(stream, false).status, 400);
}

#[test]
fn a_repeated_key_is_answered_with_the_first_position() {
    let api = Api::start();
    let ask = |topic: &str, headers: &[(&str, &str)]| {
        let mut all = vec![JSON];
        all.extend(headers);
        api.ask(&format!("POST /v1/topics/{topic}"), &all, b"1").json()
    };
    let key = ("Idempotency-Key", "6b1");
    let first = ask("a", &[key]);
    let again = ask("a", &[key]);
    assert_eq!((&again["offset"], &again["duplicate"]), (&first["offset"], &json!(true)));
    let of_another = ask("a", &[key, ("X-Tidegate-Instance", "shop")]);
    assert_eq!((&of_another["offset"], of_another.get("duplicate")), (&json!(2), None));
    assert_eq!(ask("a", &[key, ("X-Tidegate-Instance", "shop")])["duplicate"], true);
}

#[test]
fn a_report_tells_the_fan_out() {
    let api = Api::start();
    let mut events = api.events("GET /v1/subscribe?filter=a", &[], b"");
    events.wait_for_id();
    let ack = api.ask("POST /v1/topics/a?report=true", &[JSON], b"1").json();
    assert_eq!((&ack["report"]["matched"], &ack["report"]["queued"]), (&json!(1), &json!(1)), "{ack}");
    assert!(api.publish("a", "2").get("report").is_none());
}

#[test]
fn a_batch_is_answered_message_by_message() {
    let api = Api::start();
    let body = json!({"messages": [
        {"topic": "a", "json": {"n": 1}, "key": "k", "headers": {"h": "v"}, "idempotency": "1"},
        {"topic": "a", "text": "two", "report": true},
        {"topic": "a b", "text": "bad topic"},
        {"topic": "a", "text": "x", "binary": "eA=="},
        {"topic": "$a", "text": "x"},
        {"topic": "a", "op": "ping", "text": "x"},
        {"topic": "a", "id": 7, "text": "x"},
        {"topic": "a", "binary": "/wA="},
        {},
        7,
        {"topic": "a", "text": "one again", "idempotency": "1"},
        {"topic": "a", "text": "x", "colour": "red"},
        {"topic": "a", "text": "x".repeat(70_000)},
    ]});
    // As a person writes it: line breaks are white space.
    let body = serde_json::to_string_pretty(&body).unwrap();
    let answer = api.ask("POST /v1/publish", &[JSON], body.as_bytes()).json();
    let outcome = |result: &Value| result["offset"].as_u64().or_else(|| result["error"]["code"].as_u64());
    let results = answer["results"].as_array().unwrap();
    let got: Vec<_> = results.iter().map(|result| outcome(result).unwrap()).collect();
    assert_eq!(got, [1, 2, 1200, 1003, 1205, 1003, 1003, 3, 1003, 1001, 1, 1003, 1203], "{answer}");
    assert_eq!(results[10]["duplicate"], true);
    assert!(results[1]["report"].is_object());
    let page = api.get("/v1/topics/a/history").json();
    assert_eq!(page["messages"].as_array().unwrap().len(), 3);
}

#[test]
fn a_batch_is_bounded_in_messages_and_bytes() {
    let api = Api::with(|config| {
        config.limits.batch_messages = 3;
        config.limits.batch_bytes = 1024;
    });
    let batch = |count: usize, text: &str| {
        json!({"messages": vec![json!({"topic": "a", "text": text}); count]}).to_string()
    };
    assert_eq!(
        api.ask("POST /v1/publish", &[JSON], batch(3, "x").as_bytes()).json()["results"]
            .as_array()
            .unwrap()
            .len(),
        3
    );
    let many = api.ask("POST /v1/publish", &[JSON], batch(4, "x").as_bytes()).refused(413, 1203);
    assert!(many.contains("limits.batch_messages"));
    let large = api.ask("POST /v1/publish", &[JSON], batch(1, &"x".repeat(1024)).as_bytes());
    assert!(large.refused(413, 1203).contains("limits.batch_bytes"));
    api.ask("POST /v1/publish", &[TEXT], batch(1, "x").as_bytes()).refused(415, 415);
    for bad in ["", "{}", "[]", "{\"messages\":1}", "{\"messages\":[],\"more\":1}", "{\"messages\":[1"] {
        api.ask("POST /v1/publish", &[JSON], bad.as_bytes()).refused(400, 1001);
    }
    assert_eq!(api.ask("POST /v1/publish", &[JSON], b"{\"messages\":[]}").json()["results"], json!([]));
}

#[test]
fn bodies_under_way_are_bounded_for_the_whole_process() {
    let api = Api::with(|config| {
        config.memory.http_bytes = 1 << 20;
        config.limits.batch_bytes = 4 << 20;
    });
    let body = vec![b' '; 2 << 20];
    let refused = api.ask("POST /v1/publish", &[JSON], &body);
    assert!(refused.refused(503, 503).contains("memory.http_bytes"));
    assert_eq!(refused.header("retry-after"), Some("1"));
    // What was held is free again.
    let small = json!({"messages": [{"topic": "a", "text": "x".repeat(60_000)}]}).to_string();
    for _ in 0..20 {
        api.ask("POST /v1/publish", &[JSON], small.as_bytes()).json();
    }
}

#[test]
fn history_is_read_page_by_page() {
    let api = Api::start();
    for n in 1..=25 {
        api.publish("a", &n.to_string());
        api.publish("b", &n.to_string());
    }
    let (mut from, mut read) = ("beginning".to_owned(), Vec::new());
    loop {
        let page = api.get(&format!("/v1/topics/a/history?from={from}&limit=10")).json();
        let messages = page["messages"].as_array().unwrap();
        assert!(messages.len() <= 10);
        read.extend(messages.iter().map(|message| message["json"].as_u64().unwrap()));
        from = page["next"].as_str().unwrap().to_owned();
        if page["more"] == false {
            break;
        }
    }
    assert_eq!(read, (1..=25).collect::<Vec<_>>());
    let last = api.get("/v1/topics/a/history?from=last:3").json();
    let last: Vec<_> = last["messages"].as_array().unwrap().iter().map(|m| m["json"].clone()).collect();
    assert_eq!(last, [json!(23), json!(24), json!(25)]);
    assert_eq!(api.get("/v1/topics/a/history?from=since:0&limit=1").json()["messages"][0]["json"], 1);
    assert_eq!(api.get("/v1/topics/nothing/history").json()["messages"], json!([]));
    api.get("/v1/topics/a/history?from=00000000000000ff:1").refused(410, 1302);
    api.get("/v1/topics/a/history?from=newest").refused(400, 1003);
    api.get("/v1/topics/a/history?limit=-1").refused(400, 1003);
}

#[test]
fn topics_in_no_stream_have_no_history_and_no_position() {
    let api = Api::with(|config| config.streams.clear());
    assert_eq!(api.publish("a", "1"), json!({"live_only": true}));
    api.get("/v1/topics/a/history").refused(404, 1303);
    assert_eq!(api.get("/v1/streams").json(), json!({"streams": []}));
}

#[test]
fn topics_are_listed_by_name_and_page() {
    let api = Api::with(|config| {
        let filters = vec![tidegate_protocol::Filter::parse("orders.>").unwrap()];
        let orders = tidegate::config::Stream { name: "orders".into(), filters, ..Default::default() };
        config.streams.push(orders);
    });
    for topic in ["chat.b", "chat.a", "orders.1", "chat.c", "x"] {
        api.publish(topic, "1");
    }
    api.publish("chat.a", "2");
    let names = |page: &Value| -> Vec<String> {
        let topics = page["topics"].as_array().unwrap().iter();
        topics.map(|topic| topic["topic"].as_str().unwrap().to_owned()).collect()
    };
    let first = api.get("/v1/topics?limit=3").json();
    assert_eq!(
        (names(&first), &first["more"]),
        (vec!["chat.a".into(), "chat.b".into(), "chat.c".into()], &json!(true))
    );
    assert_eq!(first["topics"][0]["offset"], 5, "its newest message: {first}");
    let rest = api.get("/v1/topics?limit=3&after=chat.c").json();
    assert_eq!((names(&rest), &rest["more"]), (vec!["orders.1".into(), "x".into()], &json!(false)));
    assert_eq!(rest["topics"][0]["stream"], "orders");
    assert_eq!(names(&api.get("/v1/topics?filter=chat.*&after=chat.a").json()), ["chat.b", "chat.c"]);
    api.get("/v1/topics?filter=a..b").refused(400, 1201);
    let streams = api.get("/v1/streams").json();
    let of = |at: usize| (streams["streams"][at]["stream"].clone(), streams["streams"][at]["topics"].clone());
    assert_eq!((of(0), of(1)), ((json!("default"), json!(4)), (json!("orders"), json!(1))));
}

#[test]
fn every_method_is_answered_at_every_route() {
    let api = Api::start();
    let head = api.ask("HEAD /v1/streams", &[], b"");
    assert_eq!((head.status, &head.body[..]), (200, &b""[..]));
    for (line, allow) in [
        ("DELETE /v1/topics/a", "POST"),
        ("GET /v1/topics/a", "POST"),
        ("POST /v1/topics", "GET, HEAD"),
        ("GET /v1/publish", "POST"),
        ("HEAD /v1/subscribe?filter=a", "GET"),
        ("GET /v1/sessions", "POST"),
        ("PUT /v1/sessions/a/frames", "POST"),
        ("POST /live", "GET, HEAD"),
    ] {
        let answer = api.ask(line, &[], b"");
        assert_eq!((answer.status, answer.header("allow")), (405, Some(allow)), "{line}");
    }
    for path in ["/v1", "/v1/", "/v1/nothing", "/v1/topics/", "/v1/topics/a/b", "/v2/topics"] {
        api.get(path).refused(404, 404);
    }
}

#[test]
fn where_there_is_no_room_a_publish_is_refused_and_those_behind_it_are_not_tried() {
    let api = Api::with(|config| {
        config.streams.clear();
        config.server.shards = 1;
        config.memory.shard_queue_messages = 16;
    });
    let mut events = api.events("GET /v1/subscribe?filter=a&limit=1000", &[], b"");
    while api.ask("POST /v1/topics/a?report=true", &[TEXT], b"x").json()["report"]["matched"] != 1 {}
    assert_eq!(events.message()["text"], "x");
    let mut messages = vec![json!({"topic": "a", "text": "y"}); 40];
    // Nobody listens to it, so there would be room for it.
    messages.push(json!({"topic": "b", "text": "z"}));
    let body = json!({"messages": messages}).to_string();
    let answer = api.ask("POST /v1/publish", &[JSON], body.as_bytes()).json();
    let results = answer["results"].as_array().unwrap();
    let taken = results.iter().take_while(|result| result["live_only"] == true).count();
    assert!((1..=16).contains(&taken), "{answer}");
    for refused in &results[taken..] {
        let error = &refused["error"];
        assert_eq!((&error["code"], &error["retry"]), (&json!(1501), &json!(true)));
    }
    for _ in 0..taken {
        assert_eq!(events.message()["text"], "y");
    }
    // There is room again, and what was refused never comes.
    api.ask("POST /v1/topics/a", &[TEXT], b"again").json();
    assert_eq!(events.message()["text"], "again");
}
