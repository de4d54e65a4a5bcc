//! The one task that owns the connection. It moves bytes, frames and commands; what they mean is the session's.

use std::{
    future::poll_fn,
    pin::{Pin, pin},
    sync::{Arc, atomic::AtomicU64},
    task::{Context, Poll},
    time::{Duration, Instant},
};

use tidegate_protocol::{Codec, limits::BURST_BYTES};
use tokio::{
    sync::{broadcast, mpsc, oneshot, watch},
    time::{self, Sleep},
};

use crate::{
    client::Handle,
    command::{Command, SubKey},
    error::{ConnectError, ConnectErrorKind},
    event::{ConnectionState, EVENT_CAPACITY},
    options::{Dial, Options},
    session::{Closed, Ending, Next, Outlets, Session, Settings},
    stats::Counters,
    transport::{Incoming, Target, Transport},
    window::Window,
};

/// Commands on their way to the driver. Publishes are bounded by the window already; this bounds the others.
const COMMANDS: usize = 1024;

/// Commands taken at once: more would only delay the reads.
const COMMAND_BATCH: usize = 256;

/// WebSocket messages read, or written, before the other side of the loop has its turn.
const IO_BATCH: usize = 32;

/// How long the broker's close frame is waited for.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// Connects, and leaves a task behind that stays until the client is drained or its last handle is gone.
pub(crate) async fn start(options: Options, url: &str) -> Result<Arc<Handle>, ConnectError> {
    let target = Target::parse(url, options.codec, options.max_message_bytes)?;
    let (commands, command_receiver) = mpsc::channel(COMMANDS);
    #[expect(
        clippy::disallowed_methods,
        reason = "holds each subscription at most once, see Handle::attention"
    )]
    let (attention, attention_receiver) = mpsc::unbounded_channel();
    let (events, _) = broadcast::channel(EVENT_CAPACITY);
    let (state, state_receiver) = watch::channel(ConnectionState::Connecting);
    let (counters, window) = (Arc::<Counters>::default(), Arc::new(Window::new()));
    let (ready, connected) = oneshot::channel();

    let settings = Settings {
        codec: options.codec,
        client_name: options.client_name,
        token: options.token,
        instance: options.instance.unwrap_or_else(|| format!("{:016x}{:016x}", random(), random())),
        key_prefix: format!("{:08x}", random() as u32),
        connect_timeout: options.connect_timeout,
        drain_timeout: options.drain_timeout,
        seed: random(),
    };
    let outlets =
        Outlets { events: events.clone(), state, counters: counters.clone(), window: window.clone() };
    let driver = Driver {
        session: Session::new(settings, outlets, ready),
        codec: options.codec,
        commands: command_receiver,
        batch: Vec::with_capacity(COMMAND_BATCH),
        handles_gone: false,
        attention: attention_receiver,
        alarm: Alarm { sleep: Box::pin(time::sleep(Duration::ZERO)), at: None },
        target,
        dial: options.dial,
        connect_timeout: options.connect_timeout,
    };
    tokio::spawn(driver.run());

    let handle = Handle {
        commands,
        attention,
        window,
        events,
        state: state_receiver,
        counters,
        keys: AtomicU64::new(0),
    };
    // The driver goes without a word only with its runtime.
    connected.await.unwrap_or_else(|_| Err(ConnectError::new(ConnectErrorKind::Timeout)))?;
    Ok(Arc::new(handle))
}

fn random() -> u64 {
    // The system's source does not fail on systems that have one; if it does, uniqueness is all that is asked for.
    getrandom::u64().unwrap_or_else(|_| fastrand::u64(..))
}

struct Driver {
    session: Session,
    codec: Codec,
    commands: mpsc::Receiver<Command>,
    batch: Vec<Command>,
    handles_gone: bool,
    attention: mpsc::UnboundedReceiver<SubKey>,
    alarm: Alarm,
    target: Target,
    dial: Option<Dial>,
    connect_timeout: Duration,
}

/// One timer, set to what the session waits for.
struct Alarm {
    sleep: Pin<Box<Sleep>>,
    at: Option<Instant>,
}

