//! `tidegate sub`.

use std::{
    future::poll_fn,
    pin::{Pin, pin},
    task::{Context, Poll},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use clap::Args;
use tidegate_client::{
    Client, ConnectionEvent, ConnectionEvents, EndReason, Event, Filter, From as Start, Overflow, Position,
    Subscription,
};

use self::output::{Format, Output};
use super::{
    Failure,
    connection::{Connection, runtime},
    signals::Signals,
};
use crate::config::{A_DURATION, parse_duration};

mod output;

/// Subscribe, and print what comes until it is stopped
///
/// A message that several FILTERs take is printed once. A connection that is lost comes back by itself, and what was
/// missed meanwhile comes first; what cannot come any more is told as a gap.
#[derive(Debug, Args)]
#[command(
    after_help = "Exit codes: 0 stopped, or --count or --for is reached; 1 no connection, refused, or --for \
                        ended before --count was reached; 2 a mistake in the flags."
)]
pub(super) struct Subscribe {
    /// Which topics: `*` stands for one token, a last `>` for one or more, such as `chat.*` or `fleet.>`
    #[arg(required = true, value_name = "FILTER", value_parser = filter)]
    filters: Vec<Filter>,

    #[command(flatten)]
    connection: Connection,

    /// Where to start: live, beginning, last:N (the newest N of each topic), since:DURATION (such as since:30s), or
    /// the position [STREAM:]EPOCH:OFFSET to start after, several with commas between
    #[arg(long, default_value = "live", value_name = "START", value_parser = start)]
    from: FromArgument,

    /// What happens to messages while this reader is behind: catch_up, drop_oldest, drop_newest, latest or disconnect
    /// [default: catch_up in a stream, else drop_oldest]
    #[arg(long, value_name = "POLICY", value_parser = overflow)]
    overflow: Option<Overflow>,

    /// How many messages may wait at the broker
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    limit: Option<u32>,

    /// Stop after this many messages
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,

    /// Stop after this time, such as 10s
    #[arg(long = "for", value_name = "DURATION", value_parser = duration)]
    period: Option<Duration>,

    /// Print payloads alone, one a line, bytes as they are; notices go to stderr
    #[arg(long, conflicts_with = "json")]
    raw: bool,

    /// Print one JSON object a line, whose "event" is subscribed, message, gap, resumed or reset
    ///
    /// A message's "payload" is the value itself, a string for text, base64 for binary; its "kind" says which.
    #[arg(long)]
    json: bool,
}

/// How long a reader of stdout that takes nothing is waited for once a signal came.
const LAST_FLUSH: Duration = Duration::from_secs(2);

/// What is taken from one subscription before the others have their turn.
const TURN: usize = 64;

impl Subscribe {
    pub(super) fn run(self) -> Result<(), Failure> {
        runtime()?.block_on(self.subscribe())
    }

    async fn subscribe(self) -> Result<(), Failure> {
        let mut stop = stop_signal()?;
        // A first connect can take its time: whoever gives up on it is not made to wait.
        let mut reader = tokio::select! {
            reader = self.start() => reader?,
            _ = &mut stop => return Ok(()),
        };
        let mut out = Output::new(self.format());
        out.subscribed(&self.filters, &reader.subscriptions)?;
        let deadline = async {
            match self.period {
                Some(period) => tokio::time::sleep(period).await,
                None => std::future::pending().await,
            }
        };
        let mut deadline = pin!(deadline);
        let mut left = self.count;
        let end = loop {
            let taken = match reader.take_ready() {
                Some(taken) => taken,
                None => {
                    // What is printed is seen before anything is waited for.
                    out.flush()?;
                    tokio::select! {
                        biased;
                        _ = &mut stop => break Ok(()),
                        () = &mut deadline => break self.in_time(left),
                        taken = reader.take() => taken,
                    }
                }
            };
            match taken {
                Taken::Event(index, Event::Message(message)) => {
                    if self.belongs_to_an_earlier(index, &message) {
                        continue;
                    }
                    out.message(&self.filters[index], &message)?;
                    left = left.map(|left| left - 1);
                    if left == Some(0) {
                        break Ok(());
                    }
                }
                Taken::Event(index, event) => out.notice(&self.filters[index], &event)?,
                Taken::Connection(event) => out.connection(&event),
                Taken::End(index, reason) => break Err(reader.failure(&self.filters[index], reason)),
            }
            // A flood of messages must not keep a signal or the deadline waiting.
            if out.is_due() {
                out.flush()?;
                if is_ready(&mut stop).await {
                    break Ok(());
                }
                if is_ready(&mut deadline).await {
                    break self.in_time(left);
                }
            }
        };
        out.flush()?;
        reader.close().await;
        end
    }

