//! Lost connections: what goes again, when, and what is told.

use std::time::Duration;

use futures_util::FutureExt;
use tidegate_client::{
    ConnectErrorKind, ConnectionEvent, ConnectionState, ErrorCode, Options, PublishErrorKind, PublishOptions,
};
use tidegate_protocol::{ClientFrame, ServerFrame, frame::PublishWindow};
use tokio::time::Instant;

use crate::fake_broker::*;

#[tokio::test(start_paused = true)]
async fn what_was_not_acknowledged_goes_again_in_order_under_the_same_keys() {
    let (client, mut broker, mut peer) = connected().await;
    let mut pending: Vec<_> = (0..4).map(|n| client.try_publish("a", n.to_string()).unwrap()).collect();
    let mut first = Vec::new();
    for _ in 0..4 {
        first.push(peer.publish().await);
    }
    // The second is acknowledged, the others are cut off.
    peer.send([ack(first[1].id.unwrap(), 2)]).await;
    assert_eq!(pending.remove(1).await.unwrap().position, Some(position(2)));
    drop(peer);

    let mut peer = broker.welcome().await;
    for lost in [&first[0], &first[2], &first[3]] {
        let again = peer.publish().await;
        assert_eq!((&again.idempotency, &again.payload), (&lost.idempotency, &lost.payload));
        assert!(again.id > first[3].id, "ids grow");
        peer.send([ack(again.id.unwrap(), 9)]).await;
    }
    for pending in pending {
        pending.await.unwrap();
    }
    assert_eq!((client.stats().published, client.stats().resent), (4, 3));
}

#[tokio::test(start_paused = true)]
async fn publishes_made_while_the_line_is_down_wait_for_it_behind_the_others() {
    let (client, mut broker, mut peer) = connected().await;
    let _first = client.try_publish("a", "1").unwrap();
    peer.publish().await;
    drop(peer);
    while client.connection_state() == ConnectionState::Connected {
        tokio::task::yield_now().await;
    }
    let _second = client.try_publish("a", "2").unwrap();
    let mut peer = broker.welcome().await;
    assert_eq!(peer.publish().await.payload.as_str(), Some("1"));
    assert_eq!(peer.publish().await.payload.as_str(), Some("2"));
}

#[tokio::test(start_paused = true)]
async fn a_smaller_window_of_the_next_broker_is_obeyed() {
    let (client, mut broker, mut peer) = connected().await;
    let _pending: Vec<_> = (0..3).map(|n| client.try_publish("a", n.to_string()).unwrap()).collect();
    for _ in 0..3 {
        peer.publish().await;
    }
    drop(peer);
    broker.welcome.publish_window = PublishWindow { messages: 1, bytes: 100 };
    let mut peer = broker.welcome().await;
    for n in 0..3 {
        let again = peer.publish().await;
        assert_eq!(again.payload.as_str(), Some(n.to_string().as_str()));
        assert!(peer.is_quiet().await, "the window is full");
        peer.send([ack(again.id.unwrap(), n + 1)]).await;
    }
}

