//! A client that speaks HTTP by hand, over blocking sockets, to a broker inside the test's process.
//!
//! # How to use and extend
//!
//! * `Api::start()` has a broker with the defaults, `Api::with(|config| …)` another one, `Api::pinging()` one whose pings
//!   need not be waited for.
//! * `api.ask("GET /v1/streams", &[("Origin", "…")], b"")` is one request on a connection of its own;
//!   `answer.json()` its body, `answer.refused(404, 404)` the message of an error with that status and number.
//! * `api.events("GET /v1/subscribe?filter=a", &[], b"")` is a stream of events: `events.next()` is the next event,
//!   `events.message()` the data of the next message.
//! * `api.connect()` is a socket, for whatever is not well formed.

// Each test binary has its own copy of this file and uses a part of it.
#![allow(dead_code)]

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use serde_json::Value;
use tidegate::{config::Config, server::Server};

/// Longer than anything here takes on the slowest machine; reached only when something is broken.
pub const PATIENCE: Duration = Duration::from_secs(120);

pub struct Api {
    server: Option<Server>,
    pub address: SocketAddr,
}

impl Api {
    pub fn start() -> Self {
        Self::with(|_| {})
    }

    pub fn with(change: impl FnOnce(&mut Config)) -> Self {
        let config = Self::config(change);
        config.check().unwrap();
        Self::serve(config)
    }

    /// With a ping so often as no operator may have it, whose answer no busy machine is too slow for.
    pub fn pinging() -> Self {
        Self::serve(Self::config(|config| {
            config.websocket.ping_interval = Duration::from_millis(200);
            config.websocket.pong_timeout = Duration::from_secs(3600);
        }))
    }

    fn config(change: impl FnOnce(&mut Config)) -> Config {
        let mut config = Config::default();
        config.server.listen = "127.0.0.1:0".parse().unwrap();
        config.server.shards = 2;
        change(&mut config);
        config
    }

    fn serve(config: Config) -> Self {
        let server = Server::start(config).unwrap();
        Self { address: server.address(), server: Some(server) }
    }

    /// Drains and stops the broker.
    pub fn stop(&mut self) {
        self.server.take().unwrap().stop().unwrap();
    }

    pub fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    /// Sends a request; its length stands in it unless `headers` say how the body is cut.
    pub fn send(&self, line: &str, headers: &[(&str, &str)], body: &[u8]) -> TcpStream {
        let mut stream = self.connect();
        let mut head = format!("{line} HTTP/1.1\r\nHost: {}\r\n", self.address);
        for (name, value) in headers {
            head += &format!("{name}: {value}\r\n");
        }
        if !body.is_empty() || line.starts_with("POST") {
            head += &format!("Content-Length: {}\r\n", body.len());
        }
        stream.write_all(&[head.as_bytes(), b"\r\n", body].concat()).unwrap();
        stream
    }

    pub fn ask(&self, line: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
        Answer::read(self.send(line, headers, body), line.starts_with("HEAD"))
    }

    pub fn get(&self, path: &str) -> Answer {
        self.ask(&format!("GET {path}"), &[], b"")
    }

    /// Publishes JSON.
    pub fn publish(&self, topic: &str, json: &str) -> Value {
        let line = format!("POST /v1/topics/{topic}");
        self.ask(&line, &[("Content-Type", "application/json")], json.as_bytes()).json()
    }

    pub fn events(&self, line: &str, headers: &[(&str, &str)], body: &[u8]) -> Events {
        Events::over(self.send(line, headers, body))
    }
}

#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: Vec<u8>,
}

impl Answer {
    /// Reads one answer off a socket.
    pub fn read(stream: TcpStream, is_head: bool) -> Self {
        Self::next(&mut BufReader::new(stream), is_head)
    }

    /// Reads the next answer of several.
    pub fn next(reader: &mut impl BufRead, is_head: bool) -> Self {
        let mut answer = Self::head(reader);
        let length = answer.header("content-length").map_or(0, |length| length.parse().unwrap());
        if !is_head {
            answer.body = vec![0; length];
            reader.read_exact(&mut answer.body).unwrap();
        }
        answer
    }

    fn head(reader: &mut impl BufRead) -> Self {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            let read = reader.read_line(&mut head).expect("an answer");
            assert!(read > 0, "the connection ended amid {head:?}");
        }
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
        Self { status, head, body: Vec::new() }
    }

    /// A header's value, if it stands there once.
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut values = self.head.lines().skip(1).filter_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then(|| value.trim())
        });
        let value = values.next();
        assert!(values.next().is_none(), "{name} stands twice: {}", self.head);
        value
    }

    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    /// The body of an answer that is no refusal.
    #[track_caller]
    pub fn json(&self) -> Value {
        assert_eq!(self.status, 200, "{self:?} {:?}", self.text());
        assert_eq!(self.header("content-type"), Some("application/json"));
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {:?}", self.text()))
    }

    /// The message of a refusal, and that it is this one.
    #[track_caller]
    pub fn refused(&self, status: u16, code: u16) -> String {
        assert_eq!(self.status, status, "{self:?} {:?}", self.text());
        let body: Value = serde_json::from_slice(&self.body).expect("a JSON body");
        assert_eq!(body["error"]["code"], code, "{body}");
        assert!(body["error"]["name"].is_string() && body["error"]["retry"].is_boolean(), "{body}");
        body["error"]["message"].as_str().expect("a message").to_owned()
    }
}

