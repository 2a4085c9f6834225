//! One certificate with its key, as two files hold them: checked, and known by its names and its end.

use super::pem::{self, Fault};
use rustls::SignatureAlgorithm;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use rustls::{Error, InconsistentKeys};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use webpki::EndEntityCert;
use x509_parser::prelude::{FromDer, GeneralName, ParsedExtension, X509Certificate};

const SECONDS_OF_A_DAY: i64 = 86_400;

/// A certificate, its chain and its key.
#[derive(Debug)]
pub(crate) struct Certificate {
    pub(super) key: Arc<CertifiedKey>,
    /// DNS names, in lower case, as the certificate has them: `*.example.com` stands for one label.
    pub(crate) names: Vec<String>,
    /// Whether it names addresses, which no client asks for by SNI.
    has_addresses: bool,
    /// Since the epoch, in seconds.
    pub(crate) not_before: i64,
    pub(crate) not_after: i64,
    pub(crate) algorithm: Algorithm,
    /// What is odd about its files and does not keep it from being used.
    pub(crate) warnings: Vec<Fault>,
}

/// Of the key. Clients that can do both get the first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Algorithm {
    Ecdsa,
    Rsa,
    Other,
}

impl Algorithm {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Algorithm::Ecdsa => "ecdsa",
            Algorithm::Rsa => "rsa",
            Algorithm::Other => "other",
        }
    }
}

impl Certificate {
    /// Reads both files, which may be the same one.
    ///
    /// # Errors
    /// The first that is wrong with them.
    pub(crate) fn load(cert: &Path, key: &Path, provider: &CryptoProvider) -> Result<Certificate, Fault> {
        let mut found = pem::sections(cert, &pem::read(cert)?)?;
        let mut keys = pem::sections(key, &pem::read(key)?)?;
        let chain = pem::chain(cert, &mut found)?;
        let mut certificate = Certificate::new((cert, chain), (key, pem::key(key, &mut keys)?), provider)?;
        certificate.warnings.extend(pem::key_mode(key));
        Ok(certificate)
    }

    /// From one text that holds both.
    pub(super) fn from_pem(name: &Path, text: &[u8], provider: &CryptoProvider) -> Result<Certificate, Fault> {
        let mut found = pem::sections(name, text)?;
        let key = pem::key(name, &mut found)?;
        Certificate::new((name, pem::chain(name, &mut found)?), (name, key), provider)
    }

