//! A TCP proxy that cuts the lines that run through it: at random, on command, or never.
//!
//! # How to use and extend
//!
//! * `Proxy::start(upstream, seed).await` listens on a free port of loopback; clients connect to `proxy.url()`. It
//!   begins calm: it passes on every byte.
//! * `proxy.storm(bytes)`: from now on every line is cut once a random number of bytes, at most so many, went one way
//!   or the other, mid-frame as it comes: half of them with a FIN, half with a RST. Every eighth is cut so early that
//!   the handshake or the first frames are torn. `proxy.calm()` ends it.
//! * `proxy.cut()` cuts every line that is open now. `proxy.hold()` keeps new ones waiting until `proxy.release()`.
//! * `proxy.freeze()` lets nothing through to the clients until `proxy.thaw()`; what they send still gets there.
//! * `proxy.cuts()` is how many lines it has cut.
//! * A new kind of weather is a field of `Weather`: whoever carries bytes sees it change.

// Each test binary has its own copy of this file and uses a part of it.
#![allow(dead_code)]

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use fastrand::Rng;
use socket2::SockRef;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{ReadHalf, WriteHalf},
    },
    sync::watch,
    task::{AbortHandle, JoinSet},
};

pub struct Proxy {
    address: SocketAddr,
    weather: watch::Sender<Weather>,
    cuts: Arc<AtomicU64>,
    accepting: AbortHandle,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Weather {
    /// At most how many bytes go one way before a line is cut.
    storm: Option<u64>,
    /// Grows with every command to cut.
    cut: u64,
    /// New lines wait.
    held: bool,
    /// Nothing gets through to the clients.
    frozen: bool,
}

/// Bytes within which a line is cut that shall not get far: a handshake has some 200 in either direction.
const EARLY: u64 = 600;

impl Proxy {
    pub async fn start(upstream: SocketAddr, seed: u64) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let weather = watch::Sender::new(Weather::default());
        let cuts = Arc::new(AtomicU64::new(0));
        let (sky, counter) = (weather.clone(), cuts.clone());
        let mut rng = Rng::with_seed(seed);
        let accepting = tokio::spawn(async move {
            // They end with the proxy.
            let mut lines = JoinSet::new();
            loop {
                let Ok((client, _)) = listener.accept().await else { return };
                while lines.try_join_next().is_some() {}
                lines.spawn(line(client, upstream, sky.subscribe(), counter.clone(), rng.fork()));
            }
        });
        Self { address, weather, cuts, accepting: accepting.abort_handle() }
    }

    pub fn url(&self) -> String {
        format!("ws://{}/ws", self.address)
    }

    pub fn storm(&self, bytes: u64) {
        self.weather.send_modify(|weather| weather.storm = Some(bytes));
    }

    pub fn calm(&self) {
        self.weather.send_modify(|weather| weather.storm = None);
    }

    pub fn cut(&self) {
        self.weather.send_modify(|weather| weather.cut += 1);
    }

    pub fn hold(&self) {
        self.weather.send_modify(|weather| weather.held = true);
    }

    pub fn release(&self) {
        self.weather.send_modify(|weather| weather.held = false);
    }

    pub fn freeze(&self) {
        self.weather.send_modify(|weather| weather.frozen = true);
    }

    pub fn thaw(&self) {
        self.weather.send_modify(|weather| weather.frozen = false);
    }

    pub fn cuts(&self) -> u64 {
        self.cuts.load(Relaxed)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// How a line ends.
enum End {
    /// One side has closed it, or is gone.
    Closed,
    /// This proxy cuts it.
    Cut,
}

async fn line(
    mut client: TcpStream,
    upstream: SocketAddr,
    mut weather: watch::Receiver<Weather>,
    cuts: Arc<AtomicU64>,
    mut rng: Rng,
) {
    // An error means that the proxy is gone, here and below.
    let Ok(generation) = weather.wait_for(|weather| !weather.held).await.map(|weather| weather.cut) else {
        return;
    };
    // While the broker is away a client is cut off at once, as by a port that nobody listens on.
    let Ok(mut broker) = TcpStream::connect(upstream).await else { return };
    let no_delay = || client.set_nodelay(true).and(broker.set_nodelay(true));
    if no_delay().is_err() {
        return;
    }
    let end = {
        let (from_client, to_client) = client.split();
        let (from_broker, to_broker) = broker.split();
        let (up, down) = (weather.clone(), weather.clone());
        tokio::select! {
            end = carry(from_client, to_broker, up, |_| false, rng.fork()) => end,
            end = carry(from_broker, to_client, down, |weather| weather.frozen, rng.fork()) => end,
            _ = weather.wait_for(|weather| weather.cut != generation) => End::Cut,
        }
    };
    if matches!(end, End::Cut) {
        cuts.fetch_add(1, Relaxed);
        // It fails only where the other side was faster.
        let _ = if rng.bool() { reset(&client, &broker) } else { finish(&mut client, &mut broker).await };
    }
}

/// Passes bytes on in one direction until it ends.
async fn carry(
    mut from: ReadHalf<'_>,
    mut to: WriteHalf<'_>,
    mut weather: watch::Receiver<Weather>,
    stops: fn(&Weather) -> bool,
    mut rng: Rng,
) -> End {
    let mut buffer = [0; 4096];
    let mut left = None;
    loop {
        let Ok(read @ 1..) = from.read(&mut buffer).await else { return End::Closed };
        let Ok(storm) = weather.wait_for(|weather| !stops(weather)).await.map(|weather| weather.storm) else {
            return End::Closed;
        };
        let pass = match storm {
            Some(most) => {
                let left = left.get_or_insert_with(|| draw(most, &mut rng));
                let pass = (*left).min(read as u64);
                *left -= pass;
                pass as usize
            }
            None => {
                left = None;
                read
            }
        };
        if to.write_all(&buffer[..pass]).await.is_err() {
            return End::Closed;
        }
        if left == Some(0) {
            return End::Cut;
        }
    }
}

fn draw(most: u64, rng: &mut Rng) -> u64 {
    if rng.u8(..8) == 0 { rng.u64(1..=EARLY) } else { rng.u64(1..=most) }
}

/// Closed with a RST: what is on its way is thrown away.
fn reset(client: &TcpStream, broker: &TcpStream) -> io::Result<()> {
    for stream in [client, broker] {
        SockRef::from(stream).set_linger(Some(Duration::ZERO))?;
    }
    Ok(())
}

/// Closed with a FIN, in the midst of a frame.
async fn finish(client: &mut TcpStream, broker: &mut TcpStream) -> io::Result<()> {
    client.shutdown().await?;
    broker.shutdown().await
}
