//! Which certificate a client gets: by the name that it asks for, and by what it can verify.

use super::certificates::Certificate;
use rustls::SignatureScheme;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use std::collections::HashMap;
use std::sync::Arc;

/// The certificates of one listener.
#[derive(Debug, Default)]
pub(crate) struct Resolver {
    exact: HashMap<String, Vec<Arc<CertifiedKey>>>,
    /// By what stands behind `*.`.
    wildcard: HashMap<String, Vec<Arc<CertifiedKey>>>,
    /// For a client that asks for no name, or for one that nobody has: the first certificate, the others of its names, the rest.
    default: Vec<Arc<CertifiedKey>>,
}

impl Resolver {
    /// In the order of the configuration.
    pub(crate) fn new(certificates: &[Arc<Certificate>]) -> Resolver {
        let mut resolver = Resolver::default();
        let mut sorted: Vec<&Arc<Certificate>> = certificates.iter().collect();
        sorted.sort_by_key(|certificate| certificate.algorithm);
        for certificate in sorted {
            for name in &certificate.names {
                let (map, name) = match name.strip_prefix("*.") {
                    Some(parent) => (&mut resolver.wildcard, parent),
                    None => (&mut resolver.exact, name.as_str()),
                };
                map.entry(name.to_owned()).or_default().push(certificate.key.clone());
            }
        }
        if let Some(first) = certificates.first() {
            let shares = |other: &Certificate| other.names.iter().any(|name| first.names.contains(name));
            let mut default: Vec<(bool, &Arc<Certificate>)> =
                certificates.iter().map(|certificate| (!shares(certificate), certificate)).collect();
            default.sort_by_key(|(is_other, certificate)| (*is_other, certificate.algorithm));
            resolver.default = default.into_iter().map(|(_, certificate)| certificate.key.clone()).collect();
        }
        resolver
    }

    /// Those for a name: its own, then those of `*` in place of its first label, then the default.
    fn candidates(&self, name: Option<&str>) -> &[Arc<CertifiedKey>] {
        let Some(name) = name else { return &self.default };
        let wildcard = || self.wildcard.get(name.split_once('.')?.1);
        self.exact.get(name).or_else(wildcard).unwrap_or(&self.default)
    }

    fn choose(&self, name: Option<&str>, schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        let candidates = self.candidates(name);
        let fitting = candidates.iter().find(|certified| certified.key.choose_scheme(schemes).is_some());
        // With the first, rustls says to the client what does not fit.
        fitting.or(candidates.first()).cloned()
    }
}

impl ResolvesServerCert for Resolver {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        // In lower case, and none for an address: rustls sees to both.
        self.choose(hello.server_name(), hello.signature_schemes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tls::certificates::tests::certificate;

    const BOTH: &[SignatureScheme] = &[SignatureScheme::RSA_PSS_SHA256, SignatureScheme::ECDSA_NISTP256_SHA256];
    const RSA: &[SignatureScheme] = &[SignatureScheme::RSA_PSS_SHA256];

    #[test]
    fn the_name_chooses_then_what_the_client_can() {
        let list: Vec<Arc<Certificate>> = [
            certificate(&["chat.example.com"], true),
            certificate(&["chat.example.com"], false),
            certificate(&["*.example.com"], false),
            certificate(&["other.example.org"], false),
        ]
        .into_iter()
        .map(Arc::new)
        .collect();
        let resolver = Resolver::new(&list);
        let chosen = |name, schemes| {
            let chosen = resolver.choose(name, schemes).unwrap();
            list.iter().position(|certificate| Arc::ptr_eq(&certificate.key, &chosen)).unwrap()
        };
        assert_eq!(chosen(Some("chat.example.com"), BOTH), 1, "ECDSA first");
        assert_eq!(chosen(Some("chat.example.com"), RSA), 0, "RSA for who can do no other");
        assert_eq!(chosen(Some("www.example.com"), BOTH), 2);
        assert_eq!(chosen(Some("a.www.example.com"), BOTH), 1, "* is one label");
        assert_eq!(chosen(Some("other.example.org"), BOTH), 3);
        assert_eq!(chosen(None, BOTH), 1, "the names of the first are the default");
        assert_eq!(chosen(None, RSA), 0);
        assert_eq!(chosen(Some("unknown"), BOTH), 1);
        assert_eq!(chosen(Some("other.example.org"), RSA), 3, "not that of another name");
        assert!(Resolver::new(&[]).choose(None, BOTH).is_none());
    }
}
