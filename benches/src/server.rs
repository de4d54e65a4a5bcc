//! A server under measurement: started on one core, ended with all it started.

use std::{
    fs,
    io::{self, BufRead, BufReader, Read},
    net::{SocketAddr, TcpListener, TcpStream},
    process::{Child, Command, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};

use crate::process;

/// How long a server may take until it listens.
const START_TIMEOUT: Duration = Duration::from_secs(10);
/// How long it may take to end when it is asked to; then it is killed.
const STOP_TIMEOUT: Duration = Duration::from_secs(1);

/// A server that runs, until this is dropped.
pub struct Server {
    process: Child,
    address: SocketAddr,
    /// Disconnected once all that write to its output have ended.
    output: mpsc::Receiver<SocketAddr>,
}

impl Server {
    /// Starts it on one core, and waits until it listens, in at least so many processes: at the port that took the place of `{port}` in its command,
    /// or at the first loopback address it prints.
    ///
    /// # Errors
    /// Where it cannot be started, ends, or does not listen within ten seconds.
    pub fn start(command: &[String], processes: usize, core: usize) -> io::Result<Self> {
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let given_port = command.iter().any(|word| word.contains("{port}"));
        let words: Vec<_> = command.iter().map(|word| word.replace("{port}", &port.to_string())).collect();
        // A process inherits the cores of the thread that starts it.
        let mut process = thread::scope(|scope| {
            let start = scope.spawn(|| {
                process::pin(core)?;
                Command::new(&words[0])
                    .args(&words[1..])
                    .stdin(Stdio::null())
                    .stdout(Stdio::piped())
                    .stderr(Stdio::piped())
                    .spawn()
            });
            start.join().unwrap_or_else(|_| Err(io::Error::other("the starting thread panicked")))
        })?;
        // Room for the one address that is waited for.
        let (found, output) = mpsc::sync_channel(1);
        // Connected while it starts, even if it closes its output.
        let starting = found.clone();
        if let Some(stdout) = process.stdout.take() {
            watch(stdout, found.clone());
        }
        if let Some(stderr) = process.stderr.take() {
            watch(stderr, found);
        }
        let mut server = Self { process, address: SocketAddr::from(([127, 0, 0, 1], port)), output };
        let deadline = Instant::now() + START_TIMEOUT;
        while Instant::now() < deadline {
            if let Some(status) = server.process.try_wait()? {
                return Err(io::Error::other(format!("{} ended: {status}", words[0])));
            }
            // Nothing tells when a port is there or a worker: those are looked for again and again.
            let said = server.output.recv_timeout(Duration::from_millis(50));
            if let (Ok(address), false) = (said, given_port) {
                server.address = address;
            }
            let listens = if given_port { TcpStream::connect(server.address).is_ok() } else { said.is_ok() };
            // A master may listen before its workers are there, whose CPU time counts.
            if listens && server.pids().len() >= processes {
                drop(starting);
                return Ok(server);
            }
        }
        Err(io::Error::other(format!("{} does not say where it listens", words[0])))
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its processes: the one that was started and all that come from it.
    pub fn pids(&self) -> Vec<u32> {
        let mut pids = vec![self.process.id()];
        let mut next = 0;
        while let Some(&pid) = pids.get(next) {
            next += 1;
            // One may end meanwhile.
            let Ok(tasks) = fs::read_dir(format!("/proc/{pid}/task")) else { continue };
            for task in tasks.flatten() {
                let children = fs::read_to_string(task.path().join("children")).unwrap_or_default();
                pids.extend(children.split_whitespace().filter_map(|child| child.parse::<u32>().ok()));
            }
        }
        pids
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let pids: Vec<_> =
            self.pids().into_iter().filter_map(|pid| Pid::from_raw(pid.try_into().ok()?)).collect();
        // First the politest way, so that a master takes its workers with it.
        let _ = kill_process(pids[0], Signal::TERM);
        let deadline = Instant::now() + STOP_TIMEOUT;
        while self.output.recv_timeout(deadline.saturating_duration_since(Instant::now())).is_ok() {}
        let _ = self.process.kill();
        let _ = self.process.wait();
        for &pid in &pids[1..] {
            // Mostly gone already.
            let _ = kill_process(pid, Signal::KILL);
        }
    }
}

/// Reads to the end, so that the server is never blocked on its log, and hands over the first address in it.
fn watch(output: impl Read + Send + 'static, found: mpsc::SyncSender<SocketAddr>) {
    thread::spawn(move || {
        for line in BufReader::new(output).split(b'\n').map_while(Result::ok) {
            if let Some(address) = address_in(&String::from_utf8_lossy(&line)) {
                // Only the first is waited for.
                let _ = found.try_send(address);
            }
        }
    });
}

fn address_in(line: &str) -> Option<SocketAddr> {
    let start = line.find("127.0.0.1:")?;
    let address = &line[start..];
    let end = address.find(|c: char| !c.is_ascii_digit() && c != '.' && c != ':').unwrap_or(address.len());
    address[..end].parse().ok().filter(|address: &SocketAddr| address.port() != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_found_in_any_log_line() {
        let expected = Some("127.0.0.1:41234".parse().unwrap());
        assert_eq!(address_in("listening on 127.0.0.1:41234"), expected);
        assert_eq!(address_in("INFO tidegate: listening url=ws://127.0.0.1:41234/ws"), expected);
        assert_eq!(address_in("{\"address\":\"127.0.0.1:41234\"}"), expected);
        assert_eq!(address_in("will listen on 127.0.0.1:0"), None);
    }

    #[test]
    fn a_server_that_ends_at_once_is_not_waited_for() {
        let core = process::cores().unwrap()[0];
        let error = Server::start(&["false".into(), "{port}".into()], 1, core).err().unwrap();
        assert!(error.to_string().contains("ended"), "{error}");
    }
}
