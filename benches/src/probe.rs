//! How fast this core is right now: what one small send and receive over loopback costs.

use std::{
    io,
    io::{Read, Write},
    net::{Ipv4Addr, TcpListener, TcpStream},
    thread,
};

use crate::process;

/// Bytes of the probe's message: a payload of 128 bytes and a WebSocket header.
const BYTES: usize = 132;
const ROUNDS: u32 = 20_000;

/// CPU time, in nanoseconds, of one send and receive of 132 bytes on `core`, both ends in one thread. Where the
/// machine is shared, a server's cost over this cost, taken just before and after, is steadier than the cost itself.
pub fn send_and_receive(core: usize) -> io::Result<f64> {
    thread::scope(|scope| {
        let probe = scope.spawn(|| {
            process::pin(core)?;
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
            let mut sender = TcpStream::connect(listener.local_addr()?)?;
            sender.set_nodelay(true)?;
            let (mut receiver, _) = listener.accept()?;
            let mut bytes = [0; BYTES];
            for _ in 0..ROUNDS / 10 {
                sender.write_all(&bytes)?;
                receiver.read_exact(&mut bytes)?;
            }
            let before = thread_cpu();
            for _ in 0..ROUNDS {
                sender.write_all(&bytes)?;
                receiver.read_exact(&mut bytes)?;
            }
            Ok(thread_cpu().saturating_sub(before) as f64 / f64::from(ROUNDS))
        });
        probe.join().unwrap_or_else(|_| Err(io::Error::other("the probe panicked")))
    })
}

/// CPU time of this thread, in nanoseconds.
fn thread_cpu() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}
