//! What a listener's handshakes go by.

use super::record::secrets;
use arc_swap::ArcSwap;
use rustls::ServerConfig;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::ClientHello;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// For a whole handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// What `tls:` of a listener says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Settings {
    /// The first is the default.
    pub(crate) certificates: Vec<CertificateFiles>,
    /// HTTP/2 is offered beside HTTP/1.1.
    pub(crate) http2: bool,
    /// For a whole handshake.
    pub(crate) handshake_timeout: Duration,
    /// Sent as Strict-Transport-Security.
    pub(crate) hsts: Option<Duration>,
}

/// A chain and its key, in PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CertificateFiles {
    pub(crate) cert: PathBuf,
    pub(crate) key: PathBuf,
}

impl Default for Settings {
    fn default() -> Self {
        Settings { certificates: Vec::new(), http2: true, handshake_timeout: HANDSHAKE_TIMEOUT, hsts: None }
    }
}

/// What the handshakes of one listener go by, at one moment.
#[derive(Debug)]
pub(crate) struct TlsRules {
    config: Arc<ServerConfig>,
    http2: bool,
    pub(crate) handshake_timeout: Duration,
    pub(crate) hsts: Option<Duration>,
}

/// The rules of a listener in force; a connection loads them when its ClientHello is whole.
pub(crate) type SharedTlsRules = Arc<ArcSwap<TlsRules>>;

impl TlsRules {
    /// Reads what the settings name.
    ///
    /// # Errors
    /// What cannot be used, and why.
    pub(crate) fn load(settings: &Settings) -> Result<TlsRules, String> {
        let first = settings.certificates.first().ok_or("tls has no certificate")?;
        let read = |path: &PathBuf| std::fs::read(path).map_err(|error| format!("{}: {error}", path.display()));
        TlsRules::of_pair(&read(&first.cert)?, &read(&first.key)?, settings)
    }

    /// With one certificate and its key, in PEM.
    ///
    /// # Errors
    /// What cannot be used, and why.
    pub(crate) fn of_pair(cert: &[u8], key: &[u8], settings: &Settings) -> Result<TlsRules, String> {
        let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(cert).collect();
        let chain = chain.map_err(|error| format!("certificate: {error}"))?;
        let key = PrivateKeyDer::from_pem_slice(key).map_err(|error| format!("key: {error}"))?;
        let made = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .and_then(|builder| builder.with_no_client_auth().with_single_cert(chain, key));
        let mut config = made.map_err(|error| error.to_string())?;
        config.alpn_protocols = alpn(settings.http2);
        secrets::prepare(&mut config);
        Ok(TlsRules {
            config: Arc::new(config),
            http2: settings.http2,
            handshake_timeout: settings.handshake_timeout,
            hsts: settings.hsts,
        })
    }

    /// What a client is answered by that begins so; `None`: no certificate is for it.
    pub(crate) fn server_config(&self, _hello: &ClientHello<'_>) -> Option<Arc<ServerConfig>> {
        Some(self.config.clone())
    }

    /// HTTP/2 is offered beside HTTP/1.1.
    #[allow(dead_code)] // The handshake itself says what was chosen.
    pub(crate) fn http2(&self) -> bool {
        self.http2
    }
}

/// Always named: Pingora brings a second provider, and rustls refuses to choose.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

fn alpn(http2: bool) -> Vec<Vec<u8>> {
    // Some old clients name the version that they begin with.
    let all: &[&[u8]] = &[b"h2", b"http/1.1", b"http/1.0"];
    let offered = if http2 { all } else { &all[1..] };
    offered.iter().map(|name| name.to_vec()).collect()
}
