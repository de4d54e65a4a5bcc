//! Binds, starts the shards, hands them what it accepts, and brings them to an end.

use std::{
    cell::Cell,
    io,
    net::{SocketAddr, TcpListener, TcpStream},
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread,
    time::Instant,
};

use tidegate_protocol::Epoch;
use tokio::{
    sync::{mpsc, oneshot},
    task::LocalSet,
};

use crate::{
    admission::{Admission, Admissions},
    config::Config,
    engine::memory::Memory,
    http::{
        self, Begun, Origins, Site,
        api::{self, Api},
    },
    hub::Hub,
    metrics::Metrics,
    shard::{
        self, Order, Parts, Shard,
        accept::{Front, Turns},
        inbox::Inbox,
    },
};

/// Why the broker could not start, or had to stop.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// The address cannot be listened on.
    #[error("server.listen: cannot listen on {address}: {source}")]
    Bind {
        /// As configured.
        address: SocketAddr,
        /// The kernel's reason.
        source: io::Error,
    },
    /// A browser origin that is none.
    #[error("server.allowed_origins: {0}")]
    Origins(String),
    /// The kernel refused something a shard needs.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// A shard ended before it was told to.
    #[error("a shard ended: {0}")]
    Shard(String),
}

/// A broker inside a process of your own.
///
/// ```
/// use tidegate::{config::Config, server::Server};
///
/// let mut config = Config::default();
/// config.server.listen = "127.0.0.1:0".parse()?;
/// let server = Server::start(config)?;
/// println!("clients connect to {}", server.url());
/// server.stop()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Server {
    address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<thread::JoinHandle<Result<(), ServerError>>>,
}

impl Server {
    /// Starts a broker on threads of its own.
    ///
    /// # Errors
    ///
    /// The address cannot be listened on, or the kernel gives no thread.
    pub fn start(config: Config) -> Result<Self, ServerError> {
        let listener = bind(&config)?;
        let address = listener.local_addr()?;
        let (stop, stopped) = oneshot::channel();
        let thread = thread::Builder::new().name("tidegate".into()).spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(run(listener, config, async move {
                // A dropped handle stops it too.
                let _ = stopped.await;
            }))
        })?;
        Ok(Self { address, stop: Some(stop), thread: Some(thread) })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What clients connect to.
    pub fn url(&self) -> String {
        format!("ws://{}/ws", self.address)
    }

    /// Drains and stops it, and waits until it has.
    ///
    /// # Errors
    ///
    /// A shard had failed.
    pub fn stop(mut self) -> Result<(), ServerError> {
        self.end()
    }

    fn end(&mut self) -> Result<(), ServerError> {
        drop(self.stop.take());
        match self.thread.take().map(thread::JoinHandle::join) {
            Some(Ok(result)) => result,
            Some(Err(_)) => Err(ServerError::Shard("it panicked".into())),
            None => Ok(()),
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Err(error) = self.end() {
            tracing::error!(%error, "broker ended");
        }
    }
}

/// Opens the listening socket.
///
/// # Errors
///
/// The address is in use, not this machine's, or not allowed.
pub fn bind(config: &Config) -> Result<TcpListener, ServerError> {
    let address = config.server.listen;
    open(address).map_err(|source| ServerError::Bind { address, source })
}

