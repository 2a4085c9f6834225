//! The commands' side of the API: one request over the Unix socket, or to the address of health.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Bytes of an answer: a status of a thousand workers with their last words fits well.
const LARGEST: u64 = 64 * 1024 * 1024;
const HEADERS: usize = 32;

#[derive(Debug)]
pub(super) struct Request<'a> {
    pub(super) method: &'a str,
    pub(super) path: &'a str,
    pub(super) body: &'a str,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) struct Reply {
    pub(super) status: u16,
    pub(super) body: Vec<u8>,
}

/// Why there is no reply.
#[derive(Debug)]
pub(super) enum Failure {
    NotRunning { socket: PathBuf },
    Denied { socket: PathBuf },
    TimedOut { after: Duration },
    Ended { socket: PathBuf },
    Odd { socket: PathBuf, what: String },
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::NotRunning { socket } => {
                let hint = "start it, or name its file with -c FILE, its directory with --runtime-dir DIR, or with \
                            --socket PATH where it takes commands";
                write!(f, "no proxy runs at {}; {hint}", socket.display())
            }
            Failure::Denied { socket } => {
                write!(f, "{} may only be used by the proxy's user and root; use sudo", socket.display())
            }
            Failure::TimedOut { after } => {
                let after = humantime::format_duration(*after);
                write!(f, "no answer within {after}; what was asked may still go on (see status, or set --timeout)")
            }
            Failure::Ended { socket } => write!(f, "the proxy at {} ended before it answered", socket.display()),
            Failure::Odd { socket, what } => {
                write!(f, "{} does not answer as the proxy does: {what}", socket.display())
            }
        }
    }
}

/// A connection whose waits can be limited.
trait Wire: Read + Write {
    fn limit_read(&self, limit: Duration) -> io::Result<()>;
    fn limit_write(&self, limit: Duration) -> io::Result<()>;
}

macro_rules! wire {
    ($stream:ty) => {
        impl Wire for $stream {
            fn limit_read(&self, limit: Duration) -> io::Result<()> {
                self.set_read_timeout(Some(limit.max(SHORTEST)))
            }

            fn limit_write(&self, limit: Duration) -> io::Result<()> {
                self.set_write_timeout(Some(limit.max(SHORTEST)))
            }
        }
    };
}

wire!(UnixStream);
wire!(TcpStream);

/// Sends the request and waits for the whole answer, `timeout` in all.
pub(super) fn send(socket: &Path, request: &Request<'_>, timeout: Duration) -> Result<Reply, Failure> {
    let end = Instant::now() + timeout;
    let stream = connect(socket, end).map_err(|error| explain(&error, socket, timeout))?;
    exchange(stream, socket, request, timeout, end)
}

/// Whoever has removed the socket of a proxy that runs has not ended it: it takes commands there again within seconds.
fn connect(socket: &Path, end: Instant) -> io::Result<UnixStream> {
    const RENEWAL_TIMEOUT: Duration = Duration::from_secs(5);
    const RETRY_INTERVAL: Duration = Duration::from_millis(50);
    let end = end.min(Instant::now() + RENEWAL_TIMEOUT);
    loop {
        match UnixStream::connect(socket) {
            Err(error) if error.kind() == io::ErrorKind::NotFound && Instant::now() < end && is_listened_on(socket) => {
                std::thread::sleep(RETRY_INTERVAL);
            }
            connected => return connected,
        }
    }
}

/// Whether a process listens on a socket that was bound to this path, whose file may be gone (proc_net_unix(5)).
fn is_listened_on(socket: &Path) -> bool {
    const ACCEPTS: &str = "00010000";
    let path = std::path::absolute(socket).unwrap_or_else(|_| socket.to_owned());
    let listens = |line: &str| {
        let mut fields = line.split_ascii_whitespace();
        fields.nth(3) == Some(ACCEPTS) && fields.nth(3).is_some_and(|bound| Path::new(bound) == path)
    };
    std::fs::read_to_string("/proc/net/unix").is_ok_and(|table| table.lines().any(listens))
}

