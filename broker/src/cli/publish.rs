//! `tidegate pub`.

use std::{
    collections::VecDeque,
    fmt,
    fs::File,
    future::poll_fn,
    io::{self, BufRead, BufReader, IsTerminal, Read, Write},
    os::fd::AsFd,
    pin::Pin,
    task::Poll,
    thread,
    time::Duration,
};

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use clap::Args;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};
use tidegate_client::{
    Ack, Client, ConnectionEvents, Payload, PayloadError, PendingAck, PublishError, PublishOptions, Topic,
};
use tokio::sync::mpsc;

use super::{
    Failure,
    connection::{self, Connection, runtime},
    signals::Signals,
};

/// Publish a message, all of stdin as one, or each line of stdin as one
///
/// What is not acknowledged when the connection is lost goes again once it is back, in order, and is not doubled.
#[derive(Debug, Args)]
#[command(
    after_help = "Exit codes: 0 every message was acknowledged; 1 one was not, or there was no connection; \
                        2 a mistake in the flags.\n\n\
                        seq 1 100000 | tidegate pub numbers.test --lines"
)]
pub(super) struct Publish {
    /// Where to, such as `chat.room1`
    #[arg(value_parser = topic)]
    topic: Topic,

    /// The message; without it all of stdin is one message, its last line break too
    #[arg(conflicts_with = "lines")]
    payload: Option<String>,

    #[command(flatten)]
    connection: Connection,

    /// The payload is one JSON value
    #[arg(long, conflicts_with = "binary")]
    json: bool,

    /// The payload is bytes: as they are from stdin, as base64 in PAYLOAD
    #[arg(long)]
    binary: bool,

    /// What subscribers with the policy `latest` tell values of one topic apart by
    #[arg(long)]
    key: Option<String>,

    /// A name and a value that travel beside the payload; may be said several times
    #[arg(long = "header", value_name = "NAME=VALUE", value_parser = header)]
    headers: Vec<(String, String)>,

    /// Print where each message stands and how its fan-out went
    #[arg(long)]
    report: bool,

    /// Each line of stdin is a message, without its line break
    #[arg(long)]
    lines: bool,

    /// With --lines: a line is a key, a tab and the payload
    #[arg(long, requires = "lines", conflicts_with = "key")]
    keyed: bool,
}

/// What the broker can be made to take at most (`limits.payload_bytes`): nobody needs to hold more.
const LARGEST_PAYLOAD: u64 = 512 << 20;

/// Lines that are handed over at once.
const BATCH: usize = 256;

impl Publish {
    pub(super) fn run(self) -> Result<(), Failure> {
        let runtime = runtime()?;
        if self.lines {
            return runtime.block_on(self.publish_lines());
        }
        // Read before there is a connection: whoever feeds stdin may take his time.
        let payload = match &self.payload {
            Some(text) => self.payload_of_argument(text)?,
            None => self
                .payload_of_bytes(stdin_whole()?)
                .map_err(|why| Failure::Mistake(format!("stdin: {why}")))?,
        };
        runtime.block_on(self.publish_one(payload))
    }

    async fn publish_one(self, payload: Payload) -> Result<(), Failure> {
        let client = self.connection.connect().await?;
        tokio::spawn(tell(client.events(), ProgressBar::hidden()));
        let options = self.options(self.key.as_deref());
        let ack = client
            .publish_with(self.topic.clone(), payload, options)
            .await
            .map_err(|error| Failure::Failed(format!("not published to {}: {error}", self.topic)))?;
        self.print_report(&ack)?;
        close(&client).await;
        Ok(())
    }

