//! The whole path of a message: a real shard, from a publisher's socket to its subscribers' sockets. The kernel's part
//! is not counted; what this side of the sockets does is the same few instructions a subscriber in every version.

use std::{
    io::{self, Read, Write},
    net::{TcpListener, TcpStream},
    sync::Arc,
    time::Duration,
};

use tidegate::{
    admission::Admissions,
    config::Config,
    engine::memory::Memory,
    http::{Admitted, Upgraded},
    hub::Hub,
    metrics::Metrics,
    shard::{Order, Parts, Shard, inbox::Inbox},
};
use tidegate_benches::websocket;
use tidegate_protocol::{ClientFrame, Codec, Epoch, From, frame::Subscribe};
use tokio::{
    runtime::{Builder, Runtime},
    sync::mpsc,
    task::LocalSet,
};

use crate::loops::{TOPIC, filter, publish_frame};

/// Publishes `messages` in one write to `subscribers` and reads them from every subscriber's socket.
pub fn deliver(codec: Codec, messages: usize, subscribers: usize) -> Box<dyn FnMut()> {
    let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
    let mut bench = Bench::new(&runtime, codec, messages, subscribers).expect("loopback");
    Box::new(move || {
        let Bench { local, shard, .. } = &mut bench;
        local.block_on(&runtime, shard.deliver()).expect("loopback");
    })
}

struct Bench {
    /// Runs the shard.
    local: LocalSet,
    shard: Peers,
}

/// The other ends of the shard's sockets.
struct Peers {
    publisher: TcpStream,
    subscribers: Vec<TcpStream>,
    /// It came last, so it is written to last: when it has a burst, all have.
    last: tokio::net::TcpStream,
    /// What is published in one write, and how many WebSocket messages it comes back as.
    burst: Vec<u8>,
    received: Vec<u8>,
    /// New connections for the shard.
    orders: mpsc::Sender<Order>,
}

/// More than any burst here takes.
const RECEIVED_BYTES: usize = 64 << 10;

impl Bench {
    fn new(runtime: &Runtime, codec: Codec, messages: usize, subscribers: usize) -> io::Result<Self> {
        let local = LocalSet::new();
        let (orders, waiting) = mpsc::channel(1);
        local.block_on(runtime, async {
            let shard = shard()?;
            tokio::task::spawn_local(shard.run(waiting));
            io::Result::Ok(())
        })?;
        let mut opcode = websocket::BINARY;
        if codec == Codec::Json {
            opcode = websocket::TEXT;
        }
        let mut burst = Vec::new();
        for _ in 0..messages {
            websocket::write_client(&mut burst, opcode, &publish_frame(codec));
        }
        let mut subscribe = Vec::new();
        let mut frame = Vec::new();
        codec.encode_client(&ClientFrame::Subscribe(subscription()), &mut frame);
        websocket::write_client(&mut subscribe, opcode, &frame);
        let shard = local.block_on(runtime, async {
            let listener = TcpListener::bind(("127.0.0.1", 0))?;
            let publisher = connect(&listener, codec, &orders).await?;
            let mut all = Vec::new();
            for _ in 0..subscribers {
                let mut peer = connect(&listener, codec, &orders).await?;
                peer.write_all(&subscribe)?;
                let peer = tokio::net::TcpStream::from_std(peer)?;
                // The ack: then the next one comes after it in the index.
                read(&peer, &mut [0; 4096]).await?;
                all.push(peer.into_std()?);
            }
            let last = all.pop().expect("a subscriber");
            io::Result::Ok(Peers {
                publisher,
                subscribers: all,
                last: tokio::net::TcpStream::from_std(last)?,
                burst,
                received: vec![0; RECEIVED_BYTES],
                orders,
            })
        })?;
        Ok(Self { local, shard })
    }
}

impl Peers {
    async fn deliver(&mut self) -> io::Result<()> {
        debug_assert!(!self.orders.is_closed(), "the shard runs");
        self.publisher.write_all(&self.burst)?;
        // One read, one fan-out, one write for each subscriber: all of it is there, or none.
        let length = read(&self.last, &mut self.received).await?;
        for subscriber in &mut self.subscribers {
            // The same frames for all, so the same length.
            assert_eq!(subscriber.read(&mut self.received)?, length);
        }
        Ok(())
    }
}

async fn read(peer: &tokio::net::TcpStream, into: &mut [u8]) -> io::Result<usize> {
    loop {
        peer.readable().await?;
        match peer.try_read(into) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            read => return read,
        }
    }
}

/// One shard alone, whose clients are never due for a ping while it is measured.
fn shard() -> io::Result<Shard> {
    let mut config = Config::default();
    config.websocket.ping_interval = Duration::from_secs(3600);
    let config = Arc::new(config);
    let inbox = Arc::new(Inbox::new(config.memory.shard_queue_messages));
    let hub = Arc::new(Hub::new(&config, [inbox.clone()].into(), Box::new(Memory), || Epoch(1)));
    let metrics = Metrics::new(1, config.memory.outbox_bytes, config.memory.connection_bytes).shard(0);
    Shard::new(Parts { number: 0, shards: 1, config, hub, inbox, metrics })
}

/// A connection of the shard; its peer's end.
async fn connect(
    listener: &TcpListener,
    codec: Codec,
    orders: &mpsc::Sender<Order>,
) -> io::Result<TcpStream> {
    let ours = TcpStream::connect(listener.local_addr()?)?;
    let (stream, peer) = listener.accept()?;
    ours.set_nodelay(true)?;
    ours.set_nonblocking(true)?;
    stream.set_nonblocking(true)?;
    let admission = Admissions::new(1).admit().expect("the first");
    let admitted = Admitted { admission, codec, subscribes: Vec::new() };
    let upgraded = Upgraded { stream, leftover: Default::default(), admitted, peer };
    orders.send(Order::Adopt(upgraded)).await.map_err(|_| io::Error::other("the shard has ended"))?;
    Ok(ours)
}

fn subscription() -> Subscribe {
    Subscribe {
        id: 1,
        filter: filter(TOPIC),
        from: From::Live,
        overflow: None,
        limit: None,
        limit_bytes: None,
        credit: None,
        echo: true,
    }
}
