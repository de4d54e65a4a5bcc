//! A session against what its documentation says, with lists and sums: random client frames, valid and not.

mod model;
mod seeds;

use std::{collections::BTreeSet, sync::Arc};

use fastrand::Rng;
use model::{filter, pick};
use tidegate::{
    config::{Config, TopicRule},
    session::{Action, Rules, Session},
};
use tidegate_protocol::{
    ClientFrame, CloseCode, ErrorCode, From, Payload, ServerFrame, Topic,
    codec::DecodeError,
    frame::{AckResult, Connect, HistoryRequest, Overflow, Publish, Subscribe},
    limits::{DEFAULT_LIMIT, DEFAULT_LIMIT_BYTES},
};

struct Model {
    session: Session,
    rules: Rules,
    config: Config,
    /// The largest id that was answered, or will be.
    last_id: u64,
    /// Whether a frame was taken: then it is too late for `connect`.
    spoke: bool,
    instance: Arc<str>,
    subs: Vec<(u64, u32)>,
    /// Publishes whose ack is not written, in payload bytes.
    unacked: Vec<u64>,
    malformed: u32,
    /// Requests that were answered, or whose answer the shard owes.
    answered: BTreeSet<u64>,
}

#[test]
fn a_session_does_what_the_rules_say() {
    seeds::for_each_seed(2_000, |rng| {
        let mut model = Model::new(rng);
        for _ in 0..rng.usize(10..150) {
            let is_open = match rng.u32(0..10) {
                0 => {
                    model.write_acks(rng);
                    true
                }
                1 => model.malformed(rng),
                _ => {
                    model.frame(rng);
                    true
                }
            };
            model.check();
            if !is_open {
                return;
            }
        }
        while !model.unacked.is_empty() {
            model.write_acks(rng);
        }
        model.check();
        model.fill_the_window();
    });
}

impl Model {
    fn new(rng: &mut Rng) -> Self {
        let mut config = Config::default();
        config.limits.payload_bytes = 50;
        config.limits.subscriptions = rng.usize(1..5);
        config.limits.subscription_limit = pick(rng, &[1, 100, 1_000]);
        config.limits.subscription_limit_bytes = pick(rng, &[1_000, 1 << 20]);
        config.limits.publish_window_messages = rng.u64(1..5);
        config.limits.publish_window_bytes = pick(rng, &[50, 100, 1_000]);
        config.limits.errors = rng.u32(1..5);
        for _ in 0..rng.u32(0..3) {
            config.topics.push(TopicRule {
                filter: filter(pick(rng, &["a.>", "a.b", "*.b", ">"])),
                subscription_limit: rng.bool().then(|| rng.u32(1..50)),
                subscription_limit_bytes: rng.bool().then(|| rng.u32(1_000..5_000)),
            });
        }
        let session = Session::new("c1".into());
        assert_eq!((&**session.connection(), &**session.instance()), ("c1", "c1"));
        Self {
            session,
            rules: Rules::new(&config),
            config,
            last_id: 0,
            spoke: false,
            instance: "c1".into(),
            subs: Vec::new(),
            unacked: Vec::new(),
            malformed: 0,
            answered: BTreeSet::new(),
        }
    }

    fn frame(&mut self, rng: &mut Rng) {
        // Mostly the next, sometimes one that was, sometimes a leap.
        let id = match rng.u32(0..10) {
            0 => rng.u64(0..=self.last_id),
            1 => self.last_id + rng.u64(1..1_000),
            _ => self.last_id + 1,
        };
        match rng.u32(0..16) {
            0 => self.connect(rng, id),
            1..4 => self.subscribe(rng, id),
            4..6 => self.unsubscribe(rng, id),
            6..11 => self.publish(rng, id),
            11 => self.history(id),
            12..14 => self.credit(rng),
            14 => {
                let action = self.act(ClientFrame::Refresh { id, token: "t".into() });
                if self.takes(Some(id), &action) {
                    let is_ack = |frame: &ServerFrame| matches!(frame, ServerFrame::Ack { id: acked, result: AckResult::Done } if *acked == id);
                    assert!(matches!(&action, Action::Reply(frame) if is_ack(frame)), "{action:?}");
                }
            }
            _ => {
                let action = self.act(ClientFrame::Ping { id });
                if self.takes(Some(id), &action) {
                    let is_pong = matches!(&action, Action::Reply(ServerFrame::Pong { id: to }) if *to == id);
                    assert!(is_pong, "{action:?}");
                }
            }
        }
    }