fn open(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = socket2::Socket::new(
        socket2::Domain::for_address(address),
        socket2::Type::STREAM,
        Some(socket2::Protocol::TCP),
    )?;
    // A restart must not wait for old connections' TIME_WAIT; two listeners on one port stay impossible.
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

/// Connections the kernel holds until they are accepted: a reconnect storm must not be answered with resets.
const BACKLOG: i32 = 4096;
/// Connections that are not WebSockets (yet), over all shards; beyond it nothing is accepted until one is done, which
/// takes `handshake_timeout` at the most.
const HTTP_CONNECTIONS: usize = 4096;
/// Orders on their way to one shard.
const ORDERS: usize = 256;

/// Serves until `shutdown` resolves, then drains.
///
/// # Errors
///
/// A shard could not start, or failed.
pub async fn run(
    listener: TcpListener,
    config: Config,
    shutdown: impl Future<Output = ()>,
) -> Result<(), ServerError> {
    raise_open_files(config.server.max_connections);
    listener.set_nonblocking(true)?;
    // What is accepted has these from the listener.
    shard::set_options(&listener)?;
    let loopback = listener.local_addr()?.ip().is_loopback();
    Origins::new(&config.server.allowed_origins, loopback).map_err(ServerError::Origins)?;
    let config = Arc::new(config);
    let count = config.server.shard_count();
    let inboxes: Box<[_]> =
        (0..count).map(|_| Arc::new(Inbox::new(config.memory.shard_queue_messages))).collect();
    let hub = Arc::new(Hub::new(&config, inboxes.clone(), Box::new(Memory), random_epoch));
    let shared = Arc::new(Shared {
        metrics: Metrics::new(count, config.memory.outbox_bytes, config.memory.connection_bytes),
        admissions: Admissions::new(config.server.max_connections),
        ready: AtomicBool::new(true),
        loopback,
        api: Arc::new(api::Shared::new(&config)),
        hub,
        config,
    });
    let (failed, mut failure) = mpsc::channel(count);
    let (orders, ordered): (Vec<_>, Vec<_>) = (0..count).map(|_| mpsc::channel(ORDERS)).unzip();
    let turns = Arc::new(Turns::new(orders.iter().cloned().zip(inboxes.iter().cloned())));
    let mut threads = Vec::with_capacity(count);
    for (number, (inbox, ordered)) in inboxes.iter().zip(ordered).enumerate() {
        let parts = Parts {
            number,
            shards: count,
            config: shared.config.clone(),
            hub: shared.hub.clone(),
            inbox: inbox.clone(),
            metrics: shared.metrics.shard(number),
        };
        let front = (listener.try_clone()?, turns.clone(), orders[number].clone());
        threads.push(start_shard(parts, shared.clone(), front, ordered, failed.clone())?);
    }
    drop((failed, listener, turns));
    tokio::pin!(shutdown);
    let mut result = tokio::select! {
        () = &mut shutdown => Ok(()),
        Some(failure) = failure.recv() => Err(failure),
    };
    shared.ready.store(false, Relaxed);
    let deadline = Instant::now() + shared.config.server.drain_timeout;
    for (orders, inbox) in orders.iter().zip(&inboxes) {
        // A shard that has failed takes no order; its error is told below.
        let _ = orders.send(Order::Drain { deadline }).await;
        inbox.wake();
    }
    for thread in threads {
        // It ends by itself once drained; waiting for the thread is waiting for its deadline at the most.
        if tokio::task::spawn_blocking(move || thread.join()).await.is_ok_and(|joined| joined.is_err()) {
            result = result.and(Err(ServerError::Shard("it panicked".into())));
        }
    }
    result
}

/// What all threads read.
struct Shared {
    config: Arc<Config>,
    hub: Arc<Hub>,
    metrics: Metrics,
    admissions: Arc<Admissions>,
    ready: AtomicBool,
    loopback: bool,
    api: Arc<api::Shared>,
}

/// Starts a shard's thread.
fn start_shard(
    parts: Parts,
    shared: Arc<Shared>,
    (listener, turns, orders): (TcpListener, Arc<Turns>, mpsc::Sender<Order>),
    ordered: mpsc::Receiver<Order>,
    failed: mpsc::Sender<ServerError>,
) -> Result<thread::JoinHandle<()>, ServerError> {
    let thread = thread::Builder::new().name(format!("tidegate-{}", parts.number)).spawn(move || {
        let serve = || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let local = LocalSet::new();
            local.block_on(&runtime, async move {
                let max_serving = HTTP_CONNECTIONS.div_ceil(parts.shards);
                let mut shard = Shard::new(parts)?;
                let site = site(&shared, &orders)?;
                let (serving, tasks) = (Rc::new(Cell::new(0)), Rc::new(Cell::new(0)));
                let serve = serve_http(site.clone(), orders, serving.clone(), tasks.clone());
                shard.listen(Front { listener, turns, site, serving, max_serving, tasks, serve })?;
                shard.run(ordered).await
            })
        };
        if let Err(error) = serve() {
            // Nobody listens once the server is ending.
            let _ = failed.blocking_send(ServerError::Io(error));
        }
    })?;
    Ok(thread)
}

