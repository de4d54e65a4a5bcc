//! An echo server over the broker's own `http::serve` and `Connection`: one thread for the HTTP side, one for a `mio`
//! loop with every upgraded socket, as a shard has it. The example `conformance_echo` and the tests share it.
//!
//! To extend it: what a connection does with a message is the closure in [`Peer::on_readable`].

use std::{
    collections::HashMap,
    io,
    net::TcpListener,
    ops::ControlFlow,
    rc::Rc,
    sync::{Arc, mpsc},
    thread,
    time::{Duration, Instant},
};

use mio::{Events, Interest, Poll, Token, Waker, event::Event};
use tidegate::{
    admission::Admissions,
    connection::{Connection, Taken, Then},
    http::{self, Origins, Site, Upgraded},
    websocket::{Kind, ReaderLimits, writer::push_frame},
};

/// How long a closing handshake may take.
pub const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// Upgrades that wait for the loop; beyond them the HTTP side waits.
const UPGRADED: usize = 1024;
const WAKE: Token = Token(usize::MAX);
/// Echoes that wait before a peer is read no further, in bytes.
const BUDGET: usize = 256 * 1024;

/// Echoes until the process ends.
pub fn serve(listener: TcpListener, limits: ReaderLimits) -> io::Result<()> {
    let mut poll = Poll::new()?;
    let waker = Arc::new(Waker::new(poll.registry(), WAKE)?);
    let (upgraded, arrivals) = mpsc::sync_channel(UPGRADED);
    thread::spawn(move || {
        accept(listener, move |socket| upgraded.send(socket).is_ok() && waker.wake().is_ok())
    });

    let mut events = Events::with_capacity(1024);
    let mut peers: HashMap<Token, Peer> = HashMap::new();
    let mut next = 0;
    let mut scratch = vec![0; 64 * 1024];
    loop {
        // A socket that says no goodbye, or has more to read, is looked at without an event.
        let timeout = if peers.values().any(Peer::is_hungry) {
            Some(Duration::ZERO)
        } else {
            let closing = peers.values().any(|peer| peer.connection.closing_since().is_some());
            closing.then_some(CLOSE_TIMEOUT / 10)
        };
        match poll.poll(&mut events, timeout) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            polled => polled?,
        }
        let now = Instant::now();
        for event in &events {
            if let Some(peer) = peers.get_mut(&event.token()) {
                peer.on_event(event);
            }
        }
        for socket in arrivals.try_iter() {
            let stream = mio::net::TcpStream::from_std(socket.stream);
            let mut peer = Peer::new(Connection::new(stream, socket.leftover, now));
            let interest = Interest::READABLE | Interest::WRITABLE;
            poll.registry().register(peer.connection.stream(), Token(next), interest)?;
            peers.insert(Token(next), peer);
            next += 1;
        }
        peers.retain(|_, peer| {
            peer.turn(&mut scratch, &limits, now);
            !peer.connection.is_done(now, CLOSE_TIMEOUT)
        });
    }
}

/// Accepts and upgrades until `take` has had enough.
fn accept(listener: TcpListener, take: impl Fn(Upgraded) -> bool + 'static) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let site = Rc::new(Site {
        origins: Origins::new(&[], true).expect("no origins"),
        handshake_timeout: Duration::from_secs(60),
        ready: Box::new(|| true),
        metrics: Box::new(String::new),
        admit: Box::new(|| Admissions::new(1).admit().ok_or_else(String::new)),
        api: None,
        demo: false,
    });
    let take = Rc::new(take);
    tokio::task::LocalSet::new().block_on(&runtime, async {
        listener.set_nonblocking(true).expect("a non-blocking listener");
        let listener = tokio::net::TcpListener::from_std(listener).expect("a listener");
        while let Ok((stream, peer)) = listener.accept().await {
            let _ = stream.set_nodelay(true);
            let (site, take) = (Rc::clone(&site), Rc::clone(&take));
            tokio::task::spawn_local(async move {
                if let Some(upgraded) = http::serve(stream, http::Begun::now(peer), site, ()).await {
                    take(upgraded);
                }
            });
        }
    });
}

/// One socket and the echoes that wait for it.
struct Peer {
    connection: Connection,
    /// Whole messages, not yet begun by the kernel.
    waiting: Vec<u8>,
    /// Whether there may be something to read; no event will tell again.
    readable: bool,
    writable: bool,
}

impl Peer {
    fn new(connection: Connection) -> Self {
        Self { connection, waiting: Vec::new(), readable: true, writable: true }
    }

    fn on_event(&mut self, event: &Event) {
        self.readable |= event.is_readable();
        self.writable |= event.is_writable();
        if event.is_read_closed() {
            self.connection.on_read_closed();
        }
    }

    /// Reads what there is and writes what it may, as one tick of a shard does.
    fn turn(&mut self, scratch: &mut [u8], limits: &ReaderLimits, now: Instant) {
        if self.is_hungry() {
            self.on_readable(scratch, limits, now);
        }
        if self.writable && (self.connection.has_pending() || !self.waiting.is_empty()) {
            self.on_writable(now);
        }
    }

    /// Whether it is to be read. A peer that does not take its echoes is not, until it says goodbye.
    fn is_hungry(&self) -> bool {
        let held_up = !self.waiting.is_empty() || self.connection.has_pending();
        self.readable && !(held_up && self.connection.is_open())
    }

    fn on_readable(&mut self, scratch: &mut [u8], limits: &ReaderLimits, now: Instant) {
        let waiting = &mut self.waiting;
        let filled = self.connection.fill(scratch, now);
        let input = &mut scratch[..filled.bytes];
        let taken = self.connection.take(input, limits, now, &mut |kind: Kind, data: &mut [u8]| {
            push_frame(waiting, kind.into(), data);
            if waiting.len() < BUDGET { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        });
        self.readable = match taken {
            Taken::Broke(used) => {
                self.connection.keep(&input[used..]);
                true
            }
            Taken::All | Taken::Ended(_) => matches!(filled.then, Then::More),
        };
    }

    fn on_writable(&mut self, now: Instant) {
        let Ok(written) = self.connection.write(&self.waiting, now) else { return };
        self.writable = !written.blocked;
        if written.taken > 0 {
            // What the kernel has begun must be finished; here that is all of it, for nothing is ever dropped.
            self.connection.keep_partial(&self.waiting[written.taken..]);
            self.waiting = Vec::new();
        }
    }
}