    async fn start(&self) -> Result<Reader, Failure> {
        let client = self.connection.connect().await?;
        let events = Some(client.events());
        let mut subscriptions = Vec::with_capacity(self.filters.len());
        for filter in &self.filters {
            let mut subscribe = client.subscribe(filter.clone()).from(self.from.at(SystemTime::now()));
            if let Some(overflow) = self.overflow {
                subscribe = subscribe.overflow(overflow);
            }
            if let Some(limit) = self.limit {
                subscribe = subscribe.limit(limit);
            }
            let subscription = subscribe
                .await
                .map_err(|error| Failure::Failed(format!("not subscribed to {filter}: {error}")))?;
            subscriptions.push(subscription);
        }
        Ok(Reader { client, events, subscriptions, turn: 0, taken: 0, refused: None })
    }

    fn format(&self) -> Format {
        match (self.raw, self.json) {
            (true, _) => Format::Raw,
            (_, true) => Format::Json,
            _ => Format::Human,
        }
    }

    /// Each filter is a subscription of its own, and each is given the message: the first one's is printed.
    fn belongs_to_an_earlier(&self, index: usize, message: &tidegate_client::Message) -> bool {
        self.filters[..index].iter().any(|filter| filter.matches(&message.topic))
    }

    /// How it ends when `--for` is over.
    fn in_time(&self, left: Option<u64>) -> Result<(), Failure> {
        match (left, self.count) {
            (Some(left), Some(count)) => {
                Err(Failure::Failed(format!("{} of {count} messages came in time", count - left)))
            }
            _ => Ok(()),
        }
    }
}

/// The subscriptions, read in turns.
struct Reader {
    client: Client,
    /// Absent once they are at their end.
    events: Option<ConnectionEvents>,
    subscriptions: Vec<Subscription>,
    /// Whose turn it is, and how much of it is used.
    turn: usize,
    taken: usize,
    /// Why the connection ended for good, once it has.
    refused: Option<String>,
}

enum Taken {
    /// Of the subscription with this index.
    Event(usize, Event),
    Connection(ConnectionEvent),
    End(usize, Option<EndReason>),
}

impl Reader {
    /// What waits in this process already.
    fn take_ready(&mut self) -> Option<Taken> {
        for _ in 0..=self.subscriptions.len() {
            if self.taken < TURN
                && let Some(event) = self.subscriptions[self.turn].try_recv()
            {
                self.taken += 1;
                return Some(Taken::Event(self.turn, event));
            }
            self.turn = (self.turn + 1) % self.subscriptions.len();
            self.taken = 0;
        }
        None
    }

    async fn take(&mut self) -> Taken {
        poll_fn(|cx| self.poll_take(cx)).await
    }

    fn poll_take(&mut self, cx: &mut Context<'_>) -> Poll<Taken> {
        match self.events.as_mut().map(|events| pin!(events.recv()).poll(cx)) {
            Some(Poll::Ready(Some(event))) => {
                if let ConnectionEvent::Failed { reason, .. } = &event {
                    self.refused = Some(reason.clone());
                }
                return Poll::Ready(Taken::Connection(event));
            }
            Some(Poll::Ready(None)) => self.events = None,
            Some(Poll::Pending) | None => {}
        }
        for (index, subscription) in self.subscriptions.iter_mut().enumerate() {
            let Poll::Ready(event) = pin!(subscription.recv()).poll(cx) else {
                continue;
            };
            return Poll::Ready(match event {
                Some(event) => Taken::Event(index, event),
                None => Taken::End(index, subscription.end_reason()),
            });
        }
        Poll::Pending
    }

    fn failure(&mut self, filter: &Filter, reason: Option<EndReason>) -> Failure {
        let reason = self.refused.take().or(reason.map(|reason| reason.to_string())).unwrap_or_default();
        Failure::Failed(format!("the subscription to {filter} ended: {reason}"))
    }

    /// Says goodbye; who does not hear it in a second will notice.
    async fn close(self) {
        drop(self.subscriptions);
        let _ = tokio::time::timeout(Duration::from_secs(1), self.client.drain()).await;
    }
}

