//! What systemd is told (sd_notify(3)): lines of text in a datagram to the socket that `NOTIFY_SOCKET` names.
//! Without that variable nothing is told to anyone.

use rustix::time::{ClockId, clock_gettime};
use std::ffi::OsString;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::OnceLock;
use std::time::Duration;

struct Listener {
    socket: UnixDatagram,
    address: SocketAddr,
}

impl Listener {
    fn open(address: OsString) -> Result<Listener, String> {
        let bytes = address.as_bytes();
        let parsed = match bytes.split_first() {
            Some((b'@', name)) => SocketAddr::from_abstract_name(name),
            Some((b'/', _)) => SocketAddr::from_pathname(&address),
            _ => return Err(format!("NOTIFY_SOCKET={} is neither a path nor begins with @", address.display())),
        };
        let open = || -> std::io::Result<Listener> {
            let socket = UnixDatagram::unbound()?;
            // Whoever does not read must not hold us up.
            socket.set_nonblocking(true)?;
            Ok(Listener { socket, address: parsed? })
        };
        open().map_err(|error| format!("NOTIFY_SOCKET={}: {error}", address.display()))
    }
}

fn listener() -> Option<&'static Listener> {
    static LISTENER: OnceLock<Option<Listener>> = OnceLock::new();
    let open = || {
        let address = std::env::var_os("NOTIFY_SOCKET").filter(|address| !address.is_empty())?;
        Listener::open(address).map_err(|why| log::warn!("systemd cannot be told anything: {why}")).ok()
    };
    LISTENER.get_or_init(open).as_ref()
}

fn tell(lines: &str) {
    if let Some(Listener { socket, address }) = listener()
        && let Err(error) = socket.send_to_addr(lines.as_bytes(), address)
    {
        log::debug!("systemd was not told {lines:?}: {error}");
    }
}

/// Whether anyone listens.
pub(super) fn is_wanted() -> bool {
    listener().is_some()
}

/// The start, or a reload, is over.
pub(crate) fn ready(status: &str) {
    tell(&format!("READY=1\nSTATUS={}", one_line(status)));
}

pub(crate) fn status(status: &str) {
    tell(&format!("STATUS={}", one_line(status)));
}

/// A reload has begun. For `Type=notify-reload` its time must be told, too.
pub(super) fn reloading() {
    let now = clock_gettime(ClockId::Monotonic);
    let micros = i128::from(now.tv_sec) * 1_000_000 + i128::from(now.tv_nsec) / 1000;
    tell(&format!("RELOADING=1\nMONOTONIC_USEC={micros}\nSTATUS=reloading"));
}

pub(crate) fn stopping() {
    tell("STOPPING=1\nSTATUS=stopping");
}

/// Another process is the service's main process from now on.
pub(super) fn main_pid(pid: u32) {
    tell(&format!("MAINPID={pid}"));
}

/// It lives.
pub(super) fn watchdog() {
    tell("WATCHDOG=1");
}

/// What it does takes so long from now on at least.
pub(crate) fn extend(by: Duration) {
    tell(&format!("EXTEND_TIMEOUT_USEC={}", by.as_micros()));
}

/// How long it may be silent, if it is watched. `for_predecessor`: the variables may speak of the process that started
/// this one to take its place.
pub(super) fn watchdog_limit(for_predecessor: bool) -> Option<Duration> {
    limit(|name| std::env::var(name).ok(), std::process::id(), for_predecessor)
}

fn limit(var: impl Fn(&str) -> Option<String>, own_pid: u32, for_predecessor: bool) -> Option<Duration> {
    let number = |name: &str| var(name)?.trim().parse::<u64>().ok();
    let ours = for_predecessor || number("WATCHDOG_PID").is_none_or(|pid| pid == u64::from(own_pid));
    number("WATCHDOG_USEC").filter(|micros| ours && *micros > 0).map(Duration::from_micros)
}

/// A newline would begin another message.
fn one_line(text: &str) -> String {
    const MOST: usize = 500;
    text.chars().take(MOST).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_arrive_by_path_and_by_name() {
        let name = format!("pup-notify-{}", std::process::id());
        let path = std::env::temp_dir().join(&name);
        let by_path = UnixDatagram::bind(&path).unwrap();
        let by_name = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        for (address, end) in [(path.clone().into_os_string(), by_path), (format!("@{name}").into(), by_name)] {
            let Listener { socket, address } = Listener::open(address).unwrap();
            socket.send_to_addr(b"READY=1", &address).unwrap();
            let mut buffer = [0; 64];
            let length = end.recv(&mut buffer).unwrap();
            assert_eq!(&buffer[..length], b"READY=1");
        }
        std::fs::remove_file(path).unwrap();
        assert!(Listener::open("vsock:2:1234".into()).is_err());
        assert!(!one_line("a\nREADY=1").contains('\n'));
    }

    #[test]
    fn a_watchdog_of_another_process_is_not_ours() {
        let with = |pid: Option<&str>, micros: &str, successor| {
            let var = |name: &str| if name == "WATCHDOG_PID" { pid } else { Some(micros) }.map(str::to_owned);
            limit(var, 7, successor)
        };
        assert_eq!(with(Some("7"), "3000000", false), Some(Duration::from_secs(3)));
        assert_eq!(with(None, "3000000", false), Some(Duration::from_secs(3)));
        assert_eq!(with(Some("8"), "3000000", false), None);
        assert_eq!(with(Some("8"), "3000000", true), Some(Duration::from_secs(3)));
        assert_eq!(with(Some("7"), "0", false), None);
        assert_eq!(with(Some("7"), "many", false), None);
    }
}