    fn new(
        (cert, chain): (&Path, Vec<CertificateDer<'static>>),
        (key_file, key): (&Path, PrivateKeyDer<'static>),
        provider: &CryptoProvider,
    ) -> Result<Certificate, Fault> {
        let leaf = chain.first().cloned().ok_or_else(|| Fault::new(cert, "holds no certificate", ""))?;
        let Facts { names, has_addresses, not_before, not_after, mut warnings } = Facts::read(cert, &chain)?;
        if names.is_empty() && !has_addresses {
            let hint = "browsers do not look at its subject: ask for one with subjectAltName";
            return Err(Fault::new(cert, "is a certificate for no name (no subjectAltName)", hint));
        }
        let signing = provider.key_provider.load_private_key(key);
        let signing = signing
            .map_err(|e| Fault::new(key_file, format!("holds a key that cannot be used: {}", plain(&e)), KEYS))?;
        let certified = CertifiedKey::new(chain, signing);
        match certified.keys_match() {
            Ok(()) | Err(Error::InconsistentKeys(InconsistentKeys::Unknown)) => {}
            Err(Error::InconsistentKeys(_)) => return Err(mismatch(cert, key_file, certified)),
            Err(error) => return Err(unusable(cert, &plain(&error))),
        }
        let algorithm = match certified.key.algorithm() {
            SignatureAlgorithm::ECDSA => Algorithm::Ecdsa,
            SignatureAlgorithm::RSA => Algorithm::Rsa,
            _ => Algorithm::Other,
        };
        // What x509-parser reads and rustls does not must not come up in a handshake.
        EndEntityCert::try_from(&leaf).map_err(|e| unusable(cert, &e.to_string()))?;
        warnings.extend(validity(cert, not_before, not_after, now()));
        Ok(Certificate { key: Arc::new(certified), names, has_addresses, not_before, not_after, algorithm, warnings })
    }

    /// What it is called in metrics and messages.
    pub(crate) fn label(&self) -> &str {
        match self.names.first() {
            Some(name) => name,
            None if self.has_addresses => "addresses",
            None => "",
        }
    }

    /// Whether a client that asks for `host`, in lower case, accepts it.
    pub(crate) fn covers(&self, host: &str) -> bool {
        let one_label = host.split_once('.').map(|(_, rest)| rest);
        self.names.iter().any(|name| match name.strip_prefix("*.") {
            Some(parent) => name == host || one_label == Some(parent),
            None => name == host,
        })
    }

    /// The certificate itself, without its chain.
    #[cfg(test)]
    pub(super) fn leaf(&self) -> Option<&CertificateDer<'static>> {
        self.key.cert.first()
    }
}

const KEYS: &str = "ECDSA (P-256, P-384, P-521), RSA from 2048 bits on and Ed25519 can";

/// Seconds since the epoch.
pub(crate) fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

/// A day, for people.
pub(crate) fn date(at: i64) -> String {
    let after = Duration::from_secs(u64::try_from(at).unwrap_or_default());
    match UNIX_EPOCH.checked_add(after) {
        Some(time) => humantime::format_rfc3339_seconds(time).to_string().replace('T', " ").replace('Z', " UTC"),
        None => "the end of time".to_owned(),
    }
}

/// When a certificate ends, or ended: for a message.
pub(crate) fn end_in_words(not_after: i64, now: i64) -> String {
    let days = (not_after - now).div_euclid(SECONDS_OF_A_DAY);
    match days {
        ..0 => format!("ended on {}", date(not_after)),
        0 => format!("ends within a day, on {}", date(not_after)),
        1 => format!("ends in 1 day, on {}", date(not_after)),
        days => format!("ends in {days} days, on {}", date(not_after)),
    }
}

fn validity(cert: &Path, not_before: i64, not_after: i64, now: i64) -> Option<Fault> {
    if not_after <= now {
        return Some(Fault::new(cert, end_in_words(not_after, now), "clients refuse it: renew it"));
    }
    let begins = || format!("is valid from {} on only", date(not_before));
    (not_before > now).then(|| Fault::new(cert, begins(), "is the clock of this machine right?"))
}

/// The reason without rustls' frame around it.
fn plain(error: &Error) -> String {
    match error {
        Error::General(text) => text.clone(),
        other => other.to_string(),
    }
}

fn unusable(cert: &Path, why: &str) -> Fault {
    Fault::new(cert, format!("holds a certificate that cannot be used: {why}"), "")
}

/// The key may belong to another certificate of the file.
fn mismatch(cert: &Path, key_file: &Path, certified: CertifiedKey) -> Fault {
    let CertifiedKey { cert: mut chain, key, .. } = certified;
    let count = chain.len();
    for at in 1..count {
        chain.rotate_left(1);
        let turned = CertifiedKey::new(chain.clone(), key.clone());
        if turned.keys_match().is_ok() {
            let what = format!("has the certificate of {} at place {} of {count}", key_file.display(), at + 1);
            return Fault::new(cert, what, "put it first, then the one that signed it, and so on");
        }
    }
    let what = format!("holds a key that does not belong to the certificate in {}", cert.display());
    Fault::new(key_file, what, "were both written by the same request?")
}

/// What a certificate says of itself.
struct Facts {
    names: Vec<String>,
    has_addresses: bool,
    not_before: i64,
    not_after: i64,
    warnings: Vec<Fault>,
}

impl Facts {
    fn read(file: &Path, chain: &[CertificateDer<'_>]) -> Result<Facts, Fault> {
        let mut parsed = Vec::new();
        for (at, der) in chain.iter().enumerate() {
            let broken =
                |_| Fault::new(file, format!("is broken: certificate {} cannot be read", at + 1), "write it anew");
            parsed.push(X509Certificate::from_der(der).map_err(broken)?.1);
        }
        let (Some(leaf), Some(der)) = (parsed.first(), chain.first()) else {
            return Err(Fault::new(file, "holds no certificate", ""));
        };
        let end_entity = EndEntityCert::try_from(der).map_err(|error| unusable(file, &error.to_string()))?;
        let names = end_entity.valid_dns_names().map(str::to_ascii_lowercase).collect();
        let validity = leaf.validity();
        Ok(Facts {
            names,
            has_addresses: has_addresses(leaf),
            not_before: validity.not_before.timestamp(),
            not_after: validity.not_after.timestamp(),
            warnings: chain_warning(file, &parsed).into_iter().collect(),
        })
    }
}

fn has_addresses(leaf: &X509Certificate<'_>) -> bool {
    let names = leaf.subject_alternative_name().ok().flatten();
    names.is_some_and(|names| names.value.general_names.iter().any(|name| matches!(name, GeneralName::IPAddress(_))))
}

/// Authorities that a browser knows sign by an intermediate one, which the server must send along.
fn chain_warning(file: &Path, chain: &[X509Certificate<'_>]) -> Option<Fault> {
    let leaf = chain.first()?;
    if let Some(next) = chain.get(1) {
        let follows = next.subject() == leaf.issuer();
        return (!follows).then(|| {
            Fault::new(file, "has a second certificate that did not sign the first", "put them in the order of signing")
        });
    }
    let issued = leaf.subject() != leaf.issuer();
    // The address of the issuer's certificate: a public authority.
    let public =
        leaf.extensions().iter().any(|e| matches!(e.parsed_extension(), ParsedExtension::AuthorityInfoAccess(_)));
    (issued && public).then(|| {
        let hint = "some clients will not trust it: use the file with the whole chain (certbot: fullchain.pem)";
        Fault::new(file, "holds the server's certificate alone, without the one that signed it", hint)
    })
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::tls::rules::provider;
    use rcgen::{CertificateParams, DnType, KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_RSA_SHA256, RsaKeySize};

    /// A certificate and its key as PEM.
    pub(in crate::tls) fn made(names: &[&str], rsa: bool) -> (String, String) {
        let key = match rsa {
            true => KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048),
            false => KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256),
        };
        let key = key.unwrap();
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names.clone()).unwrap();
        params.distinguished_name.push(DnType::CommonName, names.first().map_or("nobody", String::as_str));
        let cert = params.self_signed(&key).unwrap();
        (cert.pem(), key.serialize_pem())
    }

