//! Certificates of clients: who may come in.

use super::pem::{self, Fault};
use aws_lc_rs::digest::{SHA256, digest};
use rustls::RootCertStore;
use rustls::crypto::CryptoProvider;
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use std::path::PathBuf;
use std::sync::Arc;

/// What is asked of clients, as the configuration says.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ClientCertificates {
    /// The authorities that may have signed them.
    pub(crate) ca: PathBuf,
    /// What those have revoked.
    pub(crate) crl: Option<PathBuf>,
    pub(crate) mode: Mode,
    /// For these hosts only, in lower case, as in routes; empty: for all that no other entry names.
    pub(crate) hosts: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Mode {
    /// Without a good one there is no connection.
    Required,
    /// Without one a client comes in, and the workers are told; a bad one is refused.
    Optional,
}

/// What is asked of clients, with its files loaded.
#[derive(Debug)]
pub(crate) struct ClientPolicy {
    pub(super) verifier: Arc<dyn ClientCertVerifier>,
    /// Of mode, authorities and the file of revocations: who was let in under another one must be asked anew. A new list in that
    /// file asks nobody.
    pub(super) id: [u8; 32],
}

const REVOCATION_HINT: &str = "a list must be of version 2 (RFC 5280), as authorities write it; openssl ca does with crlnumber and crl_extensions";

impl ClientPolicy {
    /// # Errors
    /// What is wrong with the files.
    pub(crate) fn load(wanted: &ClientCertificates, provider: &Arc<CryptoProvider>) -> Result<ClientPolicy, Fault> {
        let ClientCertificates { ca, crl, mode, hosts: _ } = wanted;
        let mut found = pem::sections(ca, &pem::read(ca)?)?;
        let mut roots = RootCertStore::empty();
        let mut fingerprints = vec![match mode {
            Mode::Required => 1,
            Mode::Optional => 2,
        }];
        let authorities = pem::chain(ca, &mut found)
            .map_err(|fault| Fault { hint: "write the certificate of the authority".to_owned(), ..fault })?;
        for (at, der) in authorities.into_iter().enumerate() {
            fingerprints.extend_from_slice(digest(&SHA256, &der).as_ref());
            roots.add(der).map_err(|error| {
                Fault::new(ca, format!("holds an authority that cannot be used (certificate {}): {error}", at + 1), "")
            })?;
        }
        let mut builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone());
        if let Some(crl) = crl {
            fingerprints.push(3);
            fingerprints.extend_from_slice(digest(&SHA256, crl.as_os_str().as_encoded_bytes()).as_ref());
            let found = pem::sections(crl, &pem::read(crl)?)?;
            if found.revocations.is_empty() {
                return Err(Fault::new(crl, "holds no revocation list", "it begins with -----BEGIN X509 CRL-----"));
            }
            builder = builder.with_crls(found.revocations).only_check_end_entity_revocation();
        }
        if *mode == Mode::Optional {
            builder = builder.allow_unauthenticated();
        }
        let verifier = builder.build();
        let verifier = verifier.map_err(|error| {
            let hint = if crl.is_some() { REVOCATION_HINT } else { "" };
            Fault::new(crl.as_ref().unwrap_or(ca), format!("cannot be used: {error}"), hint)
        })?;
        let mut id = [0; 32];
        id.copy_from_slice(digest(&SHA256, &fingerprints).as_ref());
        Ok(ClientPolicy { verifier, id })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tls::rules::provider;
    use rcgen::{
        BasicConstraints, CertificateParams, CertificateRevocationListParams, IsCa, Issuer, KeyIdMethod, KeyPair,
        RevokedCertParams, SerialNumber, date_time_ymd,
    };
    use std::path::Path;

    #[test]
    fn authorities_and_revocations_are_read_or_told() {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca = params.self_signed(&key).unwrap().pem();
        let issuer = Issuer::new(params, &key);
        let revoked = CertificateRevocationListParams {
            this_update: date_time_ymd(2026, 1, 1),
            next_update: date_time_ymd(2036, 1, 1),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: vec![RevokedCertParams {
                serial_number: SerialNumber::from(5),
                revocation_time: date_time_ymd(2026, 1, 1),
                reason_code: None,
                invalidity_date: None,
            }],
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let crl = revoked.signed_by(&issuer).unwrap().pem().unwrap();
        let dir = std::env::temp_dir().join(format!("client-ca-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let (ca_file, crl_file) = (dir.join("ca.pem"), dir.join("crl.pem"));
        std::fs::write(&ca_file, &ca).unwrap();
        std::fs::write(&crl_file, &crl).unwrap();
        let load = |ca: &Path, crl: Option<&Path>, mode| {
            let wanted =
                ClientCertificates { ca: ca.to_owned(), crl: crl.map(Path::to_owned), mode, hosts: Vec::new() };
            ClientPolicy::load(&wanted, &provider())
        };
        let required = load(&ca_file, Some(&crl_file), Mode::Required).unwrap();
        let optional = load(&ca_file, None, Mode::Optional).unwrap();
        assert!(required.verifier.client_auth_mandatory() && !optional.verifier.client_auth_mandatory());
        assert_ne!(required.id, optional.id);
        assert_ne!(required.id, load(&ca_file, None, Mode::Required).unwrap().id, "some of those may be revoked");
        std::fs::write(&crl_file, format!("{crl}\n{crl}")).unwrap();
        let renewed = load(&ca_file, Some(&crl_file), Mode::Required).unwrap();
        assert_eq!(required.id, renewed.id, "a new list asks nobody anew");
        let fault = load(&crl_file, None, Mode::Required).unwrap_err().to_string();
        assert!(fault.contains("crl.pem holds no certificate"), "{fault}");
        let fault = load(&ca_file, Some(&ca_file), Mode::Required).unwrap_err().to_string();
        assert!(fault.contains("ca.pem holds no revocation list"), "{fault}");
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
