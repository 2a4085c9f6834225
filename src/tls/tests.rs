//! Whole handshakes in memory, between a listener's rules and rustls' own client.

mod stream;

use super::certificates::now;
use super::certificates::tests::{certificate, made};
use super::client_certificates::{ClientCertificates, ClientPolicy, Mode};
use super::peer::TlsPeer;
use super::rules::{Settings, TlsRules, Version, provider};
use super::tickets::TicketKeys;
use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ClientConnection, Resumption};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::Acceptor;
use rustls::{
    ClientConfig, DigitallySignedStruct, Error, HandshakeKind, NamedGroup, ProtocolVersion, ServerConnection,
    SignatureScheme, version,
};
use std::path::PathBuf;
use std::sync::Arc;

/// Accepts every certificate: these tests look at the server's side.
#[derive(Debug)]
struct Trusting;

impl ServerCertVerifier for Trusting {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}

/// A client that keeps its tickets; with a certificate and its key, if it has them.
fn client(tls12: bool, own: Option<(&str, &str)>) -> Arc<ClientConfig> {
    let versions: &[_] = if tls12 { &[&version::TLS12] } else { &[&version::TLS13] };
    let builder = ClientConfig::builder_with_provider(provider()).with_protocol_versions(versions).unwrap();
    let builder = builder.dangerous().with_custom_certificate_verifier(Arc::new(Trusting));
    let mut config = match own {
        None => builder.with_no_client_auth(),
        Some((cert, key)) => {
            let chain = vec![CertificateDer::from_pem_slice(cert.as_bytes()).unwrap()];
            builder.with_client_auth_cert(chain, PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap()).unwrap()
        }
    };
    config.resumption = Resumption::in_memory_sessions(8);
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Arc::new(config)
}

/// The server's side after a handshake in which the client asks for `name`.
fn handshake(rules: &TlsRules, client: &Arc<ClientConfig>, name: &'static str) -> Result<ServerConnection, Error> {
    let mut client = ClientConnection::new(client.clone(), ServerName::try_from(name).unwrap()).unwrap();
    let mut hello = Vec::new();
    client.write_tls(&mut hello).unwrap();
    let mut acceptor = Acceptor::default();
    acceptor.read_tls(&mut hello.as_slice()).unwrap();
    let accepted = acceptor.accept().map_err(|(error, _)| error)?.unwrap();
    let config = rules.server_config(&accepted.client_hello()).unwrap();
    let mut server = accepted.into_connection(config).map_err(|(error, _)| error)?;
    loop {
        let mut bytes = Vec::new();
        while server.wants_write() {
            server.write_tls(&mut bytes).unwrap();
        }
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            client.read_tls(&mut rest).unwrap();
            client.process_new_packets()?;
        }
        let mut answer = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut answer).unwrap();
        }
        let is_over = bytes.is_empty() && answer.is_empty();
        let mut rest = answer.as_slice();
        while !rest.is_empty() {
            server.read_tls(&mut rest).unwrap();
            server.process_new_packets()?;
        }
        if is_over {
            assert!(!server.is_handshaking());
            return Ok(server);
        }
    }
}

fn rules_of(settings: &Settings, clients: &[Arc<ClientPolicy>], tickets: &Arc<TicketKeys>) -> TlsRules {
    let certificates = [Arc::new(certificate(&["a.example", "*.example"], false))];
    TlsRules::new(settings, &certificates, clients, tickets).unwrap()
}

fn tickets() -> Arc<TicketKeys> {
    Arc::new(TicketKeys::new(now()))
}

#[test]
fn the_post_quantum_exchange_of_keys_comes_first_and_http2_is_offered() {
    let rules = rules_of(&Settings::default(), &[], &tickets());
    let server = handshake(&rules, &client(false, None), "a.example").unwrap();
    assert_eq!(server.negotiated_key_exchange_group().map(|group| group.name()), Some(NamedGroup::X25519MLKEM768));
    assert_eq!(server.alpn_protocol(), Some(&b"h2"[..]));
    assert!(rules.http2());
    let rules = rules_of(&Settings { http2: false, ..Settings::default() }, &[], &tickets());
    let server = handshake(&rules, &client(true, None), "a.example").unwrap();
    assert_eq!(server.alpn_protocol(), Some(&b"http/1.1"[..]));
    assert_eq!(server.protocol_version(), Some(ProtocolVersion::TLSv1_2));
    let rules = rules_of(&Settings { min_version: Version::Tls13, ..Settings::default() }, &[], &tickets());
    assert!(handshake(&rules, &client(true, None), "a.example").is_err());
    assert!(TlsRules::of_pair(b"", b"", &Settings::default()).is_err());
}