    pub(in crate::tls) fn certificate(names: &[&str], rsa: bool) -> Certificate {
        let (cert, key) = made(names, rsa);
        Certificate::from_pem(Path::new("both.pem"), format!("{cert}{key}").as_bytes(), &provider()).unwrap()
    }

    fn refused(cert: &str, key: &str) -> String {
        let dir = std::env::temp_dir().join(format!("certificates-{}-{}", std::process::id(), fastrand::u64(..)));
        std::fs::create_dir(&dir).unwrap();
        std::fs::write(dir.join("a.pem"), cert).unwrap();
        std::fs::write(dir.join("a.key"), key).unwrap();
        let loaded = Certificate::load(&dir.join("a.pem"), &dir.join("a.key"), &provider());
        let text = loaded.map(|c| format!("{:?}", c.warnings)).unwrap_or_else(|fault| fault.to_string());
        std::fs::remove_dir_all(&dir).unwrap();
        text.replace(&format!("{}/", dir.display()), "")
    }

    #[test]
    fn names_end_and_kind_come_from_the_certificate() {
        let found = certificate(&["Chat.example.com", "*.example.org", "127.0.0.1"], false);
        assert_eq!(found.names, ["chat.example.com", "*.example.org"]);
        assert!(found.covers("chat.example.com") && found.covers("a.example.org") && found.covers("*.example.org"));
        assert!(!found.covers("a.b.example.org") && !found.covers("example.org") && !found.covers("x.example.com"));
        assert_eq!(found.algorithm, Algorithm::Ecdsa);
        assert_eq!(certificate(&["a.example"], true).algorithm, Algorithm::Rsa);
        assert!(found.not_after > now());
        assert_eq!(certificate(&["10.0.0.1"], false).label(), "addresses");
    }

    #[test]
    fn a_wrong_pair_is_told_by_what_is_wrong_with_it() {
        let (cert, key) = made(&["a.example"], false);
        let (other, other_key) = made(&["b.example"], false);
        assert!(
            refused(&cert, &other_key).contains("a.key holds a key that does not belong to the certificate in a.pem")
        );
        assert!(
            refused(&key, &cert).contains("a.pem holds a private key and no certificate; are cert and key swapped?")
        );
        assert!(
            refused(&format!("{other}{cert}"), &key)
                .contains("has the certificate of a.key at place 2 of 2; put it first")
        );
        assert!(refused("", &key).contains("a.pem is empty"));
        assert!(refused(&cert, &format!("{key}{other_key}")).contains("a.key holds 2 private keys"));
        let (nameless, its_key) = made(&[], false);
        assert!(refused(&nameless, &its_key).contains("no subjectAltName"));
        assert!(refused(&format!("{cert}{other}"), &key).contains("did not sign the first"));
        // A file that ends in the middle of the second one.
        let half = format!("{cert}{}", &other[..other.len() / 2]);
        assert!(refused(&half, &key).contains("is broken PEM"), "{}", refused(&half, &key));
    }

    #[test]
    fn a_key_that_everybody_may_read_is_warned_of() {
        let (cert, key) = made(&["a.example"], false);
        assert!(refused(&cert, &key).contains("readable by everybody (mode 0644)"));
    }

    #[test]
    fn its_end_is_told_in_days() {
        let day = SECONDS_OF_A_DAY;
        assert_eq!(
            end_in_words(1_800_000_000, 1_800_000_000 - 20 * day),
            "ends in 20 days, on 2027-01-15 08:00:00 UTC"
        );
        assert!(end_in_words(0, day).starts_with("ended on 1970-01-01"));
        let fault =
            |before, after| validity(Path::new("a.pem"), before, after, 1_000_000).map(|fault| fault.to_string());
        assert_eq!(fault(0, 2_000_000), None);
        assert!(fault(0, 900_000).is_some_and(|text| text.contains("clients refuse it")));
        assert!(fault(1_100_000, 2_000_000).is_some_and(|text| text.contains("is the clock of this machine right?")));
    }
}