    /// Keeps as many publishes under way as the broker's window has room for, and takes their acks in order.
    async fn publish_lines(self) -> Result<(), Failure> {
        let client = self.connection.connect().await?;
        let mut stop = Signals::catch().map_err(|error| Failure::Failed(format!("signals: {error}")))?;
        let mut batches = read_lines();
        let mut run = Run::new();
        tokio::spawn(tell(client.events(), run.bar.clone()));
        loop {
            let batch = tokio::select! {
                biased;
                () = stop.recv() => {
                    run.stopped = true;
                    break;
                }
                batch = batches.recv() => batch,
                // Pending acks are looked at while stdin is quiet too, so that failures are told at once.
                settled = run.next_ack(), if !run.pending.is_empty() => {
                    self.settle(&mut run, settled)?;
                    continue;
                }
            };
            let Some(batch) = batch else { break };
            for line in batch.map_err(|error| Failure::Failed(format!("stdin: {error}")))? {
                run.read += 1;
                let (key, payload) = self
                    .payload_of_line(line)
                    .map_err(|why| Failure::Failed(format!("stdin: line {}: {why}", run.read)))?;
                let options = self.options(key.as_deref().or(self.key.as_deref()));
                let sent = tokio::select! {
                    biased;
                    sent = client.enqueue_with(self.topic.clone(), payload, options) => sent,
                    () = stop.recv() => return Err(run.incomplete("stopped")),
                };
                match sent {
                    Ok(ack) => run.pending.push_back((run.read, ack)),
                    Err(error) => run.fail(run.read, &error),
                }
            }
            while let Some(settled) = run.ready_ack() {
                self.settle(&mut run, settled)?;
            }
            run.show();
        }
        while !run.pending.is_empty() {
            let settled = tokio::select! {
                biased;
                settled = run.next_ack() => settled,
                // The second signal, or the first once stdin is at its end: enough waited.
                () = stop.recv() => return Err(run.incomplete("stopped")),
            };
            self.settle(&mut run, settled)?;
            run.show();
        }
        run.bar.finish_and_clear();
        close(&client).await;
        match (run.failed, run.stopped) {
            (0, false) => Ok(()),
            (0, true) => Err(run.incomplete("stopped before the end of stdin")),
            _ => Err(run.incomplete("some were refused")),
        }
    }

    fn settle(
        &self,
        run: &mut Run,
        (line, settled): (u64, Result<Ack, PublishError>),
    ) -> Result<(), Failure> {
        match settled {
            Ok(ack) => {
                run.acknowledged += 1;
                self.print_report(&ack)
            }
            Err(error) => {
                run.fail(line, &error);
                Ok(())
            }
        }
    }

    fn payload_of_argument(&self, text: &str) -> Result<Payload, Failure> {
        let payload = if self.binary {
            BASE64.decode(text).map(Payload::binary).map_err(|error| format!("not base64: {error}"))
        } else {
            self.payload_of_bytes(text.as_bytes().to_vec())
        };
        payload.map_err(|why| Failure::Mistake(format!("PAYLOAD: {why}")))
    }

    fn payload_of_line(&self, mut line: Vec<u8>) -> Result<(Option<String>, Payload), String> {
        let mut key = None;
        if self.keyed {
            let tab = line.iter().position(|&byte| byte == b'\t').ok_or("no tab after the key")?;
            let payload = line.split_off(tab + 1);
            line.truncate(tab);
            key = Some(String::from_utf8(line).map_err(|_| "the key is not UTF-8")?);
            line = payload;
        }
        Ok((key, self.payload_of_bytes(line)?))
    }

    fn payload_of_bytes(&self, bytes: Vec<u8>) -> Result<Payload, String> {
        if self.binary {
            return Ok(Payload::from(bytes));
        }
        if self.json {
            return Payload::json(&bytes).map_err(|error| error.to_string());
        }
        String::from_utf8(bytes).map(Payload::text).map_err(|_| PayloadError::Utf8.to_string())
    }

    fn options(&self, key: Option<&str>) -> PublishOptions {
        let mut options = PublishOptions::new().report(self.report);
        if let Some(key) = key {
            options = options.key(key);
        }
        for (name, value) in &self.headers {
            options = options.header(name.as_str(), value.as_str());
        }
        options
    }

