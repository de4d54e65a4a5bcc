//! Ends: for good by the broker, in order by the client, and by nobody holding it any more.

use std::{future::IntoFuture, time::Duration};

use tidegate_client::{
    ConnectionEvent, ConnectionState, DrainErrorKind, EndReason, Event, Options, PublishErrorKind,
    SubscribeErrorKind,
};

use crate::fake_broker::*;

#[tokio::test(start_paused = true)]
async fn a_close_code_that_says_not_to_come_back_ends_the_client_and_everybody_is_told() {
    for code in [1002, 1003, 1008, 4500, 4503] {
        let (client, _broker, mut peer) = connected().await;
        let mut events = client.events();
        let (subscription, _) = tokio::join!(client.subscribe("a").into_future(), peer.accept_subscribe(0));
        let mut subscription = subscription.unwrap();
        let sent = client.try_publish("a", "1").unwrap();
        peer.publish().await;
        peer.close(code).await;

        assert_eq!(sent.await.unwrap_err().kind(), PublishErrorKind::OutcomeUnknown);
        assert_eq!(subscription.recv().await, None);
        assert_eq!(subscription.end_reason(), Some(EndReason::Closed));
        assert_eq!(client.publish("a", "2").await.unwrap_err().kind(), PublishErrorKind::Closed);
        assert_eq!(client.subscribe("a").await.unwrap_err().kind(), SubscribeErrorKind::Closed);
        assert_eq!(client.connection_state(), ConnectionState::Closed);
        assert!(matches!(events.recv().await, Some(ConnectionEvent::Disconnected { .. })));
        let failed = events.recv().await.unwrap();
        assert_eq!(failed, ConnectionEvent::Failed { code: Some(code), reason: "as scripted".into() });
    }
}

#[tokio::test(start_paused = true)]
async fn drain_waits_for_acks_ends_subscriptions_and_closes_in_order() {
    let (client, _broker, mut peer) = connected().await;
    let (subscription, sub) = tokio::join!(client.subscribe("a").into_future(), peer.accept_subscribe(0));
    let mut subscription = subscription.unwrap();
    let pending = client.try_publish("a", "1").unwrap();
    let draining = tokio::spawn({
        let client = client.clone();
        async move { client.drain().await }
    });
    let publish = peer.publish().await;
    assert!(peer.is_quiet().await, "nothing else before the ack");
    assert_eq!(client.try_publish("a", "2").unwrap_err().kind(), PublishErrorKind::Closed);
    peer.send([ack(publish.id.unwrap(), 1), message("a", 1)]).await;
    let (id, ended) = peer.unsubscribe().await;
    assert_eq!(ended, sub);
    peer.send([message("a", 2), done(id)]).await;
    assert_eq!(peer.recv().await, None);
    assert_eq!(peer.closed_with, Some(1000));

    draining.await.unwrap().unwrap();
    pending.await.unwrap();
    assert!(matches!(subscription.recv().await, Some(Event::Message(_))));
    assert!(
        matches!(subscription.recv().await, Some(Event::Message(_))),
        "what came before the answer is delivered"
    );
    assert_eq!(subscription.recv().await, None);
    assert_eq!(subscription.end_reason(), Some(EndReason::Closed));
}

#[tokio::test(start_paused = true)]
async fn a_drain_that_gets_no_acks_gives_up_and_says_so() {
    let options = Options::new().drain_timeout(Duration::from_secs(3));
    let (client, _broker, mut peer) = connected_with(options).await;
    let pending = client.try_publish("a", "1").unwrap();
    let start = tokio::time::Instant::now();
    let (drained, closed) = tokio::join!(client.drain(), async {
        peer.publish().await;
        peer.recv().await
    });
    assert_eq!(drained.unwrap_err().kind(), DrainErrorKind::Timeout);
    assert_eq!(closed, None);
    assert_eq!(start.elapsed().as_secs(), 3);
    assert_eq!(pending.await.unwrap_err().kind(), PublishErrorKind::OutcomeUnknown);
    assert_eq!(client.drain().await.unwrap_err().kind(), DrainErrorKind::Closed);
}

#[tokio::test(start_paused = true)]
async fn a_client_nobody_holds_sends_what_was_published_and_closes() {
    let (client, _broker, mut peer) = connected().await;
    let pending = client.try_publish("a", "1").unwrap();
    let mut events = client.events();
    drop(client);
    let publish = peer.publish().await;
    peer.send([ack(publish.id.unwrap(), 1)]).await;
    assert_eq!(peer.recv().await, None);
    assert_eq!(peer.closed_with, Some(1000));
    drop(peer);
    pending.await.unwrap();
    assert_eq!(events.recv().await, Some(ConnectionEvent::Closed));
    assert_eq!(events.recv().await, None, "the task is gone");
}

#[tokio::test(start_paused = true)]
async fn a_subscription_keeps_the_connection_when_its_client_is_dropped() {
    let (client, _broker, mut peer) = connected().await;
    let (subscription, _) = tokio::join!(client.subscribe("a").into_future(), peer.accept_subscribe(0));
    let mut subscription = subscription.unwrap();
    drop(client);
    peer.send([message("a", 1)]).await;
    assert!(matches!(subscription.recv().await, Some(Event::Message(_))));
    assert!(peer.is_quiet().await);
    drop(subscription);
    while peer.recv().await.is_some() {}
    assert_eq!(peer.closed_with, Some(1000));
}

#[tokio::test(start_paused = true)]
async fn drain_without_a_connection_and_with_nothing_to_send_ends_at_once() {
    let (client, broker, peer) = connected().await;
    drop(peer);
    // Nobody accepts any more.
    let _broker = broker;
    while client.connection_state() == ConnectionState::Connected {
        tokio::task::yield_now().await;
    }
    client.drain().await.unwrap();
}