    fn connect(&mut self, rng: &mut Rng, id: u64) {
        let was_first = !self.spoke;
        let instance = rng.bool().then(|| "b7".to_owned());
        let connect = Connect { id, token: None, client: None, instance: instance.clone() };
        let action = self.act(ClientFrame::Connect(connect));
        if !self.takes(Some(id), &action) {
            return;
        }
        if !was_first {
            return refused(&action, Some(id), ErrorCode::AlreadyConnected);
        }
        let Action::Reply(ServerFrame::Welcome(welcome)) = action else { panic!("{action:?}") };
        let limits = &self.config.limits;
        assert_eq!((welcome.id, welcome.connection.as_str()), (id, "c1"));
        assert_eq!(welcome.limits.payload_bytes, limits.payload_bytes as u64);
        assert_eq!(welcome.limits.subscriptions, limits.subscriptions as u64);
        assert_eq!(welcome.limits.limit, u64::from(limits.subscription_limit));
        assert_eq!(welcome.limits.limit_bytes, u64::from(limits.subscription_limit_bytes));
        assert_eq!(welcome.publish_window.messages, limits.publish_window_messages);
        assert_eq!(welcome.publish_window.bytes, limits.publish_window_bytes);
        if let Some(instance) = instance {
            self.instance = instance.into();
        }
    }

    fn subscribe(&mut self, rng: &mut Rng, id: u64) {
        let subscribe = Subscribe {
            id,
            filter: filter(pick(rng, &["a.b", "a.*", "*.b", "c", ">"])),
            from: From::Live,
            overflow: rng.bool().then_some(Overflow::DropNewest),
            limit: rng.bool().then(|| pick(rng, &[0, 1, 30, 500, u32::MAX])),
            limit_bytes: rng.bool().then(|| pick(rng, &[0, 1, 2_000, u32::MAX])),
            credit: None,
            echo: true,
        };
        let default = pick(rng, &[Overflow::CatchUp, Overflow::DropOldest]);
        let frame = ClientFrame::Subscribe(subscribe.clone());
        let action = self.session.on_frame(Ok(frame), &self.rules, |of| {
            assert_eq!(*of, subscribe.filter);
            default
        });
        if !self.takes(Some(id), &action) {
            return;
        }
        if self.subs.len() >= self.config.limits.subscriptions {
            return refused(&action, Some(id), ErrorCode::TooManySubscriptions);
        }
        let Action::Subscribe(same, terms) = action else { panic!("{action:?}") };
        assert_eq!(*same, subscribe);
        // The first rule that takes the whole filter, else the section's limits.
        let limits = &self.config.limits;
        let rule = self.config.topics.iter().find(|rule| rule.filter.covers(&subscribe.filter));
        let most = rule.and_then(|rule| rule.subscription_limit).unwrap_or(limits.subscription_limit);
        let most_bytes =
            rule.and_then(|rule| rule.subscription_limit_bytes).unwrap_or(limits.subscription_limit_bytes);
        assert_eq!(terms.overflow, subscribe.overflow.unwrap_or(default));
        assert_eq!(terms.limit, subscribe.limit.unwrap_or(DEFAULT_LIMIT).min(most).max(1));
        let asked_bytes = subscribe.limit_bytes.unwrap_or(DEFAULT_LIMIT_BYTES);
        assert_eq!(terms.limit_bytes, asked_bytes.min(most_bytes).max(1));
        let key = rng.u32(..);
        self.session.on_subscribed(id, key);
        self.subs.push((id, key));
    }

    fn unsubscribe(&mut self, rng: &mut Rng, id: u64) {
        let sub = self.some_sub(rng);
        let action = self.act(ClientFrame::Unsubscribe { id, sub });
        if !self.takes(Some(id), &action) {
            return;
        }
        let Some(at) = self.subs.iter().position(|&(known, _)| known == sub) else {
            return refused(&action, Some(id), ErrorCode::SubscriptionUnknown);
        };
        let (_, expected) = self.subs.remove(at);
        match action {
            Action::Unsubscribe { id: of, sub: gone, key } => {
                assert_eq!((of, gone, key), (id, sub, expected));
            }
            other => panic!("{other:?}"),
        }
        self.session.on_unsubscribed(sub);
    }

    fn publish(&mut self, rng: &mut Rng, id: u64) {
        let id = (rng.u32(0..4) > 0).then_some(id);
        let topic = Topic::parse(pick(rng, &["a.b", "a.b", "c", "$sys.load", "a.$b"])).unwrap();
        let size = pick(rng, &[0, 10, 50, 51, 500]);
        let (idempotency, report) = (rng.bool().then(|| "6b1".into()), rng.bool());
        let action = self.act(ClientFrame::Publish(Publish {
            id,
            topic: topic.clone(),
            payload: Payload::text("x".repeat(size)),
            key: Some("k".into()),
            headers: Vec::new(),
            idempotency,
            report,
        }));
        if !self.takes(id, &action) {
            return;
        }
        if topic.tokens().any(|token| token.starts_with('$')) {
            return refused(&action, id, ErrorCode::TopicReserved);
        }
        if size > self.config.limits.payload_bytes {
            return refused(&action, id, ErrorCode::PayloadTooLarge);
        }
        let Action::Publish(publish) = action else { panic!("{action:?}") };
        assert_eq!((publish.id, &publish.draft.topic, publish.draft.payload.len()), (id, &topic, size));
        assert_eq!((publish.draft.key.as_deref(), publish.report), (Some("k"), report));
        assert_eq!(publish.draft.origin.as_ref(), Some(&self.instance));
        // Only what is acked counts for the window.
        self.unacked.extend(id.map(|_| size as u64));
    }