impl Driver {
    async fn run(mut self) {
        loop {
            let next = match self.open().await {
                Some(Ok(transport)) => {
                    self.session.on_open(now());
                    let closed = self.drive(transport).await;
                    self.session.on_closed(closed, now())
                }
                Some(Err(error)) => {
                    let status = match error.kind() {
                        ConnectErrorKind::Handshake(status) => status,
                        _ => None,
                    };
                    // Who is not let in is not let in by asking again.
                    let is_final = matches!(status, Some(401 | 403));
                    self.session.on_failed_attempt(error, None, is_final)
                }
                None => self.session.stop_drained(),
            };
            self.session.deliver();
            let next = match next {
                Next::Reconnect(delay) => match self.attend_until(time::sleep(delay)).await {
                    Some(()) => continue,
                    None => self.session.stop_drained(),
                },
                Next::Stop => Next::Stop,
            };
            debug_assert_eq!(next, Next::Stop);
            break;
        }
        // What was on its way fails with its reply end, which says the client is closed.
        self.commands.close();
        while let Ok(command) = self.commands.try_recv() {
            self.session.on_command(command, now());
        }
        self.session.stop_drained();
    }

    /// An open WebSocket; none where the client ends meanwhile.
    async fn open(&mut self) -> Option<Result<Transport, ConnectError>> {
        let opening = time::timeout(self.connect_timeout, self.target.clone().open(self.dial.clone()));
        let opened = self.attend_until(opening).await?;
        Some(opened.unwrap_or_else(|_| Err(ConnectError::new(ConnectErrorKind::Timeout))))
    }

    /// Waits without a connection, and serves the handles meanwhile. None where nothing is left to do.
    async fn attend_until<T>(&mut self, until: impl Future<Output = T>) -> Option<T> {
        let mut until = pin!(until);
        poll_fn(|cx| {
            let more = self.poll_handles(cx);
            self.poll_alarm(cx);
            self.session.deliver();
            if self.session.is_drained() {
                return Poll::Ready(None);
            }
            if more {
                cx.waker().wake_by_ref();
            }
            until.as_mut().poll(cx).map(Some)
        })
        .await
    }

    /// Drives one connection to its end.
    async fn drive(&mut self, mut transport: Transport) -> Closed {
        let closed = poll_fn(|cx| self.poll_connection(&mut transport, cx)).await;
        let code = match (closed, self.session.ending()) {
            (Some(closed), _) => return closed,
            (None, Some(Ending::Cut(reason))) => return Closed { code: None, reason: (*reason).into() },
            (None, Some(Ending::Close(code))) => *code,
            (None, None) => return Closed { code: None, reason: "ended".into() },
        };
        let closing = close(&mut transport, code);
        let timed_out = || Closed { code: None, reason: "the close was not answered".into() };
        time::timeout(CLOSE_TIMEOUT, closing).await.unwrap_or_else(|_| timed_out())
    }

    /// Ready once the connection is closed, or (with none) when the session wants it to be.
    ///
    /// Bytes that have come are handed in before the alarm can go off: a busy task must not take a living broker for
    /// a dead one.
    fn poll_connection(&mut self, transport: &mut Transport, cx: &mut Context<'_>) -> Poll<Option<Closed>> {
        let now = now();
        let mut more = match self.poll_read(transport, now, cx) {
            Ok(more) => more,
            Err(closed) => {
                self.session.deliver();
                return Poll::Ready(Some(closed));
            }
        };
        more |= self.poll_handles(cx);
        self.poll_alarm(cx);
        self.session.deliver();
        match self.poll_write(transport, now, cx) {
            Ok(true) => more = true,
            // An end that was asked for waits until everything before it is written; one that was found does not.
            Ok(false) => {}
            Err(closed) => return Poll::Ready(Some(closed)),
        }
        match self.session.ending() {
            Some(Ending::Cut(_)) => return Poll::Ready(None),
            Some(Ending::Close(_)) if !more => return Poll::Ready(None),
            _ => {}
        }
        if more {
            cx.waker().wake_by_ref();
        }
        Poll::Pending
    }

    /// True if more may have come.
    fn poll_read(
        &mut self,
        transport: &mut Transport,
        now: Instant,
        cx: &mut Context<'_>,
    ) -> Result<bool, Closed> {
        for _ in 0..IO_BATCH {
            match transport.poll_read(cx) {
                Poll::Ready(Incoming::Data(bytes)) => {
                    self.session.on_heard(now);
                    for frame in self.codec.decode_server(&bytes) {
                        match frame {
                            Ok(frame) => self.session.on_frame(frame, now),
                            Err(error) => {
                                tracing::warn!(%error, "a frame of the broker could not be read");
                                self.session.on_unreadable(error.fatal);
                            }
                        }
                    }
                }
                Poll::Ready(Incoming::Sign) => self.session.on_heard(now),
                Poll::Ready(Incoming::Closed(closed)) => return Err(closed),
                Poll::Pending => return Ok(false),
            }
        }
        Ok(true)
    }