fn site(shared: &Arc<Shared>, orders: &mpsc::Sender<Order>) -> io::Result<Rc<Site>> {
    let config = &shared.config;
    let origins = Origins::new(&config.server.allowed_origins, shared.loopback).map_err(io::Error::other)?;
    let (ready, metrics, admit) = (shared.clone(), shared.clone(), shared.clone());
    Ok(Rc::new(Site {
        origins,
        handshake_timeout: config.websocket.handshake_timeout,
        ready: Box::new(move || ready.ready.load(Relaxed)),
        metrics: Box::new(move || metrics.metrics.render(&metrics.hub, metrics.api.bodies())),
        admit: Box::new(move || admit.admit()),
        api: Some(Api::new(config.clone(), shared.hub.clone(), orders.clone(), shared.api.clone())),
        demo: config.demo,
    }))
}

/// Serves HTTP on a shard's thread, and gives what becomes a WebSocket to the shard.
fn serve_http(
    site: Rc<Site>,
    orders: mpsc::Sender<Order>,
    serving: Rc<Cell<usize>>,
    tasks: Rc<Cell<usize>>,
) -> Box<dyn FnMut(TcpStream, Begun)> {
    Box::new(move |stream, begun| {
        let (site, orders, slot) = (site.clone(), orders.clone(), Slot::take(&serving));
        let task = Slot::take(&tasks);
        tokio::task::spawn_local(async move {
            let _task = task;
            if let Ok(stream) = tokio::net::TcpStream::from_std(stream)
                && let Some(upgraded) = http::serve(stream, begun, site, slot).await
            {
                // The shard is gone only at the very end.
                let _ = orders.send(Order::Adopt(upgraded)).await;
            }
        });
    })
}

/// A place among a shard's HTTP connections, or their tasks.
struct Slot(Rc<Cell<usize>>);

impl Slot {
    fn take(serving: &Rc<Cell<usize>>) -> Self {
        serving.set(serving.get() + 1);
        Self(serving.clone())
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

impl Shared {
    /// Takes a place for one more connection, where it is welcome.
    fn admit(&self) -> Result<Admission, String> {
        if !self.ready.load(Relaxed) {
            return Err("the broker is going".into());
        }
        if self.metrics.buffer_bytes() >= self.config.memory.connection_bytes {
            return Err("memory.connection_bytes: the budget is spent".into());
        }
        let full = || format!("server.max_connections: {} are connected", self.admissions.most());
        self.admissions.admit().ok_or_else(full)
    }
}

/// Two starts must not share an epoch, or a client would take one log for the other.
fn random_epoch() -> Epoch {
    Epoch(getrandom::u64().unwrap_or_else(|_| fastrand::u64(..)))
}

/// Raises the soft limit of open files as far as `connections` need and the hard limit allows.
fn raise_open_files(connections: usize) {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    // A stream of events holds its socket and both ends of a pair.
    let wanted = 3 * connections as u64 + HTTP_CONNECTIONS as u64 + 64;
    let raised = limit.maximum.map_or(wanted, |most| most.min(wanted));
    if limit.current.is_some_and(|current| current < raised)
        && let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: Some(raised), ..limit })
    {
        tracing::warn!(%error, "the limit of open files could not be raised");
    }
}
