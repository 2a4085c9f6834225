//! Who a client is by its handshake, and what the workers are told of its certificate.

use super::rules::ClientPolicyId;
use aws_lc_rs::digest::{SHA256, digest};
use rustls::pki_types::CertificateDer;
use std::fmt::Write;
use std::sync::Arc;
use x509_parser::prelude::{AttributeTypeAndValue, FromDer, X509Certificate, X509Name};

/// A certificate of more bytes goes to the workers by its fingerprint only: their heads have limits, too.
const LONGEST_FORWARDED: usize = 8 * 1024;
/// Bytes of a subject that the workers are told.
const LONGEST_SUBJECT: usize = 1024;

/// A client of a listener that asks for certificates, as it was let in.
#[derive(Debug)]
pub(crate) struct TlsPeer {
    policy: ClientPolicyId,
    certificate: Option<PeerCertificate>,
}

impl TlsPeer {
    /// At the end of a handshake under this policy, with what the client has sent and proved, its own certificate first.
    pub(crate) fn new(policy: ClientPolicyId, chain: Option<&[CertificateDer<'static>]>) -> Arc<TlsPeer> {
        let certificate = chain.and_then(|chain| chain.first()).map(PeerCertificate::new);
        Arc::new(TlsPeer { policy, certificate })
    }

    /// By what it was let in.
    pub(crate) fn policy(&self) -> ClientPolicyId {
        self.policy
    }

    pub(crate) fn certificate(&self) -> Option<&PeerCertificate> {
        self.certificate.as_ref()
    }
}

/// A client's certificate, as the workers are told of it; made once, at the handshake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PeerCertificate {
    /// The value of `Client-Cert`: a byte sequence (RFC 9440, RFC 8941); none for a very long one.
    pub(crate) encoded: Option<String>,
    /// As RFC 4514 writes it, in ASCII.
    pub(crate) subject: String,
    /// SHA-256 over the certificate, in hexadecimal.
    pub(crate) fingerprint: String,
}

impl PeerCertificate {
    fn new(leaf: &CertificateDer<'_>) -> PeerCertificate {
        let parsed = X509Certificate::from_der(leaf).ok();
        let subject = parsed.map(|(_, certificate)| distinguished_name(certificate.subject())).unwrap_or_default();
        let mut fingerprint = String::with_capacity(64);
        for byte in digest(&SHA256, leaf).as_ref() {
            let _ = write!(fingerprint, "{byte:02x}");
        }
        let encoded = (leaf.len() <= LONGEST_FORWARDED).then(|| format!(":{}:", base64(leaf)));
        PeerCertificate { encoded, subject, fingerprint }
    }
}

/// RFC 4514: the last part first.
fn distinguished_name(name: &X509Name<'_>) -> String {
    let mut out = String::new();
    let parts: Vec<_> = name.iter_rdn().collect();
    for (at, part) in parts.into_iter().rev().enumerate() {
        if at > 0 {
            out.push(',');
        }
        for (at, attribute) in part.iter().enumerate() {
            if at > 0 {
                out.push('+');
            }
            write_attribute(&mut out, attribute);
        }
    }
    // All ASCII: no character is cut.
    out.truncate(LONGEST_SUBJECT);
    out
}

fn write_attribute(out: &mut String, attribute: &AttributeTypeAndValue<'_>) {
    let oid = attribute.attr_type().to_id_string();
    let name = match oid.as_str() {
        "2.5.4.3" => "CN",
        "2.5.4.6" => "C",
        "2.5.4.7" => "L",
        "2.5.4.8" => "ST",
        "2.5.4.9" => "STREET",
        "2.5.4.10" => "O",
        "2.5.4.11" => "OU",
        "0.9.2342.19200300.100.1.1" => "UID",
        "0.9.2342.19200300.100.1.25" => "DC",
        "1.2.840.113549.1.9.1" => "emailAddress",
        other => other,
    };
    out.push_str(name);
    out.push('=');
    let bytes = attribute.as_slice();
    for (at, byte) in bytes.iter().enumerate() {
        let is_edge = (at == 0 && matches!(byte, b' ' | b'#')) || (at + 1 == bytes.len() && *byte == b' ');
        match byte {
            b',' | b'+' | b'"' | b'\\' | b'<' | b'>' | b';' | b'=' => {
                out.push('\\');
                out.push(char::from(*byte));
            }
            b' '..=b'~' if !is_edge => out.push(char::from(*byte)),
            byte => {
                let _ = write!(out, "\\{byte:02X}");
            }
        }
    }
}

/// RFC 4648, with padding.
fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let at = |index: usize| u32::from(chunk.get(index).copied().unwrap_or_default());
        let group = at(0) << 16 | at(1) << 8 | at(2);
        for place in 0..4 {
            let letter = ALPHABET[(group >> (18 - 6 * place) & 63) as usize];
            out.push(if place > chunk.len() { '=' } else { char::from(letter) });
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, DnType, KeyPair};

    #[test]
    fn base64_is_that_of_the_rfc() {
        let pairs = ["", "f:Zg==", "fo:Zm8=", "foo:Zm9v", "foob:Zm9vYg==", "fooba:Zm9vYmE=", "foobar:Zm9vYmFy"];
        for pair in pairs {
            let (plain, encoded) = pair.split_once(':').unwrap_or_default();
            assert_eq!(base64(plain.as_bytes()), encoded);
        }
    }

    #[test]
    fn a_subject_cannot_break_out_of_its_field() {
        let mut params = CertificateParams::new(vec!["a".to_owned()]).unwrap();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::OrganizationName, "Ex, \"Inc\"\r\nX-Evil: 1");
        params.distinguished_name.push(DnType::CommonName, " Zoë");
        let der = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
        let told = PeerCertificate::new(der.der());
        assert_eq!(told.subject, "CN=\\20Zo\\C3\\AB,O=Ex\\, \\\"Inc\\\"\\0D\\0AX-Evil: 1");
        assert_eq!(told.fingerprint.len(), 64);
        let encoded = told.encoded.unwrap();
        assert!(encoded.starts_with(":MII") && encoded.ends_with(':'));
    }

    #[test]
    fn a_certificate_that_nobody_can_read_has_a_fingerprint() {
        let told = PeerCertificate::new(&CertificateDer::from(vec![1, 2, 3]));
        assert_eq!((told.subject.as_str(), told.encoded.as_deref()), ("", Some(":AQID:")));
        assert_eq!(PeerCertificate::new(&CertificateDer::from(vec![0; 10_000])).encoded, None);
    }
}
