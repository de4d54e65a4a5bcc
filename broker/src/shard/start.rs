//! Where a subscription or a history request starts in one stream.

use tidegate_protocol::{
    ErrorCode, From, Position, ServerFrame,
    frame::{GapReason, HistoryPage, HistoryRequest},
    position::{At, StreamName},
};

use crate::{
    hub::{Hub, Stream},
    outbox::{Evicted, Lane, Loss, Terms},
    session::error,
    stream::{Log, ReadBudget},
};

/// A subscription's start in one stream, resolved under the stream's lock.
#[derive(Debug)]
pub struct Start {
    /// Its position until its first message or gap.
    pub offset: u64,
    /// The last offset before live.
    pub live: u64,
    /// What it reads from the log first; none where it starts live.
    pub lane: Option<Lane>,
}

/// Resolves `from`. At most `cap` messages are selected for a `last`; the oldest beyond it become a gap.
pub fn resolve(
    from: &From,
    name: Option<&StreamName>,
    log: &Log,
    filter: &tidegate_protocol::Filter,
    terms: Terms,
    cap: usize,
) -> Start {
    let live = log.head();
    let begin = Begin { after: live, ..Begin::default() };
    let begin = match from {
        From::Live => return Start { offset: live, live, lane: None },
        From::Beginning => Begin { after: log.start() - 1, ..begin },
        From::Since(time) => since(*time, log),
        From::Positions(positions) => match positions.iter().find(|p| p.stream.as_ref() == name) {
            Some(position) => at_position(position, log),
            None => Begin { after: log.start() - 1, ..begin },
        },
        From::Last { n, at } => match at {
            None => last(*n, None, log, filter, cap),
            Some(At::Offset(offset)) if *offset <= live => last(*n, Some(*offset), log, filter, cap),
            Some(At::Offset(_)) => unknown_epoch(log),
            Some(At::Positions(positions)) => match positions.iter().find(|p| p.stream.as_ref() == name) {
                Some(p) if p.epoch == log.epoch() && p.offset <= live => {
                    last(*n, Some(p.offset), log, filter, cap)
                }
                Some(_) => unknown_epoch(log),
                None => Begin { after: log.start() - 1, ..begin },
            },
        },
    };
    let offset = match (&begin.loss, begin.selected.first()) {
        (Some(loss), _) => loss.to().map_or(begin.after, |_| 0),
        (None, Some(&first)) => first - 1,
        (None, None) => begin.after,
    };
    if begin.loss.is_none() && begin.selected.is_empty() && begin.after >= live {
        return Start { offset, live, lane: None };
    }
    let mut lane = Lane::starting(terms, begin.after, live, begin.selected, begin.resumed);
    begin.loss.into_iter().for_each(|loss| lane.lose(loss));
    Start { offset, live, lane: Some(lane) }
}

/// What a `from` means in a log.
#[derive(Debug, Default)]
struct Begin {
    /// Messages after this offset are read.
    after: u64,
    /// These first.
    selected: Vec<u64>,
    /// What is missing before all of them.
    loss: Option<Loss>,
    /// Whether the client was here before: `latest` then takes the log through its slots.
    resumed: bool,
}

fn at_position(position: &Position, log: &Log) -> Begin {
    if position.epoch != log.epoch() || position.offset > log.head() {
        return unknown_epoch(log);
    }
    Begin { after: position.offset, resumed: true, ..Begin::default() }
}

/// The position is of another log: nobody knows what is missing. This one is given from its beginning.
fn unknown_epoch(log: &Log) -> Begin {
    Begin { after: log.start() - 1, loss: Some(Loss::of_unknown_epoch()), resumed: true, ..Begin::default() }
}

fn since(time: u64, log: &Log) -> Begin {
    let since = log.since(time);
    let loss =
        (!since.complete).then(|| Loss::at_most(since.after, 1, since.after.max(1), GapReason::Evicted));
    Begin { after: since.after, loss, ..Begin::default() }
}

