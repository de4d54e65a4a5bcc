//! Publishing: acks, the window, order, and what is refused before it is sent.

use std::future::IntoFuture;

use futures_util::FutureExt;
use tidegate_client::{Client, Codec, ErrorCode, Event, Options, Payload, PublishErrorKind, PublishOptions};
use tidegate_protocol::{ContentKind, frame::PublishWindow};

use crate::fake_broker::*;

fn small_window(messages: u64, bytes: u64) -> impl FnOnce(&mut tidegate_protocol::frame::Welcome) {
    move |welcome| welcome.publish_window = PublishWindow { messages, bytes }
}

#[tokio::test(start_paused = true)]
async fn a_publish_resolves_with_its_position_when_it_is_acknowledged() {
    for codec in Codec::ALL {
        let (mut broker, options) = FakeBroker::new(Options::new(), codec);
        let (client, mut peer) = tokio::join!(options.connect("ws://fake"), broker.welcome());
        let client = client.unwrap();
        let options = PublishOptions::new().key("k").header("a", "b").idempotency("mine");
        let payload = Payload::to_json(&[1, 2]).unwrap();
        let published = tokio::spawn(async move { client.publish_with("a.b", payload, options).await });

        let publish = peer.publish().await;
        assert_eq!(publish.topic.as_str(), "a.b");
        assert_eq!((publish.payload.kind(), publish.payload.as_str()), (ContentKind::Json, Some("[1,2]")));
        assert_eq!(publish.key.as_deref(), Some("k"));
        assert_eq!(publish.headers, [("a".into(), "b".into())]);
        assert_eq!(publish.idempotency.as_deref(), Some("mine"));
        peer.send([ack(publish.id.unwrap(), 7)]).await;
        assert_eq!(published.await.unwrap().unwrap().position, Some(position(7)));
    }
}

#[tokio::test(start_paused = true)]
async fn every_publish_has_an_idempotency_key_of_its_own_unless_it_shall_have_none() {
    let (client, _broker, mut peer) = connected().await;
    let _acks = [
        client.try_publish("a", "1").unwrap(),
        client.try_publish("a", "2").unwrap(),
        client.try_publish_with("a", "3", PublishOptions::new().without_idempotency()).unwrap(),
    ];
    let (first, second, third) = (peer.publish().await, peer.publish().await, peer.publish().await);
    assert!(first.idempotency.is_some() && second.idempotency.is_some());
    assert_ne!(first.idempotency, second.idempotency);
    assert_eq!(third.idempotency, None);
}

#[tokio::test(start_paused = true)]
async fn a_full_window_makes_publishers_wait_and_try_publish_say_so() {
    let (client, _broker, mut peer) = connected_to(Options::new(), small_window(2, 1000)).await;
    let first = client.try_publish("a", "1").unwrap();
    let _second = client.try_publish("a", "2").unwrap();
    assert_eq!(client.try_publish("a", "3").unwrap_err().kind(), PublishErrorKind::Full);
    let mut waiting = Box::pin(client.enqueue("a", "3"));
    assert!(waiting.as_mut().now_or_never().is_none());

    let (one, two) = (peer.publish().await, peer.publish().await);
    assert!(peer.is_quiet().await);
    assert_eq!((one.payload.as_str(), two.payload.as_str()), (Some("1"), Some("2")));
    peer.send([ack(one.id.unwrap(), 1)]).await;
    first.await.unwrap();
    let _third = waiting.await.unwrap();
    assert_eq!(peer.publish().await.payload.as_str(), Some("3"));
}

#[tokio::test(start_paused = true)]
async fn the_window_counts_bytes_too_and_a_larger_message_goes_alone() {
    let (client, _broker, mut peer) = connected_to(Options::new(), small_window(100, 10)).await;
    let large = client.try_publish("a", "x".repeat(50)).unwrap();
    assert_eq!(client.try_publish("a", "y").unwrap_err().kind(), PublishErrorKind::Full);
    let publish = peer.publish().await;
    peer.send([ack(publish.id.unwrap(), 1)]).await;
    large.await.unwrap();
    let _small = client.try_publish("a", "y").unwrap();
    assert_eq!(peer.publish().await.payload.as_str(), Some("y"));
}

#[tokio::test(start_paused = true)]
async fn acks_out_of_order_find_their_publishes() {
    let (client, _broker, mut peer) = connected().await;
    let pending: Vec<_> = (0..5).map(|n| client.try_publish("a", n.to_string()).unwrap()).collect();
    let mut ids = Vec::new();
    for _ in 0..5 {
        ids.push(peer.publish().await.id.unwrap());
    }
    peer.send([3, 0, 4, 1, 2].map(|n| ack(ids[n], 100 + n as u64))).await;
    for (n, pending) in pending.into_iter().enumerate() {
        assert_eq!(pending.await.unwrap().position, Some(position(100 + n as u64)));
    }
    assert_eq!(client.stats().acknowledged, 5);
}