/// The same over TCP. An address of every interface is asked on this machine.
pub(super) fn send_tcp(address: SocketAddr, request: &Request<'_>, timeout: Duration) -> Result<Reply, Failure> {
    let end = Instant::now() + timeout;
    let mut to = address;
    if to.ip().is_unspecified() {
        to.set_ip(if to.is_ipv4() { Ipv4Addr::LOCALHOST.into() } else { Ipv6Addr::LOCALHOST.into() });
    }
    let shown = PathBuf::from(address.to_string());
    let stream = TcpStream::connect_timeout(&to, timeout.max(SHORTEST));
    exchange(stream.map_err(|error| explain(&error, &shown, timeout))?, &shown, request, timeout, end)
}

fn exchange(
    mut stream: impl Wire,
    socket: &Path,
    request: &Request<'_>,
    timeout: Duration,
    end: Instant,
) -> Result<Reply, Failure> {
    let failed = |error: io::Error| explain(&error, socket, timeout);
    let Request { method, path, body } = request;
    let head = format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n");
    let text = format!("{head}Content-Length: {}\r\n\r\n{body}", body.len());
    stream.limit_write(timeout).map_err(failed)?;
    stream.write_all(text.as_bytes()).map_err(failed)?;
    let mut bytes = Vec::new();
    let mut piece = [0; 16 * 1024];
    loop {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(Failure::TimedOut { after: timeout });
        }
        stream.limit_read(left).map_err(failed)?;
        match stream.read(&mut piece).map_err(failed)? {
            0 => break,
            n => bytes.extend_from_slice(piece.get(..n).unwrap_or_default()),
        }
        if bytes.len() as u64 > LARGEST {
            return Err(Failure::Odd { socket: socket.into(), what: format!("over {LARGEST} bytes") });
        }
        // It closes behind its answer; one that does not has ended where it said.
        if let Ok(Some(reply)) = parse(&bytes, false) {
            return Ok(reply);
        }
    }
    match parse(&bytes, true) {
        Ok(Some(reply)) => Ok(reply),
        Ok(None) => Err(Failure::Ended { socket: socket.into() }),
        Err(what) => Err(Failure::Odd { socket: socket.into(), what }),
    }
}

/// Zero would mean: without a limit.
const SHORTEST: Duration = Duration::from_millis(1);

fn explain(error: &io::Error, socket: &Path, timeout: Duration) -> Failure {
    let socket = socket.to_owned();
    match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => Failure::NotRunning { socket },
        io::ErrorKind::PermissionDenied => Failure::Denied { socket },
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => Failure::TimedOut { after: timeout },
        io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => Failure::Ended { socket },
        _ => Failure::Odd { socket, what: error.to_string() },
    }
}

/// `None` while the answer is not whole; `ended` when no more will come.
fn parse(bytes: &[u8], ended: bool) -> Result<Option<Reply>, String> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS];
    let mut head = httparse::Response::new(&mut headers);
    let httparse::Status::Complete(start) = head.parse(bytes).map_err(|error| error.to_string())? else {
        return Ok(None);
    };
    let length = head.headers.iter().find(|header| header.name.eq_ignore_ascii_case("content-length"));
    let length = length.map(|header| std::str::from_utf8(header.value).ok()?.parse::<usize>().ok());
    let body = bytes.get(start..).unwrap_or_default();
    let body = match length {
        None if ended => Some(body),
        None => None,
        Some(None) => return Err("a wrong content-length".to_owned()),
        Some(Some(length)) => body.get(..length),
    };
    Ok(body.map(|body| Reply { status: head.code.unwrap_or(0), body: body.to_vec() }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_ends_where_it_says_or_where_the_connection_does() {
        let whole = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokmore";
        for end in 0..41 {
            assert_eq!(parse(&whole[..end.min(whole.len() - 5)], false).ok().flatten(), None, "{end}");
        }
        assert_eq!(parse(whole, false).unwrap().unwrap(), Reply { status: 200, body: b"ok".to_vec() });
        let open = b"HTTP/1.1 500 x\r\n\r\nabc";
        assert_eq!(parse(open, false).unwrap(), None);
        assert_eq!(parse(open, true).unwrap().unwrap(), Reply { status: 500, body: b"abc".to_vec() });
        assert!(parse(b"SSH-2.0-OpenSSH\r\n", true).is_err());
        assert!(parse(b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n", true).is_err());
    }
}