    fn history(&mut self, id: u64) {
        let topic = Topic::parse("a.b").unwrap();
        let request = HistoryRequest { id, topic, from: From::Beginning, limit: Some(3) };
        let action = self.act(ClientFrame::History(request.clone()));
        if self.takes(Some(id), &action) {
            assert!(matches!(&action, Action::History(same) if **same == request), "{action:?}");
        }
    }

    /// It has no id and no answer; one for a subscription that is gone is no mistake.
    fn credit(&mut self, rng: &mut Rng) {
        let sub = self.some_sub(rng);
        let action = self.act(ClientFrame::Credit { sub, add: 7 });
        self.spoke = true;
        match (self.subs.iter().find(|&&(id, _)| id == sub), action) {
            (Some(&(_, expected)), Action::Credit { key, add: 7 }) => assert_eq!(key, expected),
            (None, Action::Nothing) => {}
            (_, other) => panic!("{other:?}"),
        }
    }

    /// A frame that could not be read. Whether the connection goes on.
    fn malformed(&mut self, rng: &mut Rng) -> bool {
        let id = rng.bool().then(|| self.last_id + rng.u64(1..3));
        let fatal = rng.u32(0..10) == 0;
        let error = DecodeError { id, code: ErrorCode::BadField, message: "no".into(), fatal };
        let action = self.session.on_frame(Err(error), &self.rules, |_| unreachable!("it has no filter"));
        self.malformed += 1;
        // That was its answer: no other request may have the id.
        if let Some(id) = id {
            self.last_id = id;
            assert!(self.answered.insert(id));
        }
        let (frame, close) = match action {
            Action::Reply(frame) => (frame, None),
            Action::Fail(frame, code) => (frame, Some(code)),
            other => panic!("{other:?}"),
        };
        let ServerFrame::Error(error) = frame else { panic!("{frame:?}") };
        assert_eq!((error.id, error.code), (id, ErrorCode::BadField));
        let is_too_much = self.malformed > self.config.limits.errors;
        let expected = match (fatal, is_too_much) {
            (true, _) => Some(CloseCode::MalformedFrame),
            (false, true) => Some(CloseCode::TooManyErrors),
            (false, false) => None,
        };
        assert_eq!(close, expected);
        close.is_none()
    }

    fn write_acks(&mut self, rng: &mut Rng) {
        for _ in 0..rng.usize(1..4).min(self.unacked.len()) {
            let bytes = self.unacked.remove(0);
            self.session.on_ack_written(bytes as u32);
        }
    }

    fn act(&mut self, frame: ClientFrame) -> Action {
        self.session.on_frame(Ok(frame), &self.rules, |_| unreachable!("only a subscribe needs it"))
    }

    /// With every ack written the whole window is there again: so many messages, and not one more.
    fn fill_the_window(&mut self) {
        for _ in 0..=self.config.limits.publish_window_messages {
            assert!(!self.session.window_is_full(&self.rules));
            self.last_id += 1;
            let publish = Publish {
                id: Some(self.last_id),
                topic: Topic::parse("a.b").unwrap(),
                payload: Payload::text(""),
                key: None,
                headers: Vec::new(),
                idempotency: None,
                report: false,
            };
            assert!(matches!(self.act(ClientFrame::Publish(publish)), Action::Publish(_)));
        }
        assert!(self.session.window_is_full(&self.rules));
    }

    /// Whether the request is taken: its id must exceed the one before it. One that is taken is answered once: no id is
    /// taken twice.
    fn takes(&mut self, id: Option<u64>, action: &Action) -> bool {
        if let Some(id) = id {
            if id <= self.last_id {
                refused(action, Some(id), ErrorCode::IdNotGrowing);
                return false;
            }
            self.last_id = id;
            assert!(self.answered.insert(id));
            assert!(!matches!(action, Action::Nothing), "{id} is never answered");
        }
        self.spoke = true;
        true
    }

    fn check(&self) {
        assert_eq!(self.session.subs(), self.subs);
        assert_eq!(self.session.instance(), &self.instance);
        let limits = &self.config.limits;
        let is_full = self.unacked.len() as u64 > limits.publish_window_messages
            || self.unacked.iter().sum::<u64>() > limits.publish_window_bytes;
        assert_eq!(self.session.window_is_full(&self.rules), is_full);
    }

    fn some_sub(&self, rng: &mut Rng) -> u64 {
        match rng.choice(&self.subs) {
            Some(&(id, _)) if rng.u32(0..4) > 0 => id,
            _ => rng.u64(0..20),
        }
    }
}

#[track_caller]
fn refused(action: &Action, id: Option<u64>, code: ErrorCode) {
    let Action::Reply(ServerFrame::Error(error)) = action else { panic!("{code:?} expected: {action:?}") };
    assert_eq!((error.id, error.code), (id, code));
}
