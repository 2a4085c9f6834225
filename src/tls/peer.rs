//! Who a client is, by its certificate.

use rustls::pki_types::CertificateDer;
use std::sync::Arc;

/// A client's certificate that was checked in its handshake.
#[derive(Debug)]
#[allow(dead_code)] // What requests are told of it comes with client certificates.
pub(crate) struct PeerCertificate {
    /// The certificate itself, without its chain.
    pub(crate) der: CertificateDer<'static>,
}

impl PeerCertificate {
    /// Of what a client has sent, its own first; `None` where it has sent none.
    pub(crate) fn of(chain: Option<&[CertificateDer<'static>]>) -> Option<Arc<PeerCertificate>> {
        let der = chain?.first()?.clone();
        Some(Arc::new(PeerCertificate { der }))
    }
}
