//! Pages of topics' logs, one request in flight, as the broker wants it.

use std::collections::VecDeque;

use tidegate_protocol::{
    ClientFrame, ErrorCode, From, Message, Position,
    frame::{HistoryPage, HistoryRequest},
};

use crate::{
    command::HistoryCommand,
    error::{HistoryError, HistoryErrorKind},
};

/// Queries in the order they were asked for; the first one's next page is the one in flight.
#[derive(Debug, Default)]
pub(super) struct Histories {
    queue: VecDeque<Query>,
    in_flight: Option<u64>,
}

#[derive(Debug)]
struct Query {
    command: HistoryCommand,
    messages: Vec<Message>,
    /// Where the last page ended.
    position: Option<Position>,
}

impl Histories {
    pub(super) fn push(&mut self, command: HistoryCommand) {
        self.queue.push_back(Query { command, messages: Vec::new(), position: None });
    }

    /// Whether a request can go out.
    pub(super) fn is_due(&self) -> bool {
        self.in_flight.is_none() && !self.queue.is_empty()
    }

    /// The next request, if one can go out.
    pub(super) fn frame(&mut self, id: u64) -> Option<ClientFrame> {
        if self.in_flight.is_some() {
            return None;
        }
        // Nobody waits for it any more.
        while self.queue.front().is_some_and(|query| query.command.reply.is_closed()) {
            self.queue.pop_front();
        }
        let query = self.queue.front()?;
        self.in_flight = Some(id);
        let from = match &query.position {
            Some(position) => From::Positions(vec![position.clone()]),
            None => query.command.from.clone(),
        };
        let left = query.command.limit.saturating_sub(query.messages.len());
        let limit = Some(u32::try_from(left).unwrap_or(u32::MAX));
        Some(ClientFrame::History(HistoryRequest { id, topic: query.command.topic.clone(), from, limit }))
    }

    /// True if another request can go out now.
    pub(super) fn on_page(&mut self, page: HistoryPage) -> bool {
        if self.in_flight != Some(page.id) {
            return false;
        }
        self.in_flight = None;
        if let Some(query) = self.queue.front_mut() {
            // A page that moves nothing must not be asked for for ever.
            let moved = page.position.is_some() && page.position != query.position;
            query.messages.extend(page.messages);
            query.position = page.position;
            if (!page.more || !moved || query.messages.len() >= query.command.limit)
                && let Some(mut query) = self.queue.pop_front()
            {
                query.messages.truncate(query.command.limit);
                // Who asked may have gone.
                let _ = query.command.reply.send(Ok(query.messages));
            }
        }
        self.is_due()
    }

    /// True if `id` is a history request's.
    pub(super) fn on_error(&mut self, id: u64, code: ErrorCode, message: &str) -> bool {
        if self.in_flight != Some(id) {
            return false;
        }
        // A broker that goes leaves it to the next one: it stays in flight until the connection is gone.
        if code != ErrorCode::Draining {
            self.in_flight = None;
            if let Some(query) = self.queue.pop_front() {
                let error = HistoryError::with_detail(HistoryErrorKind::Refused(code), message);
                let _ = query.command.reply.send(Err(error));
            }
        }
        true
    }

    pub(super) fn on_disconnected(&mut self) {
        self.in_flight = None;
    }

    pub(super) fn fail_all(&mut self) {
        for query in self.queue.drain(..) {
            let _ = query.command.reply.send(Err(HistoryError::new(HistoryErrorKind::Closed)));
        }
        self.in_flight = None;
    }

    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }
}
