//! The floor: a server that does as little as a server can. It takes every message as it came, in one epoll loop,
//! and after all reads of a turn sends what gathered: contiguous bytes, one `send` a subscriber.
//!
//! Its protocol stands in the adapter `floor`. It authorises nothing, keeps nothing and trusts its peers.

use std::{
    collections::HashMap,
    io::{self, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    ops::Range,
};

use clap::{Parser, ValueEnum};
use socket2::{Domain, Socket, Type};
use tidegate_benches::{
    poll::{Interest, Poll, Ready},
    process, websocket,
};

/// A bare fan-out server.
#[derive(Debug, Parser)]
#[command(version)]
struct Options {
    /// Where to listen.
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// Bytes of a delivery on the wire, with WebSocket's header: filler makes up the difference.
    #[arg(long, default_value_t = 0)]
    frame_bytes: usize,
    /// Once, after 100 messages of a topic, do this wrong to one of its subscribers. For testing the load generator.
    #[arg(long, value_enum)]
    fault: Option<Fault>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Fault {
    /// Leave out the first message of a turn.
    Drop,
    /// Send it twice.
    Double,
    /// Swap it with the second.
    Reorder,
    /// Change its last byte.
    Corrupt,
}

fn main() -> io::Result<()> {
    let options = Options::parse();
    process::raise_open_files()?;
    let socket = Socket::new(Domain::for_address(options.listen), Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.bind(&options.listen.into())?;
    // The library's 128 are too few for a storm.
    socket.listen(4096)?;
    let listener = TcpListener::from(socket);
    listener.set_nonblocking(true)?;
    println!("listening on {}", listener.local_addr()?);
    Floor::new(listener, &options)?.run()
}

/// A subscriber that is so far behind is sent no more, in bytes: the load generator takes that for what it is.
const MAX_UNSENT: usize = 1 << 20;
const LISTENER: usize = usize::MAX;

struct Floor {
    poll: Poll,
    listener: TcpListener,
    frame_bytes: usize,
    fault: Option<Fault>,
    connections: Vec<Option<Connection>>,
    vacant: Vec<usize>,
    topics: Vec<Topic>,
    topic_names: HashMap<String, usize>,
    /// Topics that have something to send.
    dirty: Vec<usize>,
}

struct Connection {
    socket: TcpStream,
    /// Absent until the upgrade.
    topic: Option<usize>,
    unread: Vec<u8>,
    unsent: Vec<u8>,
}

#[derive(Default)]
struct Topic {
    subscribers: Vec<usize>,
    /// What came in this turn, as it will be sent.
    turn: Vec<u8>,
    /// Where the messages of `turn` end.
    ends: Vec<usize>,
    messages: u64,
}

impl Floor {
    fn new(listener: TcpListener, options: &Options) -> io::Result<Self> {
        let poll = Poll::new(1024)?;
        poll.add(&listener, LISTENER, Interest::Read)?;
        Ok(Self {
            poll,
            listener,
            frame_bytes: options.frame_bytes,
            fault: options.fault,
            connections: Vec::new(),
            vacant: Vec::new(),
            topics: Vec::new(),
            topic_names: HashMap::new(),
            dirty: Vec::new(),
        })
    }

    fn run(mut self) -> io::Result<()> {
        let mut ready: Vec<Ready> = Vec::with_capacity(1024);
        let mut scratch = vec![0; 256 * 1024];
        loop {
            self.poll.wait(None, &mut ready)?;
            let mut closed = Vec::new();
            for event in &ready {
                if event.token == LISTENER {
                    self.accept()?;
                    continue;
                }
                if event.readable && self.read(event.token, &mut scratch).is_err() {
                    self.close(event.token);
                    closed.push(event.token);
                } else if event.writable {
                    self.flush_unsent(event.token)?;
                }
            }
            while let Some(topic) = self.dirty.pop() {
                self.send(topic)?;
            }
            // Not before the turn ends, or one of its events could reach another connection.
            self.vacant.append(&mut closed);
        }
    }

    fn accept(&mut self) -> io::Result<()> {
        loop {
            let socket = match self.listener.accept() {
                Ok((socket, _)) => socket,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            };
            socket.set_nonblocking(true)?;
            socket.set_nodelay(true)?;
            let token = self.vacant.pop().unwrap_or_else(|| {
                self.connections.push(None);
                self.connections.len() - 1
            });
            self.poll.add(&socket, token, Interest::Read)?;
            self.connections[token] =
                Some(Connection { socket, topic: None, unread: Vec::new(), unsent: Vec::new() });
        }
    }

    fn close(&mut self, token: usize) {
        if let Some(Connection { topic: Some(topic), .. }) = self.connections[token].take() {
            self.topics[topic].subscribers.retain(|&subscriber| subscriber != token);
        }
    }

    /// Fails where the connection is over.
    fn read(&mut self, token: usize, scratch: &mut [u8]) -> io::Result<()> {
        let Some(connection) = &mut self.connections[token] else { return Ok(()) };
        let kept = connection.unread.len();
        scratch[..kept].copy_from_slice(&connection.unread);
        let filled = match connection.socket.read(&mut scratch[kept..]) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(bytes) => kept + bytes,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error),
        };
        connection.unread = Vec::new();
        let (topic, head) = if let Some(topic) = connection.topic {
            (topic, 0)
        } else if let Some((path, response, head)) = upgrade(&scratch[..filled])? {
            connection.socket.write_all(response.as_bytes())?;
            (self.enter(token, &path)?, head)
        } else {
            connection.unread.extend_from_slice(&scratch[..filled]);
            return Ok(());
        };
        let taken = head + self.take_messages(topic, &mut scratch[head..filled])?;
        if let Some(connection) = &mut self.connections[token] {
            connection.topic = Some(topic);
            connection.unread.extend_from_slice(&scratch[taken..filled]);
        }
        Ok(())
    }

    /// The topic of a path; a subscriber is entered there.
    fn enter(&mut self, token: usize, path: &str) -> io::Result<usize> {
        let (subscribes, name) = match (path.strip_prefix("/subscribe/"), path.strip_prefix("/publish/")) {
            (Some(name), _) => (true, name),
            (_, Some(name)) => (false, name),
            _ => return Err(io::ErrorKind::InvalidInput.into()),
        };
        let topics = &mut self.topics;
        let topic = *self.topic_names.entry(name.to_owned()).or_insert_with(|| {
            topics.push(Topic::default());
            topics.len() - 1
        });
        if subscribes {
            self.topics[topic].subscribers.push(token);
        }
        Ok(topic)
    }

    /// Returns how many bytes were whole frames.
    fn take_messages(&mut self, topic: usize, bytes: &mut [u8]) -> io::Result<usize> {
        let mut at = 0;
        while let Some(header) = websocket::Header::read(&bytes[at..]).map_err(io::Error::other)? {
            if bytes.len() - at < header.total() {
                break;
            }
            let payload = &mut bytes[at + header.head..at + header.total()];
            at += header.total();
            match header.opcode {
                websocket::BINARY => {}
                websocket::CLOSE => return Err(io::ErrorKind::UnexpectedEof.into()),
                _ => continue,
            }
            websocket::mask(payload, header.mask.unwrap_or_default());
            let Topic { turn, ends, .. } = &mut self.topics[topic];
            if turn.is_empty() {
                self.dirty.push(topic);
            }
            // A header has 4 bytes for lengths from 126 to 65,535.
            let length = payload.len().max(self.frame_bytes.saturating_sub(4));
            websocket::Header { fin: true, opcode: websocket::BINARY, mask: None, head: 0, length }
                .write(turn);
            turn.extend_from_slice(payload);
            turn.resize(turn.len() + length - payload.len(), b' ');
            ends.push(turn.len());
        }
        Ok(at)
    }

    fn send(&mut self, topic: usize) -> io::Result<()> {
        let mut turn = std::mem::take(&mut self.topics[topic].turn);
        let mut ends = std::mem::take(&mut self.topics[topic].ends);
        self.topics[topic].messages += ends.len() as u64;
        let spoiled = self.spoil(topic, &turn, &ends);
        for index in 0..self.topics[topic].subscribers.len() {
            let bytes = match &spoiled {
                Some(spoiled) if index == 0 => spoiled,
                _ => &turn,
            };
            let token = self.topics[topic].subscribers[index];
            let Some(connection) = &mut self.connections[token] else { continue };
            if !connection.unsent.is_empty() {
                if connection.unsent.len() < MAX_UNSENT {
                    connection.unsent.extend_from_slice(bytes);
                }
                continue;
            }
            // A socket that fails is closed when its event is read.
            let sent = connection.socket.write(bytes).unwrap_or(0);
            if sent < bytes.len() {
                connection.unsent.extend_from_slice(&bytes[sent..]);
                self.poll.modify(&connection.socket, token, Interest::ReadWrite)?;
            }
        }
        turn.clear();
        ends.clear();
        self.topics[topic].turn = turn;
        self.topics[topic].ends = ends;
        Ok(())
    }

    fn flush_unsent(&mut self, token: usize) -> io::Result<()> {
        let Some(connection) = &mut self.connections[token] else { return Ok(()) };
        let sent = connection.socket.write(&connection.unsent).unwrap_or(0);
        connection.unsent.drain(..sent);
        if connection.unsent.is_empty() {
            self.poll.modify(&connection.socket, token, Interest::Read)?;
        }
        Ok(())
    }

    /// The one fault, where it is due.
    fn spoil(&mut self, topic: usize, turn: &[u8], ends: &[usize]) -> Option<Vec<u8>> {
        let fault = self.fault?;
        let first: Range<usize> = 0..*ends.first()?;
        let second = ends.get(1).map(|&end| first.end..end);
        if self.topics[topic].messages < 100 || (fault == Fault::Reorder && second.is_none()) {
            return None;
        }
        self.fault = None;
        let mut spoiled = turn.to_vec();
        match (fault, second) {
            (Fault::Drop, _) => drop(spoiled.drain(first)),
            (Fault::Double, _) => spoiled.splice(0..0, turn[first].iter().copied()).for_each(drop),
            (Fault::Reorder, second) => spoiled[..second?.end].rotate_left(first.end),
            (Fault::Corrupt, _) => spoiled[first.end - 1] ^= 1,
        }
        Some(spoiled)
    }
}

/// The path, the answer and the length of an upgrade's head; `None` until it is whole.
fn upgrade(bytes: &[u8]) -> io::Result<Option<(String, String, usize)>> {
    let Some((head, rest)) = websocket::split_head(bytes).map_err(io::Error::other)? else { return Ok(None) };
    let path = head.split(' ').nth(1).ok_or(io::ErrorKind::InvalidData)?;
    let key = websocket::header(head, "Sec-WebSocket-Key").ok_or(io::ErrorKind::InvalidData)?;
    Ok(Some((path.to_owned(), websocket::upgrade_response(key), bytes.len() - rest.len())))
}