#[tokio::test(start_paused = true)]
async fn thousands_of_pipelined_publishes_leave_in_order_and_each_ack_finds_its_own() {
    const COUNT: u64 = 5000;
    let (client, _broker, mut peer) = connected().await;
    let publisher = tokio::spawn(async move {
        let mut acks = Vec::new();
        for n in 0..COUNT {
            acks.push(client.enqueue("numbers", n.to_string()).await.unwrap());
        }
        for (n, ack) in acks.into_iter().enumerate() {
            assert_eq!(ack.await.unwrap().position, Some(position(n as u64 + 1)));
        }
        client
    });
    for n in 0..COUNT {
        let publish = peer.publish().await;
        assert_eq!(publish.payload.as_str(), Some(n.to_string().as_str()));
        peer.send([ack(publish.id.unwrap(), n + 1)]).await;
    }
    publisher.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_refused_publish_says_which_error() {
    let (client, _broker, mut peer) = connected().await;
    let pending = client.try_publish("a", "1").unwrap();
    let publish = peer.publish().await;
    peer.send([error(publish.id.unwrap(), ErrorCode::PermissionDenied)]).await;
    let refused = pending.await.unwrap_err();
    assert_eq!(refused.kind(), PublishErrorKind::Refused(ErrorCode::PermissionDenied));
    assert_eq!(refused.to_string(), "refused with error 1103 (permission_denied): as scripted");
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_sent_is_refused_here_and_nothing_is_sent() {
    async fn kind(
        client: &Client,
        topic: &str,
        payload: String,
        options: PublishOptions,
    ) -> PublishErrorKind {
        client.publish_with(topic, payload, options).await.unwrap_err().kind()
    }
    let (client, _broker, mut peer) = connected().await;
    let plain = PublishOptions::new;
    assert_eq!(kind(&client, "a.*", "x".into(), plain()).await, PublishErrorKind::InvalidTopic);
    assert_eq!(kind(&client, "a", "x".repeat(64 * 1024 + 1), plain()).await, PublishErrorKind::TooLarge);
    for options in [
        plain().key("k".repeat(256)),
        plain().header("a", "b".repeat(4096)),
        plain().idempotency("i".repeat(65)),
        (0..17).fold(plain(), |options, _| options.header("a", "b")),
    ] {
        assert_eq!(kind(&client, "a", "x".into(), options).await, PublishErrorKind::InvalidAttributes);
    }
    assert!(peer.is_quiet().await);
}

#[tokio::test(start_paused = true)]
async fn a_frame_larger_than_a_websocket_message_may_be_is_refused_here() {
    let set = |welcome: &mut tidegate_protocol::frame::Welcome| welcome.limits.message_bytes = 100;
    let (client, _broker, mut peer) = connected_to(Options::new(), set).await;
    let refused = client.publish("a", "x".repeat(100)).await.unwrap_err();
    assert_eq!(refused.kind(), PublishErrorKind::TooLarge);
    let _small = client.try_publish("a", "y").unwrap();
    assert_eq!(peer.publish().await.payload.as_str(), Some("y"));
}

#[tokio::test(start_paused = true)]
async fn a_publish_whose_future_is_dropped_gives_its_place_back() {
    let (client, _broker, mut peer) = connected_to(Options::new(), small_window(1, 1000)).await;
    let first = client.try_publish("a", "1").unwrap();
    {
        let mut waiting = Box::pin(client.publish("a", "never"));
        assert!(waiting.as_mut().now_or_never().is_none());
    }
    let publish = peer.publish().await;
    peer.send([ack(publish.id.unwrap(), 1)]).await;
    first.await.unwrap();
    let _second = client.try_publish("a", "2").unwrap();
    assert_eq!(peer.publish().await.payload.as_str(), Some("2"));
}

#[tokio::test(start_paused = true)]
async fn reading_goes_on_while_writing_is_blocked() {
    let (client, _broker, mut peer) = connected().await;
    let (subscription, _) = tokio::join!(client.subscribe("a").into_future(), peer.accept_subscribe(0));
    let mut subscription = subscription.unwrap();
    // More than the line holds, and nobody reads it.
    let large = "x".repeat(60 * 1024);
    let mut pending = Vec::new();
    for _ in 0..10 {
        pending.push(client.enqueue("b", large.as_str()).await.unwrap());
    }
    for offset in 1..=20 {
        peer.send([message("a", offset)]).await;
        assert!(matches!(subscription.recv().await, Some(Event::Message(_))));
    }
    assert!(pending.iter_mut().all(|ack| ack.now_or_never().is_none()));
    for offset in 21..=30 {
        let publish = peer.publish().await;
        peer.send([ack(publish.id.unwrap(), offset)]).await;
    }
    for ack in pending {
        ack.await.unwrap();
    }
}
