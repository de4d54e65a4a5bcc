//! Books that do not balance: bytes lost between the broker and this client are found and mended, or told.

use std::future::IntoFuture;

use tidegate_client::{ConnectionEvent, Event, From, GapReason};
use tidegate_protocol::{ServerFrame, frame::Gap};

use crate::fake_broker::*;

async fn next_gap(subscription: &mut tidegate_client::Subscription) -> Gap {
    match subscription.recv().await {
        Some(Event::Gap(gap)) => gap,
        other => panic!("expected a gap, not {other:?}"),
    }
}

async fn next_offset(subscription: &mut tidegate_client::Subscription) -> Option<u64> {
    match subscription.recv().await {
        Some(Event::Message(message)) => message.offset,
        other => panic!("expected a message, not {other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn a_lost_last_message_is_found_by_the_mark_and_read_from_the_log() {
    let (client, _broker, mut peer) = connected().await;
    let mut events = client.events();
    let (subscription, sub) = tokio::join!(client.subscribe("a").into_future(), peer.accept_subscribe(0));
    let mut subscription = subscription.unwrap();
    // 1, 2 and 3 were written; 3 never came.
    peer.send([message("a", 1), message("a", 2), mark(3, &[(sub, 3, 0)])]).await;
    let (id, ended) = peer.unsubscribe().await;
    assert_eq!(ended, sub);
    let again = peer.subscribe().await;
    assert_eq!(again.from, From::Positions(vec![position(2)]), "from its own position, not the mark's");
    peer.send([done(id), subscribed(again.id, 2, 3), message_for(again.id, "a", 3), message("a", 4)]).await;
    for expected in 1..=4 {
        assert_eq!(next_offset(&mut subscription).await, Some(expected));
    }
    assert_eq!(subscription.try_recv(), None, "all of it was mended");
    let Some(ConnectionEvent::BooksDiffer { told: 3, had: 2, .. }) = events.recv().await else {
        panic!("it is said that the books differed")
    };
    assert_eq!(client.stats().books_differ, 1);
}

#[tokio::test(start_paused = true)]
async fn what_was_lost_in_the_middle_becomes_a_gap_with_reason_books() {
    let (client, _broker, mut peer) = connected().await;
    let (subscription, sub) = tokio::join!(client.subscribe("a").into_future(), peer.accept_subscribe(0));
    let mut subscription = subscription.unwrap();
    // 2 was lost in the middle, 4 at the end.
    peer.send([message("a", 1), message("a", 3), mark(4, &[(sub, 4, 0)])]).await;
    let (id, _) = peer.unsubscribe().await;
    let again = peer.subscribe().await.id;
    peer.send([done(id), subscribed(again, 3, 4), message_for(again, "a", 4), message("a", 5)]).await;
    assert_eq!(next_offset(&mut subscription).await, Some(1));
    assert_eq!(next_offset(&mut subscription).await, Some(3));
    // The gap stands where the repair ends.
    let mut seen = Vec::new();
    for _ in 0..3 {
        match subscription.recv().await {
            Some(Event::Message(message)) => seen.push(message.offset),
            Some(Event::Gap(gap)) => {
                assert_eq!((gap.reason, gap.count, gap.at_most), (GapReason::Books, Some(1), None));
                seen.push(None);
            }
            other => panic!("{other:?}"),
        }
    }
    seen.sort_unstable();
    assert_eq!(seen, [None, Some(4), Some(5)]);
    assert_eq!(client.stats().gapped, 1);
}

#[tokio::test(start_paused = true)]
async fn a_hole_with_nothing_after_it_is_told_at_the_next_mark() {
    let (client, _broker, mut peer) = connected().await;
    let (subscription, sub) = tokio::join!(client.subscribe("a").into_future(), peer.accept_subscribe(0));
    let mut subscription = subscription.unwrap();
    peer.send([message("a", 2), mark(5, &[(sub, 2, 0)])]).await;
    let (id, _) = peer.unsubscribe().await;
    let again = peer.subscribe().await.id;
    peer.send([done(id), subscribed(again, 2, 5)]).await;
    peer.send([mark(6, &[])]).await;
    assert_eq!(next_offset(&mut subscription).await, Some(2));
    assert_eq!(next_gap(&mut subscription).await.count, Some(1));
}

#[tokio::test(start_paused = true)]
async fn a_lost_gap_notice_is_found_too() {
    let (client, _broker, mut peer) = connected().await;
    let (subscription, sub) = tokio::join!(client.subscribe("a").into_future(), peer.accept_subscribe(0));
    let mut subscription = subscription.unwrap();
    // A gap of three was written and never came.
    peer.send([message("a", 1), mark(4, &[(sub, 1, 3)])]).await;
    let (id, _) = peer.unsubscribe().await;
    let again = peer.subscribe().await.id;
    peer.send([done(id), subscribed(again, 1, 4), gap(again, 3, 2, 4)]).await;
    assert_eq!(next_offset(&mut subscription).await, Some(1));
    assert_eq!(next_gap(&mut subscription).await.to, Some(4));
    assert_eq!(subscription.try_recv(), None);
}

/// It came first, and named the reader a doubt about messages that were told only behind it.
#[tokio::test(start_paused = true)]
async fn what_a_gap_beyond_the_mark_may_have_told_is_doubted_behind_that_gap() {
    let (client, _broker, mut peer) = connected().await;
    let (subscription, sub) = tokio::join!(client.subscribe("a").into_future(), peer.accept_subscribe(0));
    let mut subscription = subscription.unwrap();
    // 2 was written and never came; the log has let go of it since, and of what followed it.
    peer.send([message("a", 1), mark(2, &[(sub, 2, 0)])]).await;
    let (id, _) = peer.unsubscribe().await;
    let again = peer.subscribe().await.id;
    peer.send([done(id), subscribed(again, 1, 5), gap(again, 4, 2, 5)]).await;
    assert_eq!(next_offset(&mut subscription).await, Some(1));
    assert_eq!(next_gap(&mut subscription).await.to, Some(5));
    let doubt = next_gap(&mut subscription).await;
    assert_eq!((doubt.reason, doubt.count, doubt.at_most), (GapReason::Books, None, Some(1)));
    assert_eq!(subscription.try_recv(), None);
}

#[tokio::test(start_paused = true)]
async fn no_log_can_mend_a_live_only_subscription() {
    let (client, _broker, mut peer) = connected().await;
    let (subscription, sub) = tokio::join!(client.subscribe("a").into_future(), async {
        let id = peer.subscribe().await.id;
        let mut terms = terms(EPOCH, 0, 0);
        terms.positions.clear();
        terms.live_only = true;
        peer.send([subscribed_with(id, terms)]).await;
        id
    });
    let mut subscription = subscription.unwrap();
    peer.send([ServerFrame::Message(message_at("a", None, None)), mark(0, &[(sub, 4, 0)])]).await;
    assert_eq!(next_offset(&mut subscription).await, None);
    let gap = next_gap(&mut subscription).await;
    assert_eq!((gap.reason, gap.count), (GapReason::Books, Some(3)));
    // It is told once.
    peer.send([mark(0, &[(sub, 4, 0)])]).await;
    assert!(peer.is_quiet().await);
    assert_eq!(subscription.try_recv(), None);
}

#[tokio::test(start_paused = true)]
async fn one_subscription_whose_books_differ_does_not_touch_the_others() {
    let (client, mut broker, mut peer) = connected().await;
    let (one, one_id) = tokio::join!(client.subscribe("a").into_future(), peer.accept_subscribe(0));
    let (other, other_id) = tokio::join!(client.subscribe("b").into_future(), peer.accept_subscribe(0));
    let (_one, _other) = (one.unwrap(), other.unwrap());
    peer.send([message("b", 1), mark(9, &[(one_id, 1, 0), (other_id, 1, 0)])]).await;
    assert_eq!(peer.unsubscribe().await.1, one_id);
    assert_eq!(peer.subscribe().await.from, From::Positions(vec![position(0)]));
    assert!(peer.is_quiet().await);
    drop(peer);
    let mut peer = broker.welcome().await;
    assert_eq!(peer.subscribe().await.from, From::Positions(vec![position(0)]));
    assert_eq!(peer.subscribe().await.from, From::Positions(vec![position(9)]));
}
