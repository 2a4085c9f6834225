//! What a listener's handshakes go by.

use super::certificates::Certificate;
use super::client_certificates::ClientPolicy;
use super::record::secrets;
use super::resolver::Resolver;
pub(crate) use super::settings::{CertificateFiles, Settings, Source, Version};
use super::tickets::{PolicyId, TicketKeys};
use arc_swap::ArcSwap;
use aws_lc_rs::digest::{SHA256, digest};
use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::{default_provider, kx_group};
use rustls::server::{ClientHello, NoServerSessionStorage};
use rustls::{Error, ServerConfig, SupportedProtocolVersion, version};
use std::sync::Arc;
use std::time::Duration;

/// The rules of a listener in force; a connection loads them when its ClientHello is whole.
pub(crate) type SharedTlsRules = Arc<ArcSwap<TlsRules>>;

/// What is asked of clients for a host: differs where a client that was let in for one may not be for the other.
pub(crate) type ClientPolicyId = Option<[u8; 32]>;

/// What the handshakes of one listener go by, at one moment.
#[derive(Debug)]
pub(crate) struct TlsRules {
    /// For every host that has nothing of its own.
    default: Served,
    /// Those that have, the most specific first.
    hosts: Vec<(String, Served)>,
    http2: bool,
    pub(crate) handshake_timeout: Duration,
    pub(crate) hsts: Option<Duration>,
}

/// How the clients of a host are served.
#[derive(Clone, Debug)]
struct Served {
    config: Arc<ServerConfig>,
    policy: ClientPolicyId,
}

impl TlsRules {
    /// `certificates` and `clients` are those that the settings name, in their order.
    ///
    /// # Errors
    /// rustls refuses the whole.
    pub(super) fn new(
        settings: &Settings,
        certificates: &[Arc<Certificate>],
        clients: &[Arc<ClientPolicy>],
        tickets: &Arc<TicketKeys>,
    ) -> Result<TlsRules, Error> {
        let resolver = Arc::new(Resolver::new(certificates));
        let ticket_policy = ticket_policy(settings, clients);
        let serve = |client: Option<&Arc<ClientPolicy>>| {
            let mut config = server_config(settings, client, resolver.clone())?;
            if client.is_none() {
                config.ticketer = tickets.ticketer(ticket_policy);
            }
            Ok::<_, Error>(Served { config: Arc::new(config), policy: client.map(|client| client.id) })
        };
        let (mut default, mut hosts) = (serve(None)?, Vec::new());
        for (wanted, client) in settings.client_certificates.iter().zip(clients) {
            let served = serve(Some(client))?;
            hosts.extend(wanted.hosts.iter().map(|host| (host.clone(), served.clone())));
            if wanted.hosts.is_empty() {
                default = served;
            }
        }
        // A name before a pattern, and the longer pattern first.
        hosts.sort_by_key(|(host, _)| (host.starts_with("*."), usize::MAX - host.len()));
        let Settings { http2, handshake_timeout, hsts, .. } = *settings;
        Ok(TlsRules { default, hosts, http2, handshake_timeout, hsts })
    }

    /// With one certificate and its key, in PEM.
    ///
    /// # Errors
    /// What cannot be used, and why.
    #[cfg(test)]
    pub(crate) fn of_pair(cert: &[u8], key: &[u8], settings: &Settings) -> Result<TlsRules, String> {
        let text = [cert, b"\n", key].concat();
        let certificate = Certificate::from_pem(std::path::Path::new("test.pem"), &text, &provider());
        let certificate = Arc::new(certificate.map_err(|fault| fault.to_string())?);
        let tickets = Arc::new(TicketKeys::new(super::certificates::now()));
        TlsRules::new(settings, &[certificate], &[], &tickets).map_err(|error| error.to_string())
    }

    /// What a client is answered by that begins so; `None`: no certificate is for it.
    pub(crate) fn server_config(&self, hello: &ClientHello<'_>) -> Option<Arc<ServerConfig>> {
        Some(self.served(hello.server_name()).config.clone())
    }

