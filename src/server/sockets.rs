//! Every listening socket of the proxy. We bind them ourselves, before anything else is started, and lend
//! duplicates to services: so they can come from a predecessor or from systemd, go to a successor,
//! and be closed or kept as we see fit.

use crate::process::answers;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags, chmod, fcntl_getfl, fcntl_setfl};
use rustix::io::{Errno, FdFlags, fcntl_dupfd_cloexec, fcntl_setfd};
use rustix::net::{
    AddressFamily, SocketAddrAny, SocketAddrUnix, SocketFlags, SocketType, bind, getsockname, listen, socket_with,
    sockopt,
};
use std::fmt;
use std::fs::symlink_metadata;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};
use tokio::sync::watch;

/// Connections that wait to be accepted. As Pingora's; the kernel caps it at net.core.somaxconn.
const BACKLOG: i32 = 65_535;

/// What a socket is for, by its key of the configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    Listeners,
    Metrics,
    Health,
    Admin,
}

impl Purpose {
    const ALL: [Purpose; 4] = [Purpose::Listeners, Purpose::Metrics, Purpose::Health, Purpose::Admin];

    pub(super) fn key(self) -> &'static str {
        match self {
            Purpose::Listeners => "listeners",
            Purpose::Metrics => "metrics",
            Purpose::Health => "health",
            Purpose::Admin => "admin",
        }
    }
}

impl fmt::Display for Purpose {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.key())
    }
}

/// A listening socket and its address: `IP:PORT` or an absolute path.
#[derive(Clone, Debug)]
struct Bound {
    purpose: Purpose,
    address: String,
    fd: Arc<OwnedFd>,
}

/// The table. Every file descriptor in it is close-on-exec and nonblocking.
#[derive(Debug, Default)]
pub(crate) struct Sockets {
    bound: Mutex<Vec<Bound>>,
    /// Came from elsewhere and not claimed by a key yet.
    inherited: Mutex<Vec<Inherited>>,
    /// How often a socket was bound anew.
    renewed: watch::Sender<u64>,
}

#[derive(Debug)]
struct Inherited {
    /// What it was for, if that was told.
    purpose: Option<Purpose>,
    /// As told: for messages.
    name: String,
    address: String,
    fd: OwnedFd,
}

impl Sockets {
    /// Takes sockets that are open already, under the names of [`Sockets::export`] or any others. They are used
    /// where a key names their address; see [`Sockets::close_unclaimed`]. What does not listen is refused with
    /// a warning.
    pub(crate) fn inherit(&self, sockets: Vec<(String, OwnedFd)>) {
        let mut inherited = lock(&self.inherited);
        for (name, fd) in sockets {
            match usable(&fd) {
                Ok(address) => {
                    let said = name.split_once('=').map_or("", |(purpose, _)| purpose);
                    let purpose = Purpose::ALL.into_iter().find(|purpose| purpose.key() == said);
                    inherited.push(Inherited { purpose, name, address, fd });
                }
                Err(why) => log::warn!("the socket {name:?} that was passed is not used: {why}"),
            }
        }
    }

    /// Listens on an address: on an inherited socket if there is one, else on a new one. Port 0 takes an
    /// inherited socket of the same purpose, else a free port. Returns the real address.
    ///
    /// # Errors
    /// What stands in the way, and what to do.
    pub(crate) fn tcp(&self, purpose: Purpose, address: SocketAddr) -> Result<SocketAddr, String> {
        let fits = |other: &Inherited| match address.port() {
            0 => {
                let there = other.address.parse::<SocketAddr>().is_ok_and(|there| there.ip() == address.ip());
                there && other.purpose == Some(purpose)
            }
            _ => other.address == address.to_string(),
        };
        let fd = match self.claim(fits) {
            Some(fd) => fd,
            None => bind_tcp(address).map_err(|error| refused(address, purpose, error))?,
        };
        let real = getsockname(&fd).and_then(SocketAddr::try_from);
        let real = real.map_err(|error| format!("cannot listen on {address}: {error}"))?;
        self.add(purpose, real.to_string(), fd);
        Ok(real)
    }

