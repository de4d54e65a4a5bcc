//! Server-sent events: what a connection says, as the body of an answer.
//!
//! A session's events hold the broker's frames as they are; a subscription's are made for a bare `EventSource` and for
//! `curl`: one frame an event, with the position to come back with as its `id`.

use std::{
    cell::Cell,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use serde::Deserialize;
use serde_json::json;
use tidegate_protocol::{Epoch, position::StreamName};
use tokio::time::Instant;

use super::{
    bridge::{Heard, Listener},
    position::{self, Place},
    session,
};

/// The body of an answer that goes on until its connection ends.
pub(in super::super) struct Events {
    listener: Listener,
    form: Form,
    /// What is said before anything that is heard.
    opening: Option<Bytes>,
    ending: Ending,
    progress: Rc<Progress>,
}

/// What the events are made for.
pub(super) enum Form {
    /// The SDK. When it goes, so does the session.
    Session { _session: session::Guard },
    /// A bare client of one subscription.
    Subscription(Follow),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ending {
    No,
    /// The broker's close frame is told, and still to be answered.
    Told(u16),
    Over,
}

/// Whether a stream of events moves.
#[derive(Debug, Default)]
pub(in super::super) struct Progress {
    handed: Cell<Option<Instant>>,
}

impl Progress {
    /// Since when the client's socket has not taken what it was given; `None` where all is on its way.
    pub(in super::super) fn stalled_since(&self) -> Option<Instant> {
        self.handed.get()
    }
}

impl Events {
    pub(super) fn new(listener: Listener, form: Form, opening: Bytes) -> Self {
        let progress = Rc::default();
        Self { listener, form, opening: Some(opening), ending: Ending::No, progress }
    }

    pub(in super::super) fn progress(&self) -> Rc<Progress> {
        self.progress.clone()
    }

    fn poll_text(&mut self, context: &mut Context<'_>) -> Poll<Option<Bytes>> {
        if let Some(opening) = self.opening.take() {
            return Poll::Ready(Some(opening));
        }
        loop {
            match self.ending {
                Ending::No => {}
                Ending::Told(code) => {
                    self.ending = Ending::Over;
                    // By now the server's own buffer has what was told; it is flushed before the shard runs again.
                    self.listener.answer_close(code);
                    return Poll::Ready(None);
                }
                Ending::Over => return Poll::Ready(None),
            }
            let mut text = Vec::new();
            match ready!(self.listener.poll_heard(context)) {
                Heard::Frames(frames) => match &mut self.form {
                    Form::Session { .. } => write_data(&frames, &mut text),
                    Form::Subscription(follow) => {
                        if let Some((code, reason)) = follow.write(&frames, &mut text) {
                            write_close(code, &reason, &mut text);
                            self.ending = Ending::Over;
                        }
                    }
                },
                // Behind a proxy that cuts silent connections, and for a client that wants a sign of life.
                Heard::Ping => text.extend_from_slice(b":\n\n"),
                Heard::Close(code, reason) => {
                    write_close(code, &reason, &mut text);
                    self.ending = Ending::Told(code);
                }
                Heard::End => self.ending = Ending::Over,
            }
            if !text.is_empty() {
                return Poll::Ready(Some(text.into()));
            }
        }
    }
}

impl Body for Events {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let events = self.get_mut();
        let polled = events.poll_text(context);
        let handed = matches!(polled, Poll::Ready(_)).then(Instant::now);
        events.progress.handed.set(handed);
        polled.map(|text| text.map(|text| Ok(Frame::data(text))))
    }

    fn is_end_stream(&self) -> bool {
        self.ending == Ending::Over
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}

/// One event of the default type with a line of data for each line.
fn write_data(lines: &[u8], out: &mut Vec<u8>) {
    out.reserve(lines.len() + 16);
    for line in lines.split(|&byte| byte == b'\n') {
        out.extend_from_slice(b"data: ");
        out.extend_from_slice(line);
        out.push(b'\n');
    }
    out.push(b'\n');
}

fn write_close(code: u16, reason: &str, out: &mut Vec<u8>) {
    out.extend_from_slice(b"event: close\n");
    write_data(json!({ "code": code, "reason": reason }).to_string().as_bytes(), out);
}

/// How far a subscription's events are.
#[derive(Debug)]
pub(super) struct Follow {
    /// In each stream it can reach.
    places: Vec<Place>,
    /// Up to where the client has what is asked for again, since it was cut in the midst of a `last`.
    had: Vec<Place>,
    /// Whether it began with a `last`: until its messages are through, a place says so.
    last: bool,
}

/// What a frame says of positions; `op` and the rest are as `docs/protocol.md` has them.
#[derive(Deserialize)]
struct Said<'a> {
    op: &'a str,
    #[serde(default, borrow)]
    stream: Option<std::borrow::Cow<'a, str>>,
    offset: Option<u64>,
    to: Option<u64>,
    #[serde(default, borrow)]
    positions: Vec<SaidPosition<'a>>,
    #[serde(default)]
    subs: Vec<SaidSub>,
    reconnect_ms: Option<serde_json::Value>,
    code: Option<u16>,
    message: Option<String>,
}

#[derive(Deserialize)]
struct SaidPosition<'a> {
    #[serde(default, borrow)]
    stream: Option<std::borrow::Cow<'a, str>>,
    epoch: &'a str,
    offset: u64,
    live: Option<u64>,
}