fn last(n: u32, at: Option<u64>, log: &Log, filter: &tidegate_protocol::Filter, cap: usize) -> Begin {
    let last = log.last(filter, n, at, cap);
    // A bound: some of them may be what `echo: false` holds back.
    let loss = (last.cut > 0).then(|| Loss::at_most(last.cut, 1, last.cut_to, GapReason::Overflow));
    Begin { after: at.unwrap_or(log.head()), selected: last.offsets, loss, resumed: false }
}

/// One page of a topic's log.
pub fn history(hub: &Hub, request: &HistoryRequest, budget: ReadBudget) -> ServerFrame {
    let Some(at) = hub.stream_of(&request.topic) else {
        return error(Some(request.id), ErrorCode::NoHistory, "the topic is in no stream");
    };
    let budget = ReadBudget {
        messages: budget.messages.min(request.limit.map_or(usize::MAX, |n| n as usize)).max(1),
        ..budget
    };
    let filter = request.topic.clone().into();
    match page(&hub.streams()[at], &request.from, &filter, budget) {
        Ok((messages, position, more)) => {
            ServerFrame::History(HistoryPage { id: request.id, messages, position: Some(position), more })
        }
        Err(message) => error(Some(request.id), ErrorCode::FromInvalid, message),
    }
}

type Page = (Vec<tidegate_protocol::Message>, Position, bool);

/// The lock is held to find where the page begins, or which the newest are. A head that grows meanwhile is for the next
/// page.
fn page(
    stream: &Stream,
    from: &From,
    filter: &tidegate_protocol::Filter,
    budget: ReadBudget,
) -> Result<Page, &'static str> {
    let Stream { name, epoch, .. } = stream;
    let position = |offset| Position { stream: name.clone(), epoch: *epoch, offset };
    let name = name.as_ref();
    let ordered = stream.lock();
    let log = &ordered.log;
    let head = log.head();
    let mut after = match from {
        From::Live => head,
        From::Beginning => log.start() - 1,
        From::Since(time) => log.since(*time).after,
        From::Positions(positions) => match positions.iter().find(|p| p.stream.as_ref() == name) {
            Some(p) if p.epoch == log.epoch() && p.offset <= head => p.offset.max(log.start() - 1),
            Some(_) => return Err("the position is of another epoch"),
            None => log.start() - 1,
        },
        From::Last { n, at } => {
            let at = match at {
                None => None,
                Some(At::Offset(offset)) => Some(*offset),
                Some(At::Positions(positions)) => {
                    match positions.iter().find(|p| p.stream.as_ref() == name) {
                        Some(p) if p.epoch == log.epoch() => Some(p.offset),
                        _ => return Err("the position is of another epoch"),
                    }
                }
            };
            // The newest n are the answer; where a page cannot hold them all, the oldest of them go.
            let last = log.last(filter, *n, at, budget.messages);
            let mut bytes = 0;
            let mut newest: Vec<_> = Vec::new();
            for published in last.offsets.iter().rev().filter_map(|&offset| log.get(offset)) {
                bytes += published.cost as usize;
                if bytes > budget.bytes && !newest.is_empty() {
                    break;
                }
                newest.push(published);
            }
            drop(ordered);
            let messages = newest.iter().rev().map(|published| published.message.clone()).collect();
            let end = at.unwrap_or(head);
            return Ok((messages, position(end), end < head));
        }
    };
    drop(ordered);
    let mut messages = Vec::new();
    let mut left = budget;
    while after < head && left.messages > 0 && left.bytes > 0 {
        let (batch, scanned) = match stream.read(after, head, filter, left) {
            Ok(batch) => batch,
            // The log may have gone beyond this page's end meanwhile.
            Err(Evicted { start }) => (Vec::new(), head.min(start - 1)),
        };
        for message in batch {
            left.messages = left.messages.saturating_sub(1);
            left.bytes = left.bytes.saturating_sub(message.cost as usize);
            messages.push(message.message.clone());
        }
        if scanned <= after {
            break;
        }
        after = scanned;
    }
    Ok((messages, position(after), after < head))
}
