//! What `tls:` of a listener says.

use super::client_certificates::ClientCertificates;
use std::path::PathBuf;
use std::time::Duration;

/// For a whole handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// What `tls:` of a listener says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Settings {
    /// The first is the default.
    pub(crate) certificates: Vec<Source>,
    pub(crate) min_version: Version,
    /// At most one entry for a host.
    pub(crate) client_certificates: Vec<ClientCertificates>,
    /// HTTP/2 is offered beside HTTP/1.1.
    pub(crate) http2: bool,
    /// For a whole handshake.
    pub(crate) handshake_timeout: Duration,
    /// Sent as Strict-Transport-Security.
    pub(crate) hsts: Option<Duration>,
}

/// Where a certificate comes from.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Source {
    Files(CertificateFiles),
    /// Made by ourselves for these names, and kept in this directory.
    SelfSigned {
        names: Vec<String>,
        dir: PathBuf,
    },
}

/// A chain and its key, in PEM.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct CertificateFiles {
    pub(crate) cert: PathBuf,
    pub(crate) key: PathBuf,
}

/// The oldest version that is spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Version {
    Tls12,
    Tls13,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            certificates: Vec::new(),
            min_version: Version::Tls12,
            client_certificates: Vec::new(),
            http2: true,
            handshake_timeout: HANDSHAKE_TIMEOUT,
            hsts: None,
        }
    }
}