#[derive(Deserialize)]
struct SaidSub {
    #[serde(default)]
    behind: bool,
}

impl Follow {
    /// `had`: the places of a client that was cut in the midst of a `last`.
    pub(super) fn new(last: bool, had: Vec<Place>) -> Self {
        Self { places: Vec::new(), had, last }
    }

    /// Writes the frames of one message as events. Where the subscription is not to be: the error's number and text.
    fn write(&mut self, frames: &[u8], out: &mut Vec<u8>) -> Option<(u16, String)> {
        for line in frames.split(|&byte| byte == b'\n') {
            // The broker's own frames can be read.
            let Ok(said) = serde_json::from_slice::<Said<'_>>(line) else { continue };
            match said.op {
                "message" => {
                    if let Some(offset) = said.offset {
                        if self.is_had(said.stream.as_deref(), offset) {
                            continue;
                        }
                        self.reach(said.stream.as_deref(), offset);
                        self.write_id(out);
                    }
                    write_data(line, out);
                }
                "gap" => {
                    if let Some(to) = said.to {
                        if self.is_had(said.stream.as_deref(), to) {
                            continue;
                        }
                        self.reach(said.stream.as_deref(), to);
                        self.write_id(out);
                    }
                    out.extend_from_slice(b"event: gap\n");
                    write_data(line, out);
                }
                "ack" => {
                    self.places = said.positions.iter().filter_map(|said| self.start(said)).collect();
                    self.write_id(out);
                    out.push(b'\n');
                }
                // An id with no data moves the client's and is no event.
                "mark" if !said.subs.iter().any(|sub| sub.behind) => {
                    let before = self.places.clone();
                    for position in &said.positions {
                        self.reach(position.stream.as_deref(), position.offset);
                    }
                    if self.places != before {
                        self.write_id(out);
                        out.push(b'\n');
                    }
                }
                "drain" => {
                    if let Some(delay) = said.reconnect_ms.and_then(|delay| delay.as_u64()) {
                        out.extend_from_slice(format!("retry: {delay}\n\n").as_bytes());
                    }
                }
                "error" => return Some((said.code.unwrap_or_default(), said.message.unwrap_or_default())),
                _ => {}
            }
        }
        None
    }

    fn start(&self, said: &SaidPosition<'_>) -> Option<Place> {
        let stream: Option<StreamName> = said.stream.as_deref().map(StreamName::from);
        let epoch: Epoch = said.epoch.parse().ok()?;
        let had = self.had.iter().find(|had| had.stream == stream && had.epoch == epoch);
        let offset = had.map_or(said.offset, |had| said.offset.max(had.offset));
        let live = said.live.filter(|_| self.last);
        Some(Place { stream, epoch, offset, live })
    }

    fn is_had(&self, stream: Option<&str>, offset: u64) -> bool {
        let place = self.places.iter().find(|place| place.stream.as_deref() == stream);
        let had = self.had.iter().find(|had| had.stream.as_deref() == stream);
        place.zip(had).is_some_and(|(place, had)| place.epoch == had.epoch && offset <= had.offset)
    }

