//! What a client is to a listener with TLS, beside its address: whether it was let in by what the host of its request asks for,
//! and what the workers are told of its certificate.

use crate::gateway::listener::SharedListener;
use crate::gateway::request::heads::push_field;
use crate::gateway::request::socketio::percent_decoded;
use crate::tls::peer::TlsPeer;
use crate::tls::stream::TlsStream;
use bytes::BytesMut;
use pingora_core::protocols::Stream;
use std::sync::Arc;

tokio::task_local! {
    /// For Pingora's carrier, whose sessions know no more of a client than its address.
    static CLIENT: ClientTls;
}

/// Of a connection at a listener that speaks TLS, or may come to do so by a reload or an upgrade.
#[derive(Clone)]
pub(in crate::gateway) struct ClientTls(Arc<Inner>);

struct Inner {
    listener: SharedListener,
    /// None where no host asked for certificates at the handshake.
    peer: Option<Arc<TlsPeer>>,
}

impl ClientTls {
    /// One that is plain has shown no certificate.
    pub(in crate::gateway) fn of(listener: &SharedListener, stream: &Stream) -> ClientTls {
        let peer = (**stream).as_any().downcast_ref::<TlsStream>().and_then(|stream| stream.peer().cloned());
        ClientTls(Arc::new(Inner { listener: listener.clone(), peer }))
    }

    /// That of the request which the running task carries.
    pub(in crate::gateway) fn current() -> Option<ClientTls> {
        CLIENT.try_with(ClientTls::clone).ok()
    }

    /// Runs what carries a request of this client.
    pub(in crate::gateway) async fn scope<F: Future>(client: Option<ClientTls>, future: F) -> F::Output {
        match client {
            Some(client) => CLIENT.scope(client, future).await,
            None => future.await,
        }
    }

    /// Whether the host of a request asks for other certificates than the name by which the connection was let in, by the rules
    /// of now: the client must come again.
    pub(in crate::gateway) fn is_misdirected(&self, host: &[u8]) -> bool {
        let listener = self.0.listener.load();
        let Some(rules) = listener.tls.as_ref().map(|rules| rules.load()) else { return false };
        if !rules.asks_clients() {
            return false;
        }
        let was = self.0.peer.as_ref().and_then(|peer| peer.policy());
        rules.client_policy(Some(&host_name(host))) != was
    }

    /// Fields that no client can send, see `request::heads::request_field`.
    pub(in crate::gateway) fn headers(&self, mut write: impl FnMut(&'static str, &[u8])) {
        let Some(peer) = &self.0.peer else { return };
        let Some(certificate) = peer.certificate() else { return write("X-SSL-Client-Verify", b"NONE") };
        write("X-SSL-Client-Verify", b"SUCCESS");
        write("X-SSL-Client-Subject", certificate.subject.as_bytes());
        write("X-SSL-Client-Fingerprint", certificate.fingerprint.as_bytes());
        if let Some(encoded) = &certificate.encoded {
            write("Client-Cert", encoded.as_bytes());
        }
    }
}

/// Adds to a request's whole head what its worker is told of the client.
pub(in crate::gateway) fn tell(client: Option<&ClientTls>, head: &mut BytesMut) {
    if let Some(client) = client.filter(|client| client.0.peer.is_some()) {
        // Before the empty line.
        head.truncate(head.len().saturating_sub(2));
        client.headers(|name, value| push_field(head, name.as_bytes(), value));
        head.extend_from_slice(b"\r\n");
    }
}

/// Without a port and the last dot, in lower case.
fn host_name(host: &[u8]) -> String {
    // Some apps decode it.
    let host: Vec<u8> = percent_decoded(host).collect();
    let text = String::from_utf8_lossy(&host);
    let name = match text.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => &*text,
    };
    name.trim_end_matches('.').to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_the_same_name_however_it_is_written() {
        for host in [
            "admin.example",
            "ADMIN.example",
            "admin.example:8443",
            "admin.example.",
            "admin.example.:443",
            "admin.example:",
            "%61dmin.exampl%45:443",
        ] {
            assert_eq!(host_name(host.as_bytes()), "admin.example", "{host}");
        }
        assert_eq!(host_name(b"[::1]:443"), "[::1]");
        assert_eq!(host_name(b"[::1]"), "[::1]");
        assert_eq!(host_name(b""), "");
    }
}