    /// One line: the position as `sub --from` takes it, then what the broker said of the fan-out.
    fn print_report(&self, ack: &Ack) -> Result<(), Failure> {
        if !self.report {
            return Ok(());
        }
        let mut line = match &ack.position {
            Some(position) => {
                let stream = position.stream.as_ref().map(|stream| format!("{stream}:")).unwrap_or_default();
                format!("{stream}{}:{}", position.epoch, position.offset)
            }
            None => "live only".into(),
        };
        if ack.duplicate {
            line.push_str(" duplicate");
        }
        if let Some(report) = &ack.report {
            line.push_str(&format!(
                " matched={} queued={} merged={} dropped={} behind={}",
                report.matched, report.queued, report.merged, report.dropped, report.behind
            ));
            if report.partial {
                line.push_str(" partial");
            }
        }
        line.push('\n');
        super::print(&line)
    }
}

/// How far `--lines` has come.
struct Run {
    /// In order, with the lines' numbers. As many as the publish window takes, and those settled since it was last
    /// looked at.
    pending: VecDeque<(u64, PendingAck)>,
    read: u64,
    acknowledged: u64,
    failed: u64,
    /// By a signal, before stdin was at its end.
    stopped: bool,
    bar: ProgressBar,
}

impl Run {
    fn new() -> Self {
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::hidden());
        if io::stderr().is_terminal() {
            bar.set_draw_target(ProgressDrawTarget::stderr());
            let template = "{spinner} {human_pos} acknowledged, {rate}, {elapsed} {msg}";
            if let Ok(style) = ProgressStyle::with_template(template) {
                bar.set_style(style.with_key("rate", |state: &ProgressState, out: &mut dyn fmt::Write| {
                    // The bar has no way to report that it cannot be drawn.
                    let _ = write!(out, "{:.0}/s", state.per_sec());
                }));
            }
        }
        Self { pending: VecDeque::new(), read: 0, acknowledged: 0, failed: 0, stopped: false, bar }
    }

    /// The oldest ack, once it is there.
    async fn next_ack(&mut self) -> (u64, Result<Ack, PublishError>) {
        poll_fn(|cx| match self.pending.front_mut() {
            Some((_, ack)) => Pin::new(ack).poll(cx).map(|settled| self.take_front(settled)),
            None => Poll::Pending,
        })
        .await
    }

    /// The oldest ack, if it is there already.
    fn ready_ack(&mut self) -> Option<(u64, Result<Ack, PublishError>)> {
        let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
        match Pin::new(&mut self.pending.front_mut()?.1).poll(&mut cx) {
            Poll::Ready(settled) => Some(self.take_front(settled)),
            Poll::Pending => None,
        }
    }

    fn take_front(&mut self, settled: Result<Ack, PublishError>) -> (u64, Result<Ack, PublishError>) {
        let line = self.pending.pop_front().map_or(0, |(line, _)| line);
        (line, settled)
    }

    fn fail(&mut self, line: u64, error: &PublishError) {
        self.failed += 1;
        self.bar.suspend(|| say(&format!("tidegate: stdin: line {line}: {error}")));
    }

    fn show(&self) {
        self.bar.set_position(self.acknowledged);
        if self.failed > 0 {
            self.bar.set_message(format!("{} failed", self.failed));
        }
    }

    fn incomplete(&self, why: &str) -> Failure {
        self.bar.finish_and_clear();
        Failure::Failed(format!("{} of {} messages were acknowledged: {why}", self.acknowledged, self.read))
    }
}

/// Says why nothing moves while the connection is away.
async fn tell(mut events: ConnectionEvents, bar: ProgressBar) {
    while let Some(event) = events.recv().await {
        if let Some(text) = connection::notice(&event) {
            bar.suspend(|| say(&text));
        }
    }
}