    /// A position never goes back.
    fn reach(&mut self, stream: Option<&str>, offset: u64) {
        if let Some(place) = self.places.iter_mut().find(|place| place.stream.as_deref() == stream) {
            place.offset = place.offset.max(offset);
        }
    }

    fn write_id(&self, out: &mut Vec<u8>) {
        if !self.places.is_empty() {
            out.extend_from_slice(b"id: ");
            position::write(&self.places, out);
            out.push(b'\n');
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EPOCH: &str = "0000000000008f3a";

    fn written(follow: &mut Follow, frames: &str) -> String {
        let mut out = Vec::new();
        assert_eq!(follow.write(frames.as_bytes(), &mut out), None);
        String::from_utf8(out).unwrap()
    }

    fn acked(follow: &mut Follow, offset: u64, live: u64) -> String {
        let frame = format!(
            r#"{{"op":"ack","id":1,"positions":[{{"epoch":"{EPOCH}","offset":{offset},"live":{live}}}],"overflow":"catch_up","limit":256,"limit_bytes":262144}}"#
        );
        written(follow, &frame)
    }

    fn message(offset: u64) -> String {
        format!(r#"{{"op":"message","topic":"a","offset":{offset},"time":1,"text":"x\u000a\"op\":"}}"#)
    }

    #[test]
    fn every_message_of_a_burst_is_an_event_with_its_position() {
        let mut follow = Follow::new(false, Vec::new());
        assert_eq!(acked(&mut follow, 4, 9), format!("id: {EPOCH}:4\n\n"));
        let burst = [message(5), message(7)].join("\n");
        let (five, seven) = (message(5), message(7));
        assert_eq!(
            written(&mut follow, &burst),
            format!("id: {EPOCH}:5\ndata: {five}\n\nid: {EPOCH}:7\ndata: {seven}\n\n")
        );
        let gap =
            r#"{"op":"gap","sub":1,"count":3,"from":8,"to":10,"reason":"overflow","policy":"drop_oldest"}"#;
        assert_eq!(written(&mut follow, gap), format!("id: {EPOCH}:10\nevent: gap\ndata: {gap}\n\n"));
    }

    #[test]
    fn a_mark_moves_the_position_without_an_event_unless_the_subscription_is_behind() {
        let mut follow = Follow::new(false, Vec::new());
        acked(&mut follow, 4, 4);
        let mark = |offset: u64, subs: &str| {
            format!(
                r#"{{"op":"mark","positions":[{{"epoch":"{EPOCH}","offset":{offset}}}],"subs":[{subs}]}}"#
            )
        };
        let behind = r#"{"sub":1,"messages":2,"gapped":0,"behind":true}"#;
        assert_eq!(written(&mut follow, &mark(9, behind)), "");
        assert_eq!(written(&mut follow, &mark(9, "")), format!("id: {EPOCH}:9\n\n"));
        assert_eq!(written(&mut follow, &mark(9, "")), "");
        assert_eq!(written(&mut follow, &mark(7, "")), "", "a position never goes back");
    }

    #[test]
    fn a_live_only_message_has_no_position() {
        let mut follow = Follow::new(false, Vec::new());
        written(
            &mut follow,
            r#"{"op":"ack","id":1,"positions":[],"overflow":"drop_oldest","limit":1,"limit_bytes":1,"live_only":true}"#,
        );
        let message = r#"{"op":"message","topic":"a","time":1,"json":1}"#;
        assert_eq!(written(&mut follow, message), format!("data: {message}\n\n"));
    }

    #[test]
    fn cut_in_the_midst_of_a_last_it_passes_over_what_it_has() {
        let mut follow = Follow::new(true, Vec::new());
        assert_eq!(acked(&mut follow, 2, 9), format!("id: {EPOCH}:2..9\n\n"));
        assert!(written(&mut follow, &message(5)).starts_with(&format!("id: {EPOCH}:5..9\n")));
        let had = position::read(&format!("{EPOCH}:5..9")).unwrap();
        let mut follow = Follow::new(true, had);
        acked(&mut follow, 2, 9);
        assert_eq!(written(&mut follow, &[message(3), message(5)].join("\n")), "");
        assert!(written(&mut follow, &message(9)).starts_with(&format!("id: {EPOCH}:9\n")));
    }
}
