//! Where the processes of a group listen, as the kernel tells it (proc_net(5)): for an app that the preload script
//! did not reach.

use super::exit::members;
use std::collections::{HashMap, HashSet};
use std::fmt;
use std::fs;
use std::path::Path;

/// Processes of a group that are looked at, and open files of each.
const MOST_PROCESSES: usize = 64;
const MOST_FILES: usize = 10_000;
/// Characters of a command line that are shown.
const LONGEST_COMMAND: usize = 80;

/// A socket on which a process waits for connections.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum At {
    Tcp(u16),
    Unix(String),
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Listening {
    pub(crate) pid: u32,
    /// What runs, shortened.
    pub(crate) command: String,
    pub(crate) at: At,
    /// Whether its program is Node.js.
    pub(crate) is_node: bool,
    /// Whether its NODE_OPTIONS names the preload script.
    pub(crate) has_script: bool,
}

impl fmt::Display for At {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            At::Tcp(port) => write!(f, "TCP port {port}"),
            At::Unix(path) => write!(f, "the Unix socket {path}"),
        }
    }
}

impl Listening {
    /// What to do that the proxy gets it.
    pub(crate) fn remedy(&self) -> &'static str {
        match (&self.at, self.is_node, self.has_script) {
            (At::Unix(_), ..) => {
                "let it listen on the path in the environment variable PINGORA_UNIX_PROXY_SOCKET, or on a TCP port"
            }
            (At::Tcp(_), true, false) => {
                "its NODE_OPTIONS lacks what the proxy wrote there: where a script sets NODE_OPTIONS, write \
                 NODE_OPTIONS=\"$NODE_OPTIONS ...\""
            }
            (At::Tcp(_), true, true) => {
                "it is on any port in a process that the app started, speaks no HTTP, or its node ignores NODE_OPTIONS \
                 (file capabilities, setuid): let it listen on a port of its own choice, with a plain node"
            }
            (At::Tcp(_), false, _) => {
                "it is not Node.js: write \"{socket}\" where it takes the path of a Unix socket, in command or env, \
                 and preload: false"
            }
        }
    }
}

/// All sockets of a process group, those in `own` left out. Reads many files: not for a thread that serves traffic.
pub(crate) fn of_group(group: u32, own: impl Fn(&str) -> bool) -> Vec<Listening> {
    let mut found = Vec::new();
    let mut seen = HashSet::new();
    for pid in members(group).take(MOST_PROCESSES) {
        let sockets = inodes(pid);
        if sockets.is_empty() {
            continue;
        }
        let program = fs::read_link(format!("/proc/{pid}/exe")).unwrap_or_default();
        let is_node = program.file_name().is_some_and(|name| name.to_string_lossy().starts_with("node"));
        let has_script = has_script(pid);
        let listening = listening(Path::new(&format!("/proc/{pid}/net")));
        let places = sockets.iter().filter_map(|inode| listening.get(inode));
        for at in places.filter(|at| !matches!(at, At::Unix(path) if own(path))) {
            // Processes of a cluster share theirs.
            if seen.insert(at.clone()) {
                found.push(Listening { pid, command: command(pid), at: at.clone(), is_node, has_script });
            }
        }
    }
    found
}

fn has_script(pid: u32) -> bool {
    let environ = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
    let options = environ.split(|byte| *byte == 0).find_map(|entry| entry.strip_prefix(b"NODE_OPTIONS="));
    options.is_some_and(|options| memchr::memmem::find(options, b"preload.cjs").is_some())
}

fn command(pid: u32) -> String {
    let bytes = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes).replace('\0', " ");
    text.trim().chars().map(|c| if c.is_control() { ' ' } else { c }).take(LONGEST_COMMAND).collect()
}

/// The numbers of the sockets that a process has open.
fn inodes(pid: u32) -> HashSet<u64> {
    let files = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten().take(MOST_FILES);
    let links = files.filter_map(|file| fs::read_link(file.path()).ok());
    links.filter_map(|link| link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()).collect()
}

/// All listening sockets of a network namespace by their numbers.
fn listening(net: &Path) -> HashMap<u64, At> {
    let read = |name: &str| fs::read_to_string(net.join(name)).unwrap_or_default();
    let tcp = read("tcp") + &read("tcp6");
    let unix = read("unix");
    tcp.lines().filter_map(tcp_line).chain(unix.lines().filter_map(unix_line)).collect()
}

/// `sl local_address rem_address st tx:rx tr:tm retrnsmt uid timeout inode ...`; 0A is LISTEN.
fn tcp_line(line: &str) -> Option<(u64, At)> {
    let fields: Vec<&str> = line.split_ascii_whitespace().collect();
    let (_, port) = fields.get(1)?.rsplit_once(':')?;
    if *fields.get(3)? != "0A" {
        return None;
    }
    Some((fields.get(9)?.parse().ok()?, At::Tcp(u16::from_str_radix(port, 16).ok()?)))
}

/// `Num RefCount Protocol Flags Type St Inode Path`; the flag 00010000 is that of listening ones.
fn unix_line(line: &str) -> Option<(u64, At)> {
    let mut fields = line.split_ascii_whitespace();
    let (flags, inode) = (fields.nth(3)?, fields.nth(2)?);
    let path = fields.next().filter(|_| flags == "00010000")?;
    Some((inode.parse().ok()?, At::Unix(path.to_owned())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;
    use std::os::unix::net::UnixListener;

    #[test]
    fn lines_of_the_kernel_are_read() {
        let tcp = "   0: 0100007F:0BB8 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 4242 1";
        assert_eq!(tcp_line(tcp), Some((4242, At::Tcp(3000))));
        assert_eq!(tcp_line(&tcp.replace(" 0A ", " 01 ")), None);
        assert_eq!(tcp_line("  sl  local_address rem_address   st"), None);
        let unix = "0000000000000000: 00000002 00000000 00010000 0001 01 4711 /run/x.sock";
        assert_eq!(unix_line(unix), Some((4711, At::Unix("/run/x.sock".into()))));
        assert_eq!(unix_line(&unix.replace("00010000", "00000000")), None);
        assert_eq!(unix_line("Num RefCount Protocol Flags Type St Inode Path"), None);
    }

    #[test]
    fn our_own_sockets_are_found() {
        let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
        let path = std::env::temp_dir().join(format!("pup-listening-{}.sock", std::process::id()));
        let _unix = UnixListener::bind(&path).unwrap();
        let group = rustix::process::getpgrp().as_raw_nonzero().get().unsigned_abs();
        let port = At::Tcp(tcp.local_addr().unwrap().port());
        let socket = At::Unix(path.to_string_lossy().into_owned());
        let all: Vec<At> = of_group(group, |_| false).into_iter().map(|one| one.at).collect();
        assert!(all.contains(&port) && all.contains(&socket), "{all:?}");
        let rest = of_group(group, |path| path.contains("pup-listening"));
        assert!(rest.iter().all(|one| one.at != socket));
        std::fs::remove_file(path).unwrap();
    }
}
