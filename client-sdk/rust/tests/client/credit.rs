//! Readers that do not read: credit bounds what waits here, and nothing else waits for it.

use tidegate_client::Event;
use tidegate_protocol::ClientFrame;

use crate::fake_broker::*;

#[tokio::test(start_paused = true)]
async fn a_subscription_asks_for_its_buffer_and_for_more_as_it_is_read() {
    let (client, _broker, mut peer) = connected().await;
    let (subscription, sub) = tokio::join!(client.subscribe("a").buffer(4).into_future(), async {
        let subscribe = peer.subscribe().await;
        assert_eq!(subscribe.credit, Some(4));
        peer.send([subscribed(subscribe.id, 0, 0)]).await;
        subscribe.id
    });
    let mut subscription = subscription.unwrap();
    peer.send((1..=4).map(|offset| message("a", offset))).await;
    assert!(matches!(subscription.recv().await, Some(Event::Message(_))));
    assert!(peer.is_quiet().await, "one of four is too little to ask for");
    assert!(matches!(subscription.recv().await, Some(Event::Message(_))));
    assert_eq!(peer.recv().await, Some(ClientFrame::Credit { sub, add: 2 }));
    assert_eq!(subscription.lag(), 2);
}

#[tokio::test(start_paused = true)]
async fn an_unread_subscription_does_not_keep_its_task_from_publishing() {
    let (client, _broker, mut peer) = connected().await;
    let (unread, _) = tokio::join!(client.subscribe("a").buffer(100).into_future(), peer.accept_subscribe(0));
    let unread = unread.unwrap();
    let (published, ()) = tokio::join!(client.publish("a", "x"), async {
        let publish = peer.publish().await;
        peer.send((1..=100).map(|offset| message("a", offset))).await;
        peer.send([ack(publish.id.unwrap(), 101)]).await;
    });
    published.unwrap();
    assert_eq!(unread.lag(), 100);
}

#[tokio::test(start_paused = true)]
async fn duplicates_do_not_use_credit_up_for_good() {
    let (client, _broker, mut peer) = connected().await;
    let (subscription, sub) =
        tokio::join!(client.subscribe("a").buffer(2).into_future(), peer.accept_subscribe(10));
    let mut subscription = subscription.unwrap();
    peer.send([message("a", 9), message("a", 10)]).await;
    assert_eq!(peer.recv().await, Some(ClientFrame::Credit { sub, add: 2 }));
    peer.send([message("a", 11)]).await;
    let Some(Event::Message(message)) = subscription.recv().await else { panic!("a message") };
    assert_eq!(message.offset, Some(11));
    assert_eq!(client.stats().duplicates, 2);
}

#[tokio::test(start_paused = true)]
async fn after_a_reconnect_what_still_waits_here_is_not_asked_for() {
    let (client, mut broker, mut peer) = connected().await;
    let (subscription, _) =
        tokio::join!(client.subscribe("a").buffer(4).into_future(), peer.accept_subscribe(0));
    let mut subscription = subscription.unwrap();
    peer.send((1..=3).map(|offset| message("a", offset))).await;
    // The ack of a publish comes behind the messages: they have been taken in.
    let (published, ()) = tokio::join!(client.publish("b", "x"), async {
        let publish = peer.publish().await;
        peer.send([ack(publish.id.unwrap(), 9)]).await;
    });
    published.unwrap();
    drop(peer);
    let mut peer = broker.welcome().await;
    assert_eq!(peer.subscribe().await.credit, Some(1));
    assert!(matches!(subscription.recv().await, Some(Event::Message(_))));
}

#[tokio::test(start_paused = true)]
async fn a_broker_that_ignores_credit_is_left() {
    let (client, mut broker, mut peer) = connected().await;
    let (subscription, _) =
        tokio::join!(client.subscribe("a").buffer(2).into_future(), peer.accept_subscribe(0));
    let subscription = subscription.unwrap();
    peer.send((1..=100).map(|offset| message("a", offset))).await;
    assert_eq!(peer.recv().await, None);
    assert_eq!(peer.closed_with, Some(1002));
    assert!(subscription.lag() <= 4);
    drop(peer);
    broker.welcome().await;
}

#[tokio::test(start_paused = true)]
async fn endless_gaps_for_an_unread_subscription_merge() {
    let (client, _broker, mut peer) = connected().await;
    let (subscription, sub) =
        tokio::join!(client.subscribe("a").buffer(2).into_future(), peer.accept_subscribe(0));
    let mut subscription = subscription.unwrap();
    for n in 0..1000 {
        peer.send([gap(sub, 2, 10 * n + 1, 10 * n + 5)]).await;
    }
    let (published, ()) = tokio::join!(client.publish("b", "x"), async {
        let publish = peer.publish().await;
        peer.send([ack(publish.id.unwrap(), 9)]).await;
    });
    published.unwrap();
    let Some(Event::Gap(gap)) = subscription.recv().await else { panic!("a gap") };
    assert_eq!((gap.count, gap.from, gap.to), (Some(2000), Some(1), Some(9995)));
    assert_eq!(subscription.try_recv(), None);
    assert_eq!(subscription.position(), [position(9995)]);
}

use std::future::IntoFuture;