/// Nobody can be told that stderr is gone.
fn say(text: &str) {
    let _ = writeln!(io::stderr(), "{text}");
}

/// Everything is acknowledged: what may still go wrong while the connection is closed is no failure of it.
async fn close(client: &Client) {
    let _ = tokio::time::timeout(Duration::from_secs(1), client.drain()).await;
}

fn stdin_whole() -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    io::stdin()
        .lock()
        .take(LARGEST_PAYLOAD + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| Failure::Failed(format!("stdin: {error}")))?;
    if bytes.len() as u64 > LARGEST_PAYLOAD {
        return Err(Failure::Mistake(format!("stdin: more than {LARGEST_PAYLOAD} bytes")));
    }
    Ok(bytes)
}

type Batch = io::Result<Vec<Vec<u8>>>;

/// Reads stdin on a thread of its own, since nothing else can wait for a pipe and for the broker. A line is handed
/// over before the thread would wait for the next.
fn read_lines() -> mpsc::Receiver<Batch> {
    let (sender, receiver) = mpsc::channel(4);
    thread::spawn(move || {
        if let Err(error) = send_lines(&sender) {
            // Nobody listens any more: nothing is lost.
            let _ = sender.blocking_send(Err(error));
        }
    });
    receiver
}

fn send_lines(sender: &mpsc::Sender<Batch>) -> io::Result<()> {
    // `Stdin` does not tell whether its buffer is empty.
    let stdin = File::from(io::stdin().as_fd().try_clone_to_owned()?);
    let mut reader = BufReader::with_capacity(64 << 10, stdin);
    let mut batch = Vec::new();
    while let Some(line) = read_line(&mut reader)? {
        batch.push(line);
        let is_last_for_now = !reader.buffer().contains(&b'\n');
        if (batch.len() == BATCH || is_last_for_now)
            && sender.blocking_send(Ok(std::mem::take(&mut batch))).is_err()
        {
            return Ok(());
        }
    }
    Ok(())
}

/// A line without its break, which may be LF or CR LF; the last need not have one.
fn read_line(reader: &mut impl BufRead) -> io::Result<Option<Vec<u8>>> {
    let mut line = Vec::new();
    if reader.take(LARGEST_PAYLOAD + 2).read_until(b'\n', &mut line)? == 0 {
        return Ok(None);
    }
    if line.ends_with(b"\n") {
        line.pop();
        if line.ends_with(b"\r") {
            line.pop();
        }
    } else if line.len() as u64 > LARGEST_PAYLOAD {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("a line of more than {LARGEST_PAYLOAD} bytes"),
        ));
    }
    Ok(Some(line))
}

pub(super) fn topic(text: &str) -> Result<Topic, String> {
    let topic = Topic::parse(text).map_err(|error| error.to_string())?;
    if topic.is_reserved() {
        return Err("what starts with $ is the broker's own".into());
    }
    Ok(topic)
}

fn header(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("not NAME=VALUE".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(input: &[u8]) -> Vec<Vec<u8>> {
        let mut reader = BufReader::with_capacity(3, input);
        std::iter::from_fn(|| read_line(&mut reader).unwrap()).collect()
    }

    #[test]
    fn a_line_is_what_stands_between_breaks_and_the_last_needs_none() {
        assert_eq!(lines(b""), Vec::<Vec<u8>>::new());
        assert_eq!(lines(b"a\n\nlonger\r\nend"), [&b"a"[..], b"", b"longer", b"end"]);
        assert_eq!(lines(b"a\r"), [b"a\r"]);
        assert_eq!(lines(b"\n"), [b""]);
    }

    #[test]
    fn a_header_has_a_name() {
        assert_eq!(header("a=b=c"), Ok(("a".into(), "b=c".into())));
        assert_eq!(header("a="), Ok(("a".into(), String::new())));
        assert!(header("=b").is_err() && header("a").is_err());
    }
}
