//! What can go wrong with processes and directories, in sentences that say where and what to do.

use std::fmt;
use std::io;
use std::path::PathBuf;

#[derive(Debug)]
pub(crate) enum Error {
    /// Another proxy holds the runtime directory.
    InUse {
        path: PathBuf,
        pid: Option<u32>,
    },
    /// The runtime directory is not fit to be used.
    Unsafe {
        path: PathBuf,
        what: String,
    },
    /// A socket's path would not fit into a socket address.
    PathTooLong {
        path: PathBuf,
        length: usize,
        limit: usize,
    },
    /// An app's name cannot be part of a file name.
    AppName {
        name: String,
    },
    ProgramNotFound {
        program: String,
        looked_in: Vec<PathBuf>,
    },
    NotExecutable {
        path: PathBuf,
    },
    EmptyCommand,
    Cwd {
        path: PathBuf,
        source: io::Error,
    },
    /// Only root can run an app as somebody else.
    Identity {
        user: String,
        doing: &'static str,
        source: io::Error,
    },
    Io {
        doing: String,
        source: io::Error,
    },
}

impl Error {
    pub(super) fn io(doing: impl Into<String>) -> impl FnOnce(io::Error) -> Error {
        let doing = doing.into();
        move |source| Error::Io { doing, source }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::InUse { path, pid } => {
                let path = path.display();
                match pid {
                    Some(pid) => write!(f, "runtime directory {path} is in use by another proxy, pid {pid}")?,
                    None => write!(f, "runtime directory {path} is in use by another proxy")?,
                }
                f.write_str("; stop that one or set another runtime_dir")
            }
            Error::Unsafe { path, what } => write!(f, "runtime directory {}: {what}", path.display()),
            Error::PathTooLong { path, length, limit } => write!(
                f,
                "socket path {} has {length} bytes, a socket address holds {limit}; set a shorter runtime_dir or app name",
                path.display()
            ),
            Error::AppName { name } => write!(
                f,
                "app name {name:?} cannot be part of a file name; use letters, digits, '-' and '_', at most 64"
            ),
            Error::ProgramNotFound { program, looked_in } => {
                write!(f, "program {program:?} not found; looked for ")?;
                let places: Vec<_> = looked_in.iter().map(|p| p.display().to_string()).collect();
                f.write_str(&if places.is_empty() { "it in an empty PATH".into() } else { places.join(", ") })
            }
            Error::NotExecutable { path } => write!(f, "{} is not an executable file", path.display()),
            Error::EmptyCommand => f.write_str("the command is empty"),
            Error::Cwd { path, source } => write!(f, "cannot use working directory {}: {source}", path.display()),
            Error::Identity { user, doing, source } => {
                write!(f, "cannot run as user {user}: {doing}: {source}")?;
                match source.raw_os_error() {
                    Some(nix::libc::EPERM) => f.write_str(" (only a proxy that runs as root can)"),
                    _ => Ok(()),
                }
            }
            Error::Io { doing, source } => write!(f, "{doing}: {source}"),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Error::Cwd { source, .. } | Error::Identity { source, .. } | Error::Io { source, .. } => Some(source),
            _ => None,
        }
    }
}