    /// Listens on a path, for this user alone. Returns the path as text.
    ///
    /// # Errors
    /// What stands in the way, and what to do.
    pub(crate) fn unix(&self, purpose: Purpose, path: &Path) -> Result<String, String> {
        let shown = path.display();
        let address =
            path.to_str().ok_or_else(|| format!("{shown} is not UTF-8; change `{purpose}` or `runtime_dir`"))?;
        // Without its path nobody reaches it.
        let inherited = self.claim(|other| other.address == address).filter(|_| path.exists());
        let fd = match inherited {
            Some(fd) => fd,
            None => {
                vacant(path, purpose)?;
                bind_unix(path).map_err(|error| format!("cannot take commands on {shown}: {error}"))?
            }
        };
        self.add(purpose, address.to_owned(), fd);
        Ok(address.to_owned())
    }

    /// Listens anew on a path where nothing stands any more. Services take it up, see [`Sockets::renewals`].
    ///
    /// # Errors
    /// What stands in the way.
    pub(super) fn renew(&self, path: &Path) -> io::Result<()> {
        let fd = Arc::new(bind_unix(path)?);
        for bound in lock(&self.bound).iter_mut().filter(|bound| Path::new(&bound.address) == path) {
            bound.fd = fd.clone();
        }
        self.renewed.send_modify(|times| *times += 1);
        Ok(())
    }

    /// Changes whenever a socket was renewed.
    pub(super) fn renewals(&self) -> watch::Receiver<u64> {
        self.renewed.subscribe()
    }

    fn claim(&self, fits: impl Fn(&Inherited) -> bool) -> Option<OwnedFd> {
        let mut inherited = lock(&self.inherited);
        let at = inherited.iter().position(fits)?;
        Some(inherited.remove(at).fd)
    }

    fn add(&self, purpose: Purpose, address: String, fd: OwnedFd) {
        lock(&self.bound).push(Bound { purpose, address, fd: Arc::new(fd) });
    }

    /// Closes inherited sockets that no key names, so that their clients are refused and do not wait for ever.
    /// `later` are addresses that are claimed afterwards.
    pub(super) fn close_unclaimed(&self, later: &[&str]) {
        lock(&self.inherited).retain(|socket| {
            let keep = later.contains(&socket.address.as_str());
            if !keep {
                let Inherited { name, address, .. } = socket;
                log::warn!("the socket {name:?} on {address} was passed, but no key names that address; it is closed");
            }
            keep
        });
    }

    /// A duplicate of a socket, to accept on.
    pub(super) fn lend(&self, address: &str) -> Result<OwnedFd, String> {
        let fd = self.find(address).ok_or_else(|| format!("{address} is closed"))?;
        fcntl_dupfd_cloexec(&*fd, 3).map_err(|error| format!("{address}: {error}"))
    }

    fn find(&self, address: &str) -> Option<Arc<OwnedFd>> {
        lock(&self.bound).iter().find(|bound| bound.address == address).map(|bound| bound.fd.clone())
    }

    /// Whether a client has connected to one of these and was not accepted yet.
    pub(super) fn pending(&self, addresses: &[String]) -> bool {
        let sockets: Vec<Arc<OwnedFd>> = addresses.iter().filter_map(|address| self.find(address)).collect();
        let mut polled: Vec<PollFd<'_>> = sockets.iter().map(|fd| PollFd::new(&**fd, PollFlags::IN)).collect();
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        poll(&mut polled, Some(&now)).is_ok_and(|ready| ready > 0)
    }

    /// Every socket with a name by which [`Sockets::inherit`] knows what it was for.
    pub(super) fn export(&self) -> Vec<(String, Arc<OwnedFd>)> {
        let named = |bound: &Bound| (format!("{}={}", bound.purpose, bound.address), bound.fd.clone());
        lock(&self.bound).iter().map(named).collect()
    }

    /// The addresses of a purpose.
    pub(crate) fn addresses(&self, purpose: Purpose) -> Vec<String> {
        lock(&self.bound).iter().filter(|bound| bound.purpose == purpose).map(|bound| bound.address.clone()).collect()
    }

    /// Lets hardly anybody new connect to the sockets of a purpose, which are about to be closed: the kernel resets those who
    /// have connected and were not accepted yet. It passes over a client while another waits; that one tries again after a second.
    pub(crate) fn narrow(&self, purpose: Purpose) {
        self.set_backlog(purpose, 0);
    }

    /// Closes our side of all sockets of a purpose. Once no service listens on them either, clients are refused.
    pub(crate) fn close(&self, purpose: Purpose) {
        // Somebody else may have them, too.
        self.set_backlog(purpose, BACKLOG);
        lock(&self.bound).retain(|bound| bound.purpose != purpose);
    }

    fn set_backlog(&self, purpose: Purpose, backlog: i32) {
        for bound in lock(&self.bound).iter().filter(|bound| bound.purpose == purpose) {
            if let Err(error) = listen(&bound.fd, backlog) {
                log::debug!("{}: a backlog of {backlog}: {error}", bound.address);
            }
        }
    }

