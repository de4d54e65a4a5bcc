//! A socket of the load generator, and what of its bytes is not done with.

use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream},
};

use socket2::{Domain, Socket, Type};

use crate::{
    adapter::{Adapter, Fault, Role},
    events,
    websocket::{self, Malformed},
};

/// How far a connection has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// The answer to its request is due.
    Asking,
    /// The server has yet to confirm what the adapter asked for.
    Opening,
    /// It takes part.
    Ready,
}

/// See the module.
pub struct Connection<S> {
    pub socket: TcpStream,
    pub state: S,
    pub stage: Stage,
    /// Whether it reads server-sent events; else it is a WebSocket.
    pub is_events: bool,
    /// A frame that is not whole yet.
    pub unread: Vec<u8>,
    /// A fragmented message that is not whole yet.
    pub fragments: Vec<u8>,
    pub unsent: Vec<u8>,
    /// The socket took less than there was.
    pub blocked: bool,
}

impl<S> Connection<S> {
    /// Connects and asks for what the role needs. One that `stalls` has small buffers, at both ends.
    pub fn connect(
        address: SocketAddr,
        adapter: &impl Adapter<State = S>,
        role: Role<'_>,
        state: S,
        stalls: bool,
    ) -> io::Result<Self> {
        let host = address.to_string();
        let events = adapter.events(role);
        let request = events.as_ref().map_or_else(
            || {
                let (path, subprotocol) = adapter.upgrade(role);
                websocket::upgrade_request(&host, &path, subprotocol)
            },
            |events| events.write(&host),
        );
        let mut socket = if stalls { connect_small(address)? } else { TcpStream::connect(address)? };
        socket.set_nodelay(true)?;
        socket.write_all(request.as_bytes())?;
        socket.set_nonblocking(true)?;
        Ok(Self {
            socket,
            state,
            stage: Stage::Asking,
            is_events: events.is_some(),
            unread: Vec::new(),
            fragments: Vec::new(),
            unsent: Vec::new(),
            blocked: false,
        })
    }

    /// Reads once, behind what was left of the last read. Gives how much of `scratch` is filled, and how much of
    /// that is new; `None` where there was nothing to read.
    pub fn receive(&mut self, scratch: &mut [u8]) -> Result<Option<(usize, usize)>, Fault> {
        let kept = self.unread.len();
        if kept > 0 {
            scratch[..kept].copy_from_slice(&self.unread);
        }
        match self.socket.read(&mut scratch[kept..]) {
            Ok(0) => Err(Fault::Closed(" without a close frame".into())),
            Ok(received) => {
                self.unread.clear();
                Ok(Some((kept + received, received)))
            }
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {
                Ok(None)
            }
            Err(error) => Err(Fault::Closed(format!(": {error}"))),
        }
    }

    /// Writes what waits, as far as the socket takes it.
    pub fn flush(&mut self) -> Result<(), Fault> {
        let mut written = 0;
        self.blocked = false;
        while written < self.unsent.len() {
            match self.socket.write(&self.unsent[written..]) {
                Ok(bytes) => written += bytes,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.blocked = true;
                    break;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Fault::Closed(format!(": {error}"))),
            }
        }
        self.unsent.drain(..written);
        Ok(())
    }
}

/// Segments as on an Ethernet: a kernel sizes its send buffer by them, and loopback's 64 KiB let a server write
/// megabytes that nobody reads. And little room at this end, so that it is the server that has to cope.
fn connect_small(address: SocketAddr) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.set_tcp_mss(1460)?;
    socket.set_recv_buffer_size(4096)?;
    socket.connect(&address.into())?;
    Ok(socket.into())
}

/// What comes after the head of the answer; `None` until it is whole.
pub fn check_answer(bytes: &[u8], is_events: bool) -> Result<Option<&[u8]>, Fault> {
    if is_events { Ok(events::check_answer(bytes)?) } else { check_upgrade(bytes) }
}

fn check_upgrade(bytes: &[u8]) -> Result<Option<&[u8]>, Fault> {
    let Some((head, rest)) = websocket::split_head(bytes)? else { return Ok(None) };
    if !head.starts_with("HTTP/1.1 101 ") {
        return Err(Fault::Told(head.lines().next().unwrap_or("").to_owned()));
    }
    if websocket::header(head, "Sec-WebSocket-Accept") != Some(websocket::ACCEPT) {
        return Err(Malformed("Sec-WebSocket-Accept does not answer the key").into());
    }
    Ok(Some(rest))
}

/// What a close frame says.
pub fn closed(payload: &[u8]) -> Fault {
    Fault::Closed(match payload.split_first_chunk() {
        Some((code, reason)) => {
            format!(": {} {}", u16::from_be_bytes(*code), String::from_utf8_lossy(reason))
        }
        None => " with a close frame that gives no code".into(),
    })
}