#[test]
fn a_session_is_resumed_by_another_process_with_the_same_keys_and_rules() {
    for tls12 in [true, false] {
        let (old, new) = (tickets(), tickets());
        let (client, settings) = (client(tls12, None), Settings::default());
        let kind = |rules: &TlsRules| handshake(rules, &client, "a.example").unwrap().handshake_kind();
        let before = rules_of(&settings, &[], &old);
        assert_ne!(kind(&before), Some(HandshakeKind::Resumed));
        assert_eq!(kind(&before), Some(HandshakeKind::Resumed));
        new.import(&old.export(), now()).unwrap();
        let after = rules_of(&settings, &[], &new);
        assert_eq!(kind(&after), Some(HandshakeKind::Resumed));
        assert_ne!(kind(&rules_of(&settings, &[], &tickets())), Some(HandshakeKind::Resumed), "other keys");
        let stricter = Settings { http2: false, ..Settings::default() };
        assert_ne!(kind(&rules_of(&stricter, &[], &new)), Some(HandshakeKind::Resumed), "other rules");
    }
}

/// An authority and a client's certificate of it.
struct Clients {
    dir: PathBuf,
    cert: String,
    key: String,
}

impl Clients {
    fn new(name: &str) -> Clients {
        let dir = std::env::temp_dir().join(format!("clients-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let ca_key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        std::fs::write(dir.join("ca.pem"), params.self_signed(&ca_key).unwrap().pem()).unwrap();
        let issuer = Issuer::new(params, &ca_key);
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, "alice");
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let cert = params.signed_by(&key, &issuer).unwrap().pem();
        Clients { dir, cert, key: key.serialize_pem() }
    }

    fn asked(&self, mode: Mode, hosts: &[&str]) -> (Settings, Vec<Arc<ClientPolicy>>) {
        let hosts = hosts.iter().map(|host| (*host).to_owned()).collect();
        let wanted = ClientCertificates { ca: self.dir.join("ca.pem"), crl: None, mode, hosts };
        let policy = Arc::new(ClientPolicy::load(&wanted, &provider()).unwrap());
        (Settings { client_certificates: vec![wanted], ..Settings::default() }, vec![policy])
    }
}

impl Drop for Clients {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

#[test]
fn a_certificate_is_asked_for_by_the_name_of_the_handshake() {
    let clients = Clients::new("names");
    let (settings, policies) = clients.asked(Mode::Required, &["admin.example", "*.staff.example"]);
    let rules = rules_of(&settings, &policies, &tickets());
    let alice = client(false, Some((&clients.cert, &clients.key)));
    let (_, stranger_key) = made(&["x"], false);
    let stranger_cert = CertificateParams::new(Vec::new()).unwrap();
    let stranger_cert = stranger_cert.self_signed(&KeyPair::from_pem(&stranger_key).unwrap()).unwrap().pem();
    let stranger = client(false, Some((&stranger_cert, &stranger_key)));
    for name in ["admin.example", "a.staff.example", "a.b.staff.example"] {
        assert!(handshake(&rules, &client(false, None), name).is_err(), "{name}");
        assert!(handshake(&rules, &client(true, None), name).is_err(), "{name}");
        assert!(handshake(&rules, &stranger, name).is_err(), "{name}");
        let server = handshake(&rules, &alice, name).unwrap();
        let peer = TlsPeer::new(rules.client_policy(Some(name)), server.peer_certificates());
        assert_eq!(peer.certificate().map(|certificate| certificate.subject.as_str()), Some("CN=alice"));
        assert_eq!(peer.policy(), rules.client_policy(Some("admin.example")));
    }
    let server = handshake(&rules, &alice, "www.example").unwrap();
    assert!(server.peer_certificates().is_none(), "not asked");
    let peer = TlsPeer::new(rules.client_policy(Some("www.example")), None);
    assert_eq!((peer.policy(), peer.certificate()), (None, None));
    assert_ne!(rules.client_policy(Some("admin.example")), None);
    assert_eq!(rules.client_policy(Some("staff.example")), None, "* is at least one label");
    assert!(rules.asks_clients() && !rules_of(&Settings::default(), &[], &tickets()).asks_clients());
}

#[test]
fn no_session_is_resumed_where_certificates_are_asked_for() {
    let clients = Clients::new("resumed");
    for (tls12, mode) in
        [(true, Mode::Required), (false, Mode::Required), (true, Mode::Optional), (false, Mode::Optional)]
    {
        let alice = client(tls12, Some((&clients.cert, &clients.key)));
        let keys = tickets();
        let open = rules_of(&Settings::default(), &[], &keys);
        handshake(&open, &alice, "a.example").unwrap();
        let (settings, policies) = clients.asked(mode, &[]);
        let asking = rules_of(&settings, &policies, &keys);
        for _ in 0..3 {
            let server = handshake(&asking, &alice, "a.example").unwrap();
            assert_ne!(server.handshake_kind(), Some(HandshakeKind::Resumed), "{tls12} {mode:?}");
            assert!(server.peer_certificates().is_some());
        }
        // Nor where they are not asked for any more, by what was given then.
        let per_host = clients.asked(mode, &["b.example"]);
        let rules = rules_of(&per_host.0, &per_host.1, &keys);
        assert_ne!(handshake(&rules, &alice, "a.example").unwrap().handshake_kind(), Some(HandshakeKind::Resumed));
    }
}
