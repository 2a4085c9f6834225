//! What a process uses, as /proc tells it (proc(5)).

use nix::libc;
use nix::sys::resource::{Resource, getrlimit};
use std::fs::{self, File};
use std::io::{self, Read};
use std::time::Duration;

/// What a process uses, and who it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stat {
    /// In clock ticks since the boot.
    pub(super) started: u64,
    pub(super) usage: Usage,
}

impl Stat {
    /// Reads into `buffer`, which keeps its memory for the next.
    pub(super) fn of(pid: u32, buffer: &mut Vec<u8>) -> io::Result<Stat> {
        buffer.clear();
        File::open(format!("/proc/{pid}/stat"))?.read_to_end(buffer)?;
        parse_stat(buffer, ticks_per_second(), page_size()).ok_or_else(|| io::ErrorKind::InvalidData.into())
    }
}

/// Without its children, where it is of one process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Usage {
    /// Processor time since its start, of all its threads.
    pub(crate) cpu: Duration,
    /// Resident memory in bytes.
    pub(crate) rss: u64,
    pub(crate) threads: u64,
}

impl Usage {
    /// Reads two numbers of the kernel; does not wait. A process that is gone is an error.
    pub(crate) fn of(pid: u32) -> io::Result<Usage> {
        Self::read(&format!("/proc/{pid}/stat"))
    }

    pub(crate) fn own() -> io::Result<Usage> {
        Self::read("/proc/self/stat")
    }

    fn read(path: &str) -> io::Result<Usage> {
        let odd = || io::Error::new(io::ErrorKind::InvalidData, format!("{path} is not as expected"));
        // A process names itself: bytes, not always UTF-8.
        let text = fs::read(path)?;
        parse(&text, ticks_per_second(), page_size()).ok_or_else(odd)
    }
}

/// File descriptors that this process has open.
pub(crate) fn open_files() -> io::Result<u64> {
    let list = fs::read_dir("/proc/self/fd")?;
    // One of them reads this list.
    Ok(list.count().saturating_sub(1) as u64)
}

/// How many it may have; `None` without a limit.
pub(crate) fn open_files_limit() -> Option<u64> {
    let (soft, _) = getrlimit(Resource::RLIMIT_NOFILE).ok()?;
    (soft != libc::RLIM_INFINITY).then_some(soft)
}

/// When a process was started, in clock ticks since the boot: with its number, who it is.
pub(crate) fn start_time(pid: u32) -> io::Result<u64> {
    let path = format!("/proc/{pid}/stat");
    let odd = || io::Error::new(io::ErrorKind::InvalidData, format!("{path} is not as expected"));
    let text = fs::read(&path)?;
    fields(&text).and_then(|fields| fields.get(22 - 3)?.parse().ok()).ok_or_else(odd)
}

/// Numbers of a process by those of their fields (proc_pid_stat(5)).
pub(super) fn stat_fields<const N: usize>(pid: u32, numbers: [usize; N]) -> io::Result<[u32; N]> {
    let path = format!("/proc/{pid}/stat");
    let odd = || io::Error::new(io::ErrorKind::InvalidData, format!("{path} is not as expected"));
    let text = fs::read(&path)?;
    let fields = fields(&text).ok_or_else(odd)?;
    let mut found = [0; N];
    for (found, number) in found.iter_mut().zip(numbers) {
        *found = fields.get(number.saturating_sub(3)).and_then(|field| field.parse().ok()).ok_or_else(odd)?;
    }
    Ok(found)
}

/// The user that a process runs as.
pub(crate) fn real_user(pid: u32) -> io::Result<u32> {
    let path = format!("/proc/{pid}/status");
    let odd = || io::Error::new(io::ErrorKind::InvalidData, format!("{path} is not as expected"));
    let text = fs::read(&path)?;
    let text = String::from_utf8_lossy(&text);
    // Only the name stands before it, and holds no line's end.
    let line = text.lines().find_map(|line| line.strip_prefix("Uid:"));
    line.and_then(|line| line.split_ascii_whitespace().next()?.parse().ok()).ok_or_else(odd)
}

/// The fields from the third, the state, on.
fn fields(stat: &[u8]) -> Option<Vec<&str>> {
    let after = stat.iter().rposition(|byte| *byte == b')')?;
    Some(std::str::from_utf8(stat.get(after + 1..)?).ok()?.split_ascii_whitespace().collect())
}

fn parse(stat: &[u8], ticks: u64, page: u64) -> Option<Usage> {
    parse_stat(stat, ticks, page).map(|stat| stat.usage)
}

/// Counted from the closing parenthesis of the name, which may hold anything.
fn parse_stat(stat: &[u8], ticks: u64, page: u64) -> Option<Stat> {
    let after = stat.iter().rposition(|byte| *byte == b')')?;
    let mut fields = std::str::from_utf8(stat.get(after + 1..)?).ok()?.split_ascii_whitespace();
    let mut next = 3;
    // In rising order.
    let mut field = |number: usize| {
        let value = fields.nth(number - next)?.parse::<u64>().ok();
        next = number + 1;
        value
    };
    let cpu = field(14)?.checked_add(field(15)?)?;
    let (threads, started, rss) = (field(20)?, field(22)?, field(24)?.saturating_mul(page));
    let cpu = Duration::from_secs(cpu / ticks) + Duration::from_secs(1).mul_f64((cpu % ticks) as f64 / ticks as f64);
    Some(Stat { started, usage: Usage { cpu, rss, threads } })
}

fn ticks_per_second() -> u64 {
    // SAFETY: a query of a constant, without pointers.
    positive(unsafe { libc::sysconf(libc::_SC_CLK_TCK) }).unwrap_or(100)
}

fn page_size() -> u64 {
    // SAFETY: a query of a constant, without pointers.
    positive(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap_or(4096)
}

fn positive(value: libc::c_long) -> Option<u64> {
    u64::try_from(value).ok().filter(|value| *value > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_may_hold_anything() {
        let line = b"42 (a) b (\xff 1 2) S 1 42 42 0 -1 4194560 8171 0 5 0 250 50 0 0 20 0 11 0 1000 \
            1079918592 512 18446744073709551615 1 1";
        let usage = parse(line, 100, 4096).unwrap();
        assert_eq!(usage, Usage { cpu: Duration::from_secs(3), rss: 512 * 4096, threads: 11 });
        assert_eq!(parse(b"42 (short) S 1 2", 100, 4096), None);
        assert_eq!(parse(b"", 100, 4096), None);
    }

    #[test]
    fn this_process_uses_something() {
        let usage = Usage::of(std::process::id()).unwrap();
        assert!(usage.rss > 1024 * 1024 && usage.threads >= 1, "{usage:?}");
        assert!(Usage::own().unwrap().rss > 1024 * 1024);
        assert!(open_files().unwrap() >= 3);
        assert!(Usage::of(u32::MAX).is_err());
        assert_eq!(start_time(std::process::id()).unwrap(), start_time(std::process::id()).unwrap());
        assert_eq!(real_user(std::process::id()).unwrap(), rustix::process::getuid().as_raw());
    }
}