    /// Lets go of everything. Paths stay: whoever has the sockets now needs them.
    pub(crate) fn release(&self) {
        lock(&self.bound).clear();
        lock(&self.inherited).clear();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// Makes an open file descriptor fit for the table; its address, or why it cannot be used.
fn usable(fd: &OwnedFd) -> Result<String, String> {
    let listens = sockopt::socket_type(fd).is_ok_and(|kind| kind == SocketType::STREAM)
        && sockopt::socket_acceptconn(fd).unwrap_or(false);
    if !listens {
        return Err("it is no listening stream socket".into());
    }
    let prepare = || -> Result<SocketAddrAny, Errno> {
        fcntl_setfd(fd, FdFlags::CLOEXEC)?;
        fcntl_setfl(fd, fcntl_getfl(fd)? | OFlags::NONBLOCK)?;
        // Whoever had it before may have been killed when it was narrow.
        listen(fd, BACKLOG)?;
        getsockname(fd)
    };
    let address = prepare().map_err(|error| error.to_string())?;
    if let Ok(tcp) = SocketAddr::try_from(address.clone()) {
        return Ok(tcp.to_string());
    }
    let unix = SocketAddrUnix::try_from(address).map_err(|_| "its address is of no known kind")?;
    let path = unix.path_bytes().ok_or("it has no path")?;
    String::from_utf8(path.to_vec()).map_err(|_| "its path is not UTF-8".into())
}

fn bind_tcp(address: SocketAddr) -> Result<OwnedFd, Errno> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let fd = socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, None)?;
    // Connections of a predecessor that linger must not keep us from its address.
    sockopt::set_socket_reuseaddr(&fd, true)?;
    bind(&fd, &address)?;
    listen(&fd, BACKLOG)?;
    Ok(fd)
}

fn bind_unix(path: &Path) -> Result<OwnedFd, Errno> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let fd = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    bind(&fd, &SocketAddrUnix::new(path)?)?;
    // Before anyone can connect.
    chmod(path, Mode::RUSR | Mode::WUSR)?;
    listen(&fd, BACKLOG)?;
    Ok(fd)
}

fn refused(address: SocketAddr, purpose: Purpose, error: Errno) -> String {
    match error {
        Errno::ADDRINUSE => format!(
            "cannot listen on {address}: another program does (ss -ltnp shows which); stop it or change `{purpose}`"
        ),
        Errno::ACCESS | Errno::PERM => {
            format!("cannot listen on {address}: ports below 1024 need root or CAP_NET_BIND_SERVICE")
        }
        _ => format!("cannot listen on {address}: {error}"),
    }
}

/// Removes a socket that nobody serves any more; anything else in its place is refused.
fn vacant(path: &Path, purpose: Purpose) -> Result<(), String> {
    let shown = path.display();
    let stands = |error| format!("cannot take commands on {shown}: {error}");
    match symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(stands(error)),
        Ok(meta) if !meta.file_type().is_socket() => {
            Err(format!("cannot take commands on {shown}: it is there and no socket; remove it or change `{purpose}`"))
        }
        Ok(_) if answers(path) => {
            Err(format!("cannot take commands on {shown}: another program does; stop it or change `{purpose}`"))
        }
        Ok(_) => std::fs::remove_file(path).map_err(stands),
    }
}

/// Where a predecessor's process id is written, ours is from now on; `always` also where none is.
pub(super) fn take_pid_file(path: &Path, always: bool) {
    let has_other = || std::fs::read_to_string(path).is_ok_and(|text| text.trim().parse::<u32>().is_ok());
    if (always || has_other())
        && let Err(error) = std::fs::write(path, format!("{}\n", std::process::id()))
    {
        log::warn!("writing the process id into {}: {error}", path.display());
    }
}

/// Removes the file of a process id that is still ours.
pub(super) fn remove_pid_file(path: &Path) {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    if text.trim().parse() == Ok(std::process::id()) {
        let _ = std::fs::remove_file(path);
    }
}

/// Removes the path of a socket that we have served. One of another proxy, started meanwhile, answers and stays.
pub(super) fn remove_path(path: &Path) {
    let is_socket = symlink_metadata(path).is_ok_and(|meta| meta.file_type().is_socket());
    if is_socket && !answers(path) {
        let _ = std::fs::remove_file(path);
    }
}

#[cfg(test)]
mod tests;
