//! Pages of a topic's log, and the token's renewal.

use std::future::IntoFuture;

use tidegate_client::{ErrorCode, From, HistoryErrorKind, RefreshErrorKind};
use tidegate_protocol::{
    ClientFrame, ServerFrame,
    frame::{HistoryPage, HistoryRequest},
};

use crate::fake_broker::*;

async fn request(peer: &mut Peer) -> HistoryRequest {
    match peer.recv().await {
        Some(ClientFrame::History(request)) => request,
        other => panic!("expected a history request, not {other:?}"),
    }
}

fn page(id: u64, offsets: std::ops::RangeInclusive<u64>, more: bool) -> ServerFrame {
    let position = Some(position(*offsets.end()));
    let messages = offsets.map(|offset| message_at("a", Some(offset), None)).collect();
    ServerFrame::History(HistoryPage { id, messages, position, more })
}

#[tokio::test(start_paused = true)]
async fn pages_are_followed_up_to_the_limit() {
    let (client, _broker, mut peer) = connected().await;
    let (messages, ()) = tokio::join!(client.history("a").last(9).limit(5).into_future(), async {
        let first = request(&mut peer).await;
        assert_eq!((first.from, first.limit), (From::Last { n: 9, at: None }, Some(5)));
        peer.send([page(first.id, 1..=2, true)]).await;
        let second = request(&mut peer).await;
        assert_eq!((second.from, second.limit), (From::Positions(vec![position(2)]), Some(3)));
        peer.send([page(second.id, 3..=5, true)]).await;
    });
    let offsets: Vec<_> = messages.unwrap().iter().map(|message| message.offset.unwrap()).collect();
    assert_eq!(offsets, [1, 2, 3, 4, 5]);
    assert!(peer.is_quiet().await);
}

#[tokio::test(start_paused = true)]
async fn one_request_is_in_flight_and_a_cut_line_asks_for_the_page_again() {
    let (client, mut broker, mut peer) = connected().await;
    let first = tokio::spawn(client.history("a").into_future());
    let page_one = request(&mut peer).await;
    let second = tokio::spawn(client.history("b").into_future());
    assert!(peer.is_quiet().await);
    peer.send([page(page_one.id, 1..=2, true)]).await;
    request(&mut peer).await;
    drop(peer);
    let mut peer = broker.welcome().await;
    let again = request(&mut peer).await;
    assert_eq!(again.from, From::Positions(vec![position(2)]));
    peer.send([page(again.id, 3..=3, false)]).await;
    assert_eq!(first.await.unwrap().unwrap().len(), 3);
    let other = request(&mut peer).await;
    assert_eq!(other.topic.as_str(), "b");
    peer.send([error(other.id, ErrorCode::NoHistory)]).await;
    let refused = second.await.unwrap().unwrap_err();
    assert_eq!(refused.kind(), HistoryErrorKind::Refused(ErrorCode::NoHistory));
}

#[tokio::test(start_paused = true)]
async fn a_page_that_moves_nothing_is_the_last() {
    let (client, _broker, mut peer) = connected().await;
    let (messages, ()) = tokio::join!(client.history("a").into_future(), async {
        let first = request(&mut peer).await;
        peer.send([page(first.id, 1..=1, true)]).await;
        let second = request(&mut peer).await;
        let stuck =
            HistoryPage { id: second.id, messages: Vec::new(), position: Some(position(1)), more: true };
        peer.send([ServerFrame::History(stuck)]).await;
    });
    assert_eq!(messages.unwrap().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_renewed_token_is_what_the_next_connection_begins_with() {
    let (client, mut broker, mut peer) = connected().await;
    let (renewed, ()) = tokio::join!(client.refresh("new"), async {
        let Some(ClientFrame::Refresh { id, token }) = peer.recv().await else { panic!("a refresh") };
        assert_eq!(token, "new");
        peer.send([done(id)]).await;
    });
    renewed.unwrap();
    let (refused, ()) = tokio::join!(client.refresh("bad"), async {
        let Some(ClientFrame::Refresh { id, .. }) = peer.recv().await else { panic!("a refresh") };
        peer.send([error(id, ErrorCode::TokenInvalid)]).await;
    });
    assert_eq!(refused.unwrap_err().kind(), RefreshErrorKind::Refused(ErrorCode::TokenInvalid));
    drop(peer);
    let mut peer = broker.accept().await;
    let Some(ClientFrame::Connect(connect)) = peer.recv().await else { panic!("connect comes first") };
    assert_eq!(connect.token.as_deref(), Some("new"));
}