async fn is_ready<F: Future + Unpin>(future: &mut F) -> bool {
    poll_fn(|cx| Poll::Ready(Pin::new(&mut *future).poll(cx).is_ready())).await
}

/// Resolves with the first signal. A stdout that takes nothing blocks this process's main thread, so the end is not
/// left to it alone.
fn stop_signal() -> Result<tokio::sync::oneshot::Receiver<()>, Failure> {
    let mut signals = Signals::catch().map_err(|error| Failure::Failed(format!("signals: {error}")))?;
    let (stop, stopped) = tokio::sync::oneshot::channel();
    tokio::spawn(async move {
        signals.recv().await;
        let _ = stop.send(());
        tokio::time::sleep(LAST_FLUSH).await;
        std::process::exit(1);
    });
    Ok(stopped)
}

/// `--from` as it was written; `since` is counted back from when the subscription is made.
#[derive(Debug, Clone)]
enum FromArgument {
    At(Start),
    Ago(Duration),
}

impl FromArgument {
    fn at(&self, now: SystemTime) -> Start {
        match self {
            Self::At(start) => start.clone(),
            Self::Ago(ago) => {
                let since = now.checked_sub(*ago).and_then(|since| since.duration_since(UNIX_EPOCH).ok());
                Start::Since(since.map_or(0, |since| since.as_millis() as u64))
            }
        }
    }
}

fn start(text: &str) -> Result<FromArgument, String> {
    let wanted = "not live, beginning, last:N, since:DURATION or [STREAM:]EPOCH:OFFSET";
    Ok(FromArgument::At(match text.split_once(':') {
        None if text == "live" => Start::Live,
        None if text == "beginning" => Start::Beginning,
        None => return Err(wanted.into()),
        Some(("last", n)) => match n.parse() {
            Ok(n) if n > 0 => Start::Last { n, at: None },
            _ => return Err(format!("last: {n:?} is not a number of messages")),
        },
        Some(("since", ago)) => {
            return duration(ago).map(FromArgument::Ago).map_err(|why| format!("since: {why}"));
        }
        Some(_) => {
            Start::Positions(text.split(',').map(position).collect::<Result<_, _>>().map_err(|()| wanted)?)
        }
    }))
}

fn position(text: &str) -> Result<Position, ()> {
    let (rest, offset) = text.rsplit_once(':').ok_or(())?;
    let (stream, epoch) = match rest.rsplit_once(':') {
        Some((stream, epoch)) => (Some(stream.into()), epoch),
        None => (None, rest),
    };
    Ok(Position { stream, epoch: epoch.parse().map_err(drop)?, offset: offset.parse().map_err(drop)? })
}

fn filter(text: &str) -> Result<Filter, String> {
    Filter::parse(text).map_err(|error| error.to_string())
}

fn overflow(text: &str) -> Result<Overflow, String> {
    Ok(match text {
        "catch_up" => Overflow::CatchUp,
        "drop_oldest" => Overflow::DropOldest,
        "drop_newest" => Overflow::DropNewest,
        "latest" => Overflow::Latest,
        "disconnect" => Overflow::Disconnect,
        _ => return Err("not catch_up, drop_oldest, drop_newest, latest or disconnect".into()),
    })
}

fn duration(text: &str) -> Result<Duration, String> {
    parse_duration(text).ok_or_else(|| format!("{text:?} is not {A_DURATION}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_of_start_is_read() {
        let now = UNIX_EPOCH + Duration::from_millis(1_790_000_030_000);
        let from = |text: &str| start(text).map(|from| from.at(now));
        assert_eq!(from("live"), Ok(Start::Live));
        assert_eq!(from("beginning"), Ok(Start::Beginning));
        assert_eq!(from("last:20"), Ok(Start::Last { n: 20, at: None }));
        assert_eq!(from("since:30s"), Ok(Start::Since(1_790_000_000_000)));
        let epoch = "0000000000008f3a".parse().unwrap();
        assert_eq!(
            from("0000000000008f3a:41,orders:0000000000008f3a:7"),
            Ok(Start::Positions(vec![
                Position { stream: None, epoch, offset: 41 },
                Position { stream: Some("orders".into()), epoch, offset: 7 },
            ]))
        );
        for bad in
            ["", "now", "last:", "last:0", "last:x", "since:", "since:30", "8f3a:1", "0000000000008f3a:"]
        {
            assert!(from(bad).is_err(), "{bad:?}");
        }
    }
}