/// One server-sent event, as the HTML Standard has a browser read it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Event {
    pub name: String,
    /// Lines, with breaks between.
    pub data: String,
}

impl Event {
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.data).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }
}

/// A stream of events that is being read, as an `EventSource` does it.
pub struct Events {
    pub answer: Answer,
    reader: BufReader<TcpStream>,
    /// What is left of the present chunk.
    chunk: usize,
    line: Vec<u8>,
    /// What an `EventSource` would come back with.
    pub id: String,
    pub retry: Option<u64>,
    /// Comments that came.
    pub comments: usize,
    /// Whether the stream came to its orderly end.
    pub ended: bool,
}

impl Events {
    #[track_caller]
    pub fn over(stream: TcpStream) -> Self {
        let mut reader = BufReader::new(stream);
        let mut answer = Answer::head(&mut reader);
        if answer.status != 200 {
            let length = answer.header("content-length").map_or(0, |length| length.parse().unwrap());
            answer.body = vec![0; length];
            reader.read_exact(&mut answer.body).unwrap();
            panic!("{answer:?} {:?}", answer.text());
        }
        assert_eq!(answer.header("content-type"), Some("text/event-stream"));
        Self {
            answer,
            reader,
            chunk: 0,
            line: Vec::new(),
            id: String::new(),
            retry: None,
            comments: 0,
            ended: false,
        }
    }

    /// The socket, to be left unread or closed.
    pub fn socket(&self) -> &TcpStream {
        self.reader.get_ref()
    }

    /// The next event; `None` at the end.
    pub fn next(&mut self) -> Option<Event> {
        let mut event = Event::default();
        let mut has_data = false;
        loop {
            let line = self.line()?;
            if line.is_empty() {
                if has_data {
                    return Some(event);
                }
                event = Event::default();
                continue;
            }
            let (field, value) = line.split_once(':').unwrap_or((&line, ""));
            let value = value.strip_prefix(' ').unwrap_or(value);
            match field {
                "" => self.comments += 1,
                "event" => event.name = value.to_owned(),
                "data" => {
                    if has_data {
                        event.data.push('\n');
                    }
                    has_data = true;
                    event.data += value;
                }
                "id" => self.id = value.to_owned(),
                "retry" => self.retry = Some(value.parse().unwrap()),
                _ => panic!("what is {line:?}?"),
            }
        }
    }

    /// The next message's frame; no other event may come before it.
    #[track_caller]
    pub fn message(&mut self) -> Value {
        let event = self.next().expect("the stream goes on");
        assert_eq!(event.name, "", "{event:?}");
        event.json()
    }

    /// The frames of the next event of a session.
    #[track_caller]
    pub fn frames(&mut self) -> Vec<Value> {
        let event = self.next().expect("the stream goes on");
        assert_eq!(event.name, "", "{event:?}");
        event.data.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// Waits until something was said that is no event: the id or a comment moved.
    pub fn wait_for_id(&mut self) -> String {
        let before = self.id.clone();
        while self.id == before {
            self.line().expect("the stream goes on");
            if let Some(id) = self.last_line().strip_prefix("id: ") {
                self.id = id.to_owned();
            }
        }
        // The empty line that ends it.
        self.line();
        self.id.clone()
    }

    fn last_line(&self) -> String {
        String::from_utf8_lossy(&self.line).into_owned()
    }

    fn line(&mut self) -> Option<String> {
        self.line.clear();
        loop {
            let byte = self.byte()?;
            if byte == b'\n' {
                return Some(String::from_utf8(self.line.clone()).unwrap());
            }
            self.line.push(byte);
        }
    }

    /// The next byte of the body, out of its chunks.
    fn byte(&mut self) -> Option<u8> {
        while self.chunk == 0 {
            if self.ended {
                return None;
            }
            let mut size = String::new();
            self.reader.read_line(&mut size).expect("a chunk");
            if size.is_empty() {
                // The line was cut.
                return None;
            }
            if size.trim().is_empty() {
                continue;
            }
            self.chunk = usize::from_str_radix(size.trim(), 16).unwrap();
            if self.chunk == 0 {
                self.ended = true;
            }
        }
        let mut byte = [0];
        self.reader.read_exact(&mut byte).ok()?;
        self.chunk -= 1;
        Some(byte[0])
    }
}