    /// Writes what the session has, several frames to a WebSocket message. True if there is more that can be written.
    fn poll_write(
        &mut self,
        transport: &mut Transport,
        now: Instant,
        cx: &mut Context<'_>,
    ) -> Result<bool, Closed> {
        let mut more = false;
        let mut carried = Vec::new();
        for written in 0.. {
            // What was carried over is encoded, and counted as sent: it has to go.
            if carried.is_empty() && written >= IO_BATCH {
                more = true;
                break;
            }
            match transport.poll_ready(cx) {
                Poll::Ready(ready) => ready?,
                Poll::Pending if carried.is_empty() => break,
                Poll::Pending => {}
            }
            let frames = self.burst(&mut carried, now);
            if frames.is_empty() {
                break;
            }
            transport.send(frames)?;
        }
        match transport.poll_flush(cx) {
            Poll::Ready(flushed) => flushed?,
            Poll::Pending => {}
        }
        Ok(more)
    }

    /// As many frames as make a WebSocket message of at most [`BURST_BYTES`]; a larger one goes alone. The first one
    /// that does not fit is carried over.
    fn burst(&mut self, carried: &mut Vec<u8>, now: Instant) -> Vec<u8> {
        let mut frames = std::mem::take(carried);
        while frames.len() < BURST_BYTES {
            let end = frames.len();
            if end > 0 {
                frames.extend_from_slice(self.codec.separator());
            }
            let start = frames.len();
            if !self.session.write_frame(&mut frames, now) {
                frames.truncate(end);
                break;
            }
            if end > 0 && frames.len() > BURST_BYTES {
                *carried = frames.split_off(start);
                frames.truncate(end);
                break;
            }
        }
        frames
    }

    /// Takes a batch of what the handles want. True if there may be more.
    fn poll_handles(&mut self, cx: &mut Context<'_>) -> bool {
        let mut more = false;
        if !self.handles_gone {
            match self.commands.poll_recv_many(cx, &mut self.batch, COMMAND_BATCH) {
                Poll::Ready(0) => {
                    self.handles_gone = true;
                    self.session.on_handles_gone(now());
                }
                Poll::Ready(_) => {
                    let now = now();
                    for command in self.batch.drain(..) {
                        self.session.on_command(command, now);
                    }
                    more = true;
                }
                Poll::Pending => {}
            }
        }
        // Each subscription is here at most once.
        while let Poll::Ready(Some(key)) = self.attention.poll_recv(cx) {
            self.session.on_attention(key);
        }
        more
    }

    fn poll_alarm(&mut self, cx: &mut Context<'_>) {
        while let Some(at) = self.session.next_deadline() {
            if self.alarm.at != Some(at) {
                self.alarm.at = Some(at);
                self.alarm.sleep.as_mut().reset(at.into());
            }
            if self.alarm.sleep.as_mut().poll(cx).is_pending() {
                return;
            }
            self.alarm.at = None;
            self.session.on_time(now());
            if self.session.ending().is_some() {
                return;
            }
        }
    }
}

/// Closes in order: what was queued is written, then the close frame, then the broker's is waited for.
async fn close(transport: &mut Transport, code: u16) -> Closed {
    let mut sent = false;
    poll_fn(|cx| {
        if !sent {
            match transport.poll_ready(cx) {
                Poll::Ready(Ok(())) => {
                    sent = true;
                    if let Err(closed) = transport.send_close(code) {
                        return Poll::Ready(closed);
                    }
                }
                Poll::Ready(Err(closed)) => return Poll::Ready(closed),
                Poll::Pending => {}
            }
        }
        if let Poll::Ready(Err(closed)) = transport.poll_flush(cx) {
            return Poll::Ready(closed);
        }
        // Reading goes on, or a broker blocked in writing would never see the close frame.
        loop {
            match transport.poll_read(cx) {
                Poll::Ready(Incoming::Closed(closed)) => return Poll::Ready(closed),
                Poll::Ready(Incoming::Data(_) | Incoming::Sign) => {}
                Poll::Pending => return Poll::Pending,
            }
        }
    })
    .await
}

/// The runtime's clock, which tests can stop.
fn now() -> Instant {
    time::Instant::now().into_std()
}
