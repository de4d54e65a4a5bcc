//! What a process spent, by `/proc`, and where it may run.

use std::{fs, io, path::Path};

use rustix::{
    process::{Resource, Rlimit, getrlimit, setrlimit},
    thread::{CpuSet, sched_getaffinity, sched_setaffinity},
};

/// What a process has spent so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// CPU time of its threads, in nanoseconds: exact while it sleeps, up to a scheduler tick late while it runs.
    /// Threads that have ended are not counted.
    pub cpu_ns: u64,
    /// Of its CPU time the part in user space, in clock ticks (10 ms).
    pub user_ticks: u64,
    /// Of its CPU time the part in the kernel, in clock ticks (10 ms).
    pub system_ticks: u64,
    /// Memory in RAM, in bytes.
    pub rss_bytes: u64,
}

impl Usage {
    /// What `pid` has spent. Linux only.
    pub fn of(pid: u32) -> io::Result<Self> {
        let process = Path::new("/proc").join(pid.to_string());
        let mut usage = Self::default();
        for thread in fs::read_dir(process.join("task"))? {
            // A thread may end between the listing and the reading.
            if let Ok(text) = fs::read_to_string(thread?.path().join("schedstat")) {
                usage.cpu_ns += field(&text, 0)?;
            }
        }
        // The second field, the program's name in parentheses, may hold spaces.
        let stat = fs::read_to_string(process.join("stat"))?;
        let after_name = stat.rsplit_once(") ").map_or("", |(_, rest)| rest);
        usage.user_ticks = field(after_name, 11)?;
        usage.system_ticks = field(after_name, 12)?;
        let status = fs::read_to_string(process.join("status"))?;
        let rss = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or("");
        usage.rss_bytes = field(rss, 0)? * 1024;
        Ok(usage)
    }

    /// The sum over several processes.
    pub fn of_all(pids: &[u32]) -> io::Result<Self> {
        pids.iter().try_fold(Self::default(), |sum, &pid| {
            let usage = Self::of(pid)?;
            Ok(Self {
                cpu_ns: sum.cpu_ns + usage.cpu_ns,
                user_ticks: sum.user_ticks + usage.user_ticks,
                system_ticks: sum.system_ticks + usage.system_ticks,
                rss_bytes: sum.rss_bytes + usage.rss_bytes,
            })
        })
    }
}

fn field(text: &str, index: usize) -> io::Result<u64> {
    text.split_ascii_whitespace().nth(index).and_then(|word| word.parse().ok()).ok_or_else(|| {
        io::Error::new(io::ErrorKind::InvalidData, format!("no number at field {index} of {text:?}"))
    })
}

/// Lets this thread, and what it starts from now on, run on one core only.
pub fn pin(core: usize) -> io::Result<()> {
    let mut cores = CpuSet::new();
    cores.set(core);
    Ok(sched_setaffinity(None, &cores)?)
}

/// The cores this thread may run on.
pub fn cores() -> io::Result<Vec<usize>> {
    let cores = sched_getaffinity(None)?;
    Ok((0..CpuSet::MAX_CPU).filter(|&core| cores.is_set(core)).collect())
}

/// Raises the number of files this process may have open to what the system allows it, and returns that.
pub fn raise_open_files() -> io::Result<u64> {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum })?;
    Ok(limit.maximum.unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_spent_something() {
        let usage = Usage::of(std::process::id()).unwrap();
        assert!(usage.cpu_ns > 0 && usage.rss_bytes > 0, "{usage:?}");
    }
}
