//! Where a subscription goes on after the line was cut, and what its reader is told.

use std::future::IntoFuture;

use tidegate_client::{
    Client, EndReason, Epoch, ErrorCode, Event, From, GapReason, Position, SubscribeErrorKind,
};
use tidegate_protocol::{ClientFrame, ServerFrame, position::At};

use crate::fake_broker::*;

fn offset(event: Option<Event>) -> u64 {
    match event {
        Some(Event::Message(message)) => message.offset.expect("a message of a stream"),
        other => panic!("expected a message, not {other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn a_message_for_all_goes_to_each_subscription_that_takes_it_and_one_with_sub_to_that_one() {
    let (client, _broker, mut peer) = connected().await;
    let (chat, chat_id) = tokio::join!(client.subscribe("chat.>").into_future(), peer.accept_subscribe(0));
    let (room, _) = tokio::join!(client.subscribe("chat.a").into_future(), peer.accept_subscribe(0));
    let (mut chat, mut room) = (chat.unwrap(), room.unwrap());
    peer.send([
        message("chat.a", 1),
        message("chat.b", 2),
        message_for(chat_id, "chat.a", 3),
        message("chat.a", 4),
    ])
    .await;
    assert_eq!([offset(room.recv().await), offset(room.recv().await)], [1, 4]);
    for expected in 1..=4 {
        assert_eq!(offset(chat.recv().await), expected);
    }
    assert_eq!(chat.position(), [position(4)]);
}

/// Behind a publish's ack everything that was said before it has been taken in.
async fn taken_in(client: &Client, peer: &mut Peer) {
    let (published, ()) = tokio::join!(client.publish("b", "x"), async {
        let publish = peer.publish().await;
        peer.send([ack(publish.id.unwrap(), 99)]).await;
    });
    published.unwrap();
}

#[tokio::test(start_paused = true)]
async fn it_resumes_from_the_largest_of_messages_gaps_and_marks() {
    let (client, mut broker, mut peer) = connected().await;
    let (subscription, mut sub) =
        tokio::join!(client.subscribe("a.>").into_future(), peer.accept_subscribe(40));
    let mut subscription = subscription.unwrap();
    type Says = fn(u64) -> ServerFrame;
    let says: [(Says, u64); 4] = [
        (|_| message("a.b", 41), 41),
        (|sub| gap(sub, 3, 42, 50), 50),
        (|_| mark(60, &[]), 60),
        // None of them goes back.
        (|sub| gap(sub, 3, 42, 55), 60),
    ];
    for (says, position_after) in says {
        peer.send([says(sub)]).await;
        taken_in(&client, &mut peer).await;
        drop(peer);
        peer = broker.welcome().await;
        let again = peer.subscribe().await;
        assert_eq!(again.from, From::Positions(vec![position(position_after)]));
        sub = again.id;
        peer.send([subscribed(sub, position_after, position_after)]).await;
        taken_in(&client, &mut peer).await;
        while subscription.try_recv().is_some() {}
        assert_eq!(subscription.position(), [position(position_after)]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_mark_that_lists_a_subscription_as_behind_does_not_move_it() {
    let (client, mut broker, mut peer) = connected().await;
    let (subscription, sub) = tokio::join!(client.subscribe("a").into_future(), peer.accept_subscribe(5));
    let _subscription = subscription.unwrap();
    let ServerFrame::Mark(mut behind) = mark(90, &[(sub, 0, 0)]) else { unreachable!() };
    behind.subs[0].behind = true;
    peer.send([ServerFrame::Mark(behind)]).await;
    peer.close(4000).await;
    let mut peer = broker.welcome().await;
    assert_eq!(peer.subscribe().await.from, From::Positions(vec![position(5)]));
    assert_eq!(client.stats().books_differ, 0);
}

#[tokio::test(start_paused = true)]
async fn the_reader_sees_resumed_and_then_what_it_missed_without_doubles() {
    let (client, mut broker, mut peer) = connected().await;
    let (subscription, _) = tokio::join!(client.subscribe("a").into_future(), peer.accept_subscribe(0));
    let mut subscription = subscription.unwrap();
    peer.send([message("a", 1), message("a", 2)]).await;
    assert_eq!([offset(subscription.recv().await), offset(subscription.recv().await)], [1, 2]);
    drop(peer);
    let mut peer = broker.welcome().await;
    let id = peer.accept_subscribe(2).await;
    peer.send([message_for(id, "a", 2), message_for(id, "a", 3), message("a", 4)]).await;
    let Some(Event::Resumed(resumed)) = subscription.recv().await else { panic!("resumed comes first") };
    assert_eq!(resumed.positions, [position(2)]);
    assert_eq!([offset(subscription.recv().await), offset(subscription.recv().await)], [3, 4]);
    assert_eq!(client.stats().duplicates, 1);
}

#[tokio::test(start_paused = true)]
async fn a_new_epoch_is_told_before_what_follows() {
    let (client, mut broker, mut peer) = connected().await;
    let (subscription, _) = tokio::join!(client.subscribe("a").into_future(), peer.accept_subscribe(7));
    let mut subscription = subscription.unwrap();
    drop(peer);
    let mut peer = broker.welcome().await;
    let id = peer.subscribe().await.id;
    let new = Epoch(0xe2);
    peer.send([subscribed_with(id, terms(new, 0, 1)), message_for(id, "a", 1)]).await;
    let Some(Event::Reset(reset)) = subscription.recv().await else { panic!("the reset comes first") };
    assert_eq!((reset.old, &reset.new), (EPOCH, &Position { stream: None, epoch: new, offset: 0 }));
    assert_eq!(offset(subscription.recv().await), 1);
    assert_eq!(subscription.position(), [Position { stream: None, epoch: new, offset: 1 }]);
}

#[tokio::test(start_paused = true)]
async fn a_live_only_subscription_is_told_that_it_was_away() {
    let (client, mut broker, mut peer) = connected().await;
    let live_only = |id| {
        let mut terms = terms(EPOCH, 0, 0);
        terms.positions.clear();
        terms.live_only = true;
        subscribed_with(id, terms)
    };
    let (subscription, ()) = tokio::join!(client.subscribe("a").from(From::Live).into_future(), async {
        let id = peer.subscribe().await.id;
        peer.send([live_only(id), ServerFrame::Message(message_at("a", None, None))]).await;
    });
    let mut subscription = subscription.unwrap();
    assert!(matches!(subscription.recv().await, Some(Event::Message(_))));
    drop(peer);
    let mut peer = broker.welcome().await;
    let again = peer.subscribe().await;
    assert_eq!(again.from, From::Live);
    peer.send([live_only(again.id)]).await;
    let Some(Event::Gap(gap)) = subscription.recv().await else { panic!("a gap") };
    assert_eq!((gap.reason, gap.count, gap.at_most, gap.from), (GapReason::Away, None, None, None));
}

#[tokio::test(start_paused = true)]
async fn cut_amid_the_newest_n_it_asks_for_them_as_they_stood() {
    let (client, mut broker, mut peer) = connected().await;
    let last = From::Last { n: 20, at: None };
    let (subscription, id) = tokio::join!(client.subscribe("a.*").from(last).into_future(), async {
        let subscribe = peer.subscribe().await;
        peer.send([subscribed(subscribe.id, 0, 57)]).await;
        subscribe.id
    });
    let mut subscription = subscription.unwrap();
    peer.send([message_for(id, "a.x", 30)]).await;
    assert_eq!(offset(subscription.recv().await), 30);
    drop(peer);

    let mut peer = broker.welcome().await;
    let again = peer.subscribe().await;
    assert_eq!(again.from, From::Last { n: 20, at: Some(At::Positions(vec![position(57)])) });
    peer.send([subscribed(again.id, 0, 60)]).await;
    peer.send([30, 50, 58].map(|offset| message_for(again.id, "a.x", offset))).await;
    assert!(matches!(subscription.recv().await, Some(Event::Resumed(_))));
    assert_eq!([offset(subscription.recv().await), offset(subscription.recv().await)], [50, 58]);
    drop(peer);
    let mut peer = broker.welcome().await;
    assert_eq!(peer.subscribe().await.from, From::Positions(vec![position(58)]));
}

#[tokio::test(start_paused = true)]
async fn cut_before_its_first_message_a_subscription_goes_on_from_its_acks_position() {
    for from in [From::Beginning, From::Since(5)] {
        let (client, mut broker, mut peer) = connected().await;
        let (subscription, _) = tokio::join!(client.subscribe("a").from(from).into_future(), async {
            let id = peer.subscribe().await.id;
            peer.send([subscribed(id, 12, 20)]).await;
        });
        let _subscription = subscription.unwrap();
        drop(peer);
        let mut peer = broker.welcome().await;
        assert_eq!(peer.subscribe().await.from, From::Positions(vec![position(12)]));
    }
}

#[tokio::test(start_paused = true)]
async fn cut_before_its_ack_a_subscription_is_asked_for_again_as_it_was() {
    let (client, mut broker, mut peer) = connected().await;
    let asking = tokio::spawn(client.subscribe("a").from(From::Since(5)).into_future());
    peer.subscribe().await;
    drop(peer);
    let mut peer = broker.welcome().await;
    let again = peer.subscribe().await;
    assert_eq!(again.from, From::Since(5));
    peer.send([subscribed(again.id, 0, 0)]).await;
    let mut subscription = asking.await.unwrap().unwrap();
    assert_eq!(subscription.try_recv(), None, "nothing was resumed");
}

#[tokio::test(start_paused = true)]
async fn a_refused_subscription_is_an_error_and_a_refused_resume_the_end() {
    let (client, mut broker, mut peer) = connected().await;
    let (refused, ()) = tokio::join!(client.subscribe("secret").into_future(), async {
        let id = peer.subscribe().await.id;
        peer.send([error(id, ErrorCode::PermissionDenied)]).await;
    });
    assert_eq!(refused.unwrap_err().kind(), SubscribeErrorKind::Refused(ErrorCode::PermissionDenied));
    assert_eq!(client.subscribe("a..b").await.unwrap_err().kind(), SubscribeErrorKind::InvalidFilter);

    let (subscription, _) = tokio::join!(client.subscribe("a").into_future(), peer.accept_subscribe(0));
    let mut subscription = subscription.unwrap();
    peer.send([message("a", 1)]).await;
    assert_eq!(offset(subscription.recv().await), 1);
    drop(peer);
    let mut peer = broker.welcome().await;
    let id = peer.subscribe().await.id;
    peer.send([error(id, ErrorCode::TokenExpired)]).await;
    assert_eq!(subscription.recv().await, None);
    let reason = subscription.end_reason();
    assert!(matches!(reason, Some(EndReason::Refused { code: ErrorCode::TokenExpired, .. })), "{reason:?}");
}

#[tokio::test(start_paused = true)]
async fn a_resume_that_is_refused_for_the_moment_is_asked_for_again() {
    let (client, mut broker, mut peer) = connected().await;
    let (subscription, _) = tokio::join!(client.subscribe("a").into_future(), peer.accept_subscribe(3));
    let mut subscription = subscription.unwrap();
    drop(peer);
    let mut peer = broker.welcome().await;
    let id = peer.subscribe().await.id;
    peer.send([error(id, ErrorCode::OverBudget)]).await;
    let again = peer.subscribe().await;
    assert_eq!(again.from, From::Positions(vec![position(3)]));
    peer.send([subscribed(again.id, 3, 3)]).await;
    assert!(matches!(subscription.recv().await, Some(Event::Resumed(_))));
}

#[tokio::test(start_paused = true)]
async fn a_dropped_subscription_unsubscribes_and_one_unsubscribed_waits_for_the_broker() {
    let (client, _broker, mut peer) = connected().await;
    let (first, first_id) = tokio::join!(client.subscribe("a").into_future(), peer.accept_subscribe(0));
    drop(first);
    let (id, sub) = peer.unsubscribe().await;
    assert_eq!(sub, first_id);
    peer.send([done(id)]).await;

    let (second, second_id) = tokio::join!(client.subscribe("a").into_future(), peer.accept_subscribe(0));
    let ((), ()) = tokio::join!(second.unwrap().unsubscribe(), async {
        let (id, sub) = peer.unsubscribe().await;
        assert_eq!(sub, second_id);
        peer.send([done(id), ServerFrame::Unsubscribed { sub, code: None }]).await;
    });

    let mut asking = Box::pin(client.subscribe("a").into_future());
    tokio::select! {
        biased;
        _ = &mut asking => panic!("nobody answered"),
        _ = peer.subscribe() => {}
    }
    drop(asking);
    assert!(matches!(peer.recv().await, Some(ClientFrame::Unsubscribe { .. })), "one given up too");
}

#[tokio::test(start_paused = true)]
async fn a_subscription_the_broker_ends_says_with_which_error() {
    let (client, _broker, mut peer) = connected().await;
    let (subscription, sub) = tokio::join!(client.subscribe("a").into_future(), peer.accept_subscribe(0));
    let mut subscription = subscription.unwrap();
    let code = Some(ErrorCode::PermissionDenied);
    peer.send([message("a", 1), ServerFrame::Unsubscribed { sub, code }]).await;
    assert_eq!(offset(subscription.recv().await), 1);
    assert_eq!(subscription.recv().await, None);
    assert_eq!(
        subscription.end_reason().unwrap().to_string(),
        "ended by the broker, error 1103 (permission_denied)"
    );
}