#[tokio::test(start_paused = true)]
async fn an_outcome_that_cannot_be_learned_is_said_to_be_unknown() {
    let (client, mut broker, mut peer) = connected().await;
    let lost = client.try_publish("a", "lost").unwrap();
    peer.publish().await;
    let sent = Instant::now();
    drop(peer);
    // A broker that does not answer for longer than keys live.
    let silent = tokio::spawn(async move {
        let mut peers = Vec::new();
        loop {
            tokio::select! {
                peer = broker.accept() => peers.push(peer),
                () = tokio::time::sleep_until(sent + Duration::from_secs(115)) => break broker,
            }
        }
    });
    assert_eq!(lost.await.unwrap_err().kind(), PublishErrorKind::OutcomeUnknown);
    assert!(sent.elapsed() >= Duration::from_secs(100) && sent.elapsed() < Duration::from_secs(120));

    // What was never sent is still welcome.
    let kept = client.try_publish("a", "kept").unwrap();
    let mut broker = silent.await.unwrap();
    let mut peer = loop {
        let mut peer = broker.accept().await;
        if let Some(ClientFrame::Connect(connect)) = peer.recv().await {
            let welcome = tidegate_protocol::frame::Welcome { id: connect.id, ..broker.welcome.clone() };
            peer.send([ServerFrame::Welcome(welcome)]).await;
            break peer;
        }
    };
    let publish = peer.publish().await;
    assert_eq!(publish.payload.as_str(), Some("kept"));
    peer.send([ack(publish.id.unwrap(), 1)]).await;
    kept.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_publish_without_a_key_is_never_sent_twice() {
    let (client, mut broker, mut peer) = connected().await;
    let options = PublishOptions::new().without_idempotency();
    let pending = client.try_publish_with("a", "once", options).unwrap();
    peer.publish().await;
    drop(peer);
    assert_eq!(pending.await.unwrap_err().kind(), PublishErrorKind::OutcomeUnknown);
    assert!(broker.welcome().await.is_quiet().await);
}

#[tokio::test(start_paused = true)]
async fn the_first_retry_comes_within_200_ms_and_the_slow_wait_longer() {
    for (code, at_least, at_most) in [(4000, 0, 200), (4008, 3000, 5000), (4009, 3000, 5000)] {
        let set = |welcome: &mut tidegate_protocol::frame::Welcome| welcome.reconnect_ms = (3000, 5000);
        let (_client, mut broker, peer) = connected_to(Options::new(), set).await;
        let lost = Instant::now();
        peer.close(code).await;
        broker.welcome().await;
        let took = lost.elapsed().as_millis();
        assert!((at_least..=at_most).contains(&took), "{code}: {took} ms");
    }
}

#[tokio::test(start_paused = true)]
async fn a_silent_broker_is_left_after_its_ping_interval_and_ten_seconds_and_a_ping_is_a_sign_of_life() {
    let (client, mut broker, mut peer) = connected().await;
    let mut events = client.events();
    let start = Instant::now();
    tokio::time::sleep(Duration::from_secs(30)).await;
    peer.ping().await;
    let Some(ConnectionEvent::Disconnected { code: None, reason }) = events.recv().await else {
        panic!("it is said to be disconnected")
    };
    assert_eq!(reason, "nothing was heard of the broker");
    assert_eq!(start.elapsed().as_secs(), 30 + 25 + 10);
    broker.welcome().await;
}

#[tokio::test(start_paused = true)]
async fn a_draining_broker_is_left_after_the_acks_in_flight_and_come_back_to_when_it_said() {
    let (client, mut broker, mut peer) = connected().await;
    let first = client.try_publish("a", "1").unwrap();
    let publish = peer.publish().await;
    peer.send([ServerFrame::Drain { reconnect_ms: 1730 }]).await;
    assert!(peer.is_quiet().await);
    // It publishes no more there.
    let second = client.try_publish("a", "2").unwrap();
    assert!(peer.is_quiet().await);
    peer.send([ack(publish.id.unwrap(), 1)]).await;
    first.await.unwrap();
    assert_eq!(peer.recv().await, None);
    assert_eq!(peer.closed_with, Some(1000));
    let closed = Instant::now();
    drop(peer);

    let mut peer = broker.welcome().await;
    assert_eq!(closed.elapsed().as_millis(), 1730);
    let publish = peer.publish().await;
    assert_eq!(publish.payload.as_str(), Some("2"));
    peer.send([ack(publish.id.unwrap(), 2)]).await;
    second.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn what_a_draining_broker_refuses_goes_to_the_next_one_in_order() {
    let (client, mut broker, mut peer) = connected().await;
    let _pending: Vec<_> = (0..3).map(|n| client.try_publish("a", n.to_string()).unwrap()).collect();
    let mut refused = Vec::new();
    for _ in 0..3 {
        refused.push(error(peer.publish().await.id.unwrap(), ErrorCode::Draining));
    }
    peer.send([ServerFrame::Drain { reconnect_ms: 10 }]).await;
    peer.send(refused).await;
    assert_eq!(peer.recv().await, None);
    drop(peer);
    let mut peer = broker.welcome().await;
    for n in 0..3 {
        assert_eq!(peer.publish().await.payload.as_str(), Some(n.to_string().as_str()));
    }
}

#[tokio::test(start_paused = true)]
async fn a_first_connection_that_fails_is_an_error_that_says_why() {
    let refused = Options::new().dial(|| async {
        Err::<tokio::io::DuplexStream, _>(std::io::Error::from(std::io::ErrorKind::ConnectionRefused))
    });
    let error = refused.connect("ws://broker:7400").await.unwrap_err();
    assert_eq!(error.kind(), ConnectErrorKind::Unreachable);
    assert_eq!(error.to_string(), "cannot reach the broker: broker:7400: connection refused");

    let (mut broker, options) = FakeBroker::new(Options::new().token("bad"), tidegate_client::Codec::Json);
    let refuse = async {
        let mut peer = broker.accept().await;
        let Some(ClientFrame::Connect(connect)) = peer.recv().await else { panic!("connect comes first") };
        assert_eq!(connect.token.as_deref(), Some("bad"));
        peer.send([crate::fake_broker::error(connect.id, ErrorCode::TokenInvalid)]).await;
        peer.close(4500).await;
    };
    let (error, ()) = tokio::join!(options.connect("ws://fake"), refuse);
    assert_eq!(error.unwrap_err().kind(), ConnectErrorKind::Refused(ErrorCode::TokenInvalid));

    let (mut broker, options) = FakeBroker::new(Options::new(), tidegate_client::Codec::Json);
    let (error, _peer) = tokio::join!(options.connect("ws://fake"), broker.accept());
    assert_eq!(error.unwrap_err().kind(), ConnectErrorKind::Timeout);
}

#[tokio::test(start_paused = true)]
async fn events_tell_the_story_and_a_slow_reader_how_much_it_missed() {
    let (client, mut broker, peer) = connected().await;
    let mut events = client.events();
    peer.close(4000).await;
    let _peer = broker.welcome().await;
    let told = [events.recv().await, events.recv().await, events.recv().await].map(Option::unwrap);
    assert!(matches!(&told[0], ConnectionEvent::Disconnected { code: Some(4000), .. }), "{told:?}");
    assert!(matches!(&told[1], ConnectionEvent::Reconnecting { attempt: 0, .. }), "{told:?}");
    assert_eq!(told[2], ConnectionEvent::Connected { connection: "c1".into() });

    let mut peer = _peer;
    for _ in 0..40 {
        drop(peer);
        peer = broker.welcome().await;
    }
    assert!(matches!(events.recv().await, Some(ConnectionEvent::Missed(missed)) if missed > 0));
    assert!(client.events().recv().now_or_never().is_none(), "a new reader starts from now");
}