    /// HTTP/2 is offered beside HTTP/1.1.
    #[allow(dead_code)] // The handshake itself says what was chosen.
    pub(crate) fn http2(&self) -> bool {
        self.http2
    }

    /// The policy of the client that begins so, where any host has one.
    pub(crate) fn asked(&self, hello: &ClientHello<'_>) -> Option<ClientPolicyId> {
        self.asks_clients().then(|| self.client_policy(hello.server_name()))
    }

    /// What is asked of clients for a host, in lower case and without a port; `None` where no name was asked for.
    pub(crate) fn client_policy(&self, host: Option<&str>) -> ClientPolicyId {
        self.served(host).policy
    }

    /// Whether a certificate is asked for anywhere.
    pub(crate) fn asks_clients(&self) -> bool {
        self.default.policy.is_some() || !self.hosts.is_empty()
    }

    fn served(&self, host: Option<&str>) -> &Served {
        let Some(host) = host else { return &self.default };
        let is_of = |pattern: &str| match pattern.strip_prefix('*') {
            Some(ending) => host.len() > ending.len() && host.ends_with(ending),
            None => pattern == host,
        };
        self.hosts.iter().find(|(pattern, _)| is_of(pattern)).map_or(&self.default, |(_, served)| served)
    }
}

fn server_config(
    settings: &Settings,
    client: Option<&Arc<ClientPolicy>>,
    resolver: Arc<Resolver>,
) -> Result<ServerConfig, Error> {
    let builder =
        ServerConfig::builder_with_provider(provider()).with_protocol_versions(versions(settings.min_version))?;
    let builder = match client {
        Some(client) => builder.with_client_cert_verifier(client.verifier.clone()),
        None => builder.with_no_client_auth(),
    };
    let mut config = builder.with_cert_resolver(resolver);
    config.alpn_protocols = alpn(settings.http2);
    // rustls' own would be 256 sessions behind a lock. A session that is resumed takes its client's certificate along
    // unasked, so where one is asked for there are neither tickets nor sessions.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = if client.is_some() { 0 } else { 2 };
    secrets::prepare(&mut config);
    Ok(config)
}

/// Of all that a session may not outlive: whoever resumes one has not been asked what is asked now.
fn ticket_policy(settings: &Settings, clients: &[Arc<ClientPolicy>]) -> PolicyId {
    let mut text = format!("{:?} {}\n", settings.min_version, settings.http2).into_bytes();
    for (wanted, client) in settings.client_certificates.iter().zip(clients) {
        text.extend_from_slice(&client.id);
        text.extend_from_slice(format!("{:?}\n", wanted.hosts).as_bytes());
    }
    let mut id = [0; 32];
    id.copy_from_slice(digest(&SHA256, &text).as_ref());
    id
}

fn versions(least: Version) -> &'static [&'static SupportedProtocolVersion] {
    const BOTH: &[&SupportedProtocolVersion] = &[&version::TLS13, &version::TLS12];
    match least {
        Version::Tls12 => BOTH,
        Version::Tls13 => BOTH.get(..1).unwrap_or(BOTH),
    }
}

/// Always named: Pingora brings a second provider, and rustls refuses to choose. The exchange of keys that also withstands a
/// quantum computer comes first.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    let groups = [kx_group::X25519MLKEM768, kx_group::X25519, kx_group::SECP256R1, kx_group::SECP384R1];
    Arc::new(CryptoProvider { kx_groups: groups.to_vec(), ..default_provider() })
}

fn alpn(http2: bool) -> Vec<Vec<u8>> {
    // Some old clients name the version that they begin with.
    let all: &[&[u8]] = &[b"h2", b"http/1.1", b"http/1.0"];
    let offered = if http2 { all } else { &all[1..] };
    offered.iter().map(|name| name.to_vec()).collect()
}
