//! Pages of other origins at the HTTP API: who is welcome, what a browser is told, and what the developer of a page that
//! is not can read.

mod http;

use http::{Answer, Api};

const FOREIGN: (&str, &str) = ("Origin", "https://evil.example");
const NEAR: (&str, &str) = ("Origin", "http://localhost:5173");
const LISTED: (&str, &str) = ("Origin", "https://shop.example");

fn api() -> Api {
    Api::with(|config| config.server.allowed_origins = vec!["https://shop.example".into()])
}

fn may_read(answer: &Answer) -> Option<&str> {
    answer.header("access-control-allow-origin")
}

#[test]
fn a_welcome_page_reads_answers_and_errors() {
    let api = api();
    let own = format!("http://{}", api.address);
    for origin in [NEAR, LISTED, ("Origin", &*own)] {
        for (line, status) in [
            ("GET /v1/streams", 200),
            ("GET /v1/topics?limit=x", 400),
            ("GET /v1/nothing", 404),
            ("DELETE /v1/streams", 405),
            ("POST /v1/topics/a", 415),
            ("POST /v1/sessions/x/frames?seq=1", 404),
        ] {
            let answer = api.ask(line, &[origin], b"");
            assert_eq!((answer.status, may_read(&answer)), (status, Some(origin.1)), "{line}");
            assert_eq!(answer.header("vary"), Some("origin"), "or a cache mixes origins up");
        }
    }
    let events = api.events("GET /v1/subscribe?filter=a", &[NEAR], b"");
    assert_eq!(may_read(&events.answer), Some(NEAR.1));
    let session = api.events("POST /v1/sessions", &[NEAR], b"");
    assert_eq!(may_read(&session.answer), Some(NEAR.1));
    assert_eq!(may_read(&api.get("/v1/streams")), None, "nobody asked");
}

#[test]
fn a_foreign_page_is_refused_before_anything_and_reads_why() {
    let api = api();
    for line in [
        "GET /v1/streams",
        "GET /v1/nothing",
        "POST /v1/topics/a",
        "POST /v1/sessions",
        "GET /v1/subscribe?filter=a",
        "OPTIONS /v1/topics/a",
    ] {
        let answer = api.ask(line, &[FOREIGN, ("Content-Type", "text/plain")], b"x");
        let why = answer.refused(403, 403);
        assert!(why.contains("https://evil.example") && why.contains("server.allowed_origins"), "{why}");
        assert_eq!(may_read(&answer), Some(FOREIGN.1), "{line}");
        assert_eq!(answer.header("access-control-allow-methods"), None, "{line}");
    }
    for origin in ["null", "", "https://shop.example.evil.test", "http://shop.example"] {
        api.ask("GET /v1/streams", &[("Origin", origin)], b"").refused(403, 403);
    }
    api.ask("GET /v1/streams", &[NEAR, FOREIGN], b"").refused(400, 400);
    assert_eq!(api.get("/v1/streams").json()["streams"][0]["offset"], 0, "nothing was published");
}

#[test]
fn a_host_that_was_made_to_resolve_here_is_refused() {
    let api = api();
    let mut stream = api.connect();
    let request = "GET /v1/streams HTTP/1.1\r\nHost: evil.example\r\nOrigin: http://evil.example\r\n\r\n";
    std::io::Write::write_all(&mut stream, request.as_bytes()).unwrap();
    let answer = Answer::read(stream, false);
    answer.refused(403, 403);
    assert_eq!(may_read(&answer), None);
}

#[test]
fn a_browser_that_asks_first_is_told_what_may_be_sent() {
    let api = api();
    let headers = [
        LISTED,
        ("Access-Control-Request-Method", "POST"),
        (
            "Access-Control-Request-Headers",
            "content-type, Idempotency-Key,x-tidegate-key, x-tidegate-header-trace, x-other",
        ),
        ("Access-Control-Request-Private-Network", "true"),
    ];
    let answer = api.ask("OPTIONS /v1/topics/chat.room1", &headers, b"");
    assert_eq!((answer.status, answer.body.len()), (204, 0));
    assert_eq!(may_read(&answer), Some("https://shop.example"));
    assert_eq!(answer.header("access-control-allow-methods"), Some("POST"));
    let allowed = "content-type, Idempotency-Key, x-tidegate-key, x-tidegate-header-trace";
    assert_eq!(answer.header("access-control-allow-headers"), Some(allowed));
    assert_eq!(answer.header("access-control-max-age"), Some("600"));
    assert_eq!(answer.header("access-control-allow-private-network"), Some("true"));
    let plain = api.ask("OPTIONS /v1/streams", &[], b"");
    assert_eq!((plain.status, plain.header("allow")), (204, Some("GET, HEAD")));
    api.ask("OPTIONS /v1/nothing", &[LISTED], b"").refused(404, 404);
}

#[test]
fn what_is_not_the_api_is_for_its_own_pages_alone() {
    let api = api();
    for path in ["/", "/console.js", "/metrics", "/live"] {
        assert_eq!(may_read(&api.ask(&format!("GET {path}"), &[LISTED], b"")), None, "{path}");
    }
}
