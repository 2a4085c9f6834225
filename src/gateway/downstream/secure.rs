//! TLS at the begin of a client's connection, and what clients are told that speak the wrong one of TLS and plain HTTP.

use super::close::send_and_close;
use crate::gateway::http1::Progress;
use crate::gateway::http1::head::{self, Limits};
use crate::gateway::metrics::counters::TlsMetrics;
use crate::gateway::request::heads::host;
use crate::gateway::request::redirect;
use crate::tls::handshake::{self, Failure, Reason};
use crate::tls::rules::SharedTlsRules;
use crate::tls::stream::TlsStream;
use bytes::BytesMut;
use pingora_core::protocols::Stream;
use pingora_core::protocols::l4::stream::Stream as L4Stream;
use rustls::AlertDescription;

/// Whether a connection that is to be plain begins as one of TLS does.
pub(in crate::gateway) fn begins_tls(read: &[u8]) -> bool {
    read.first() == Some(&handshake::HANDSHAKE)
}

/// Makes the TLS connection. `read` has come of it already. `None`: there is none, and the client has been told what there is
/// to say.
pub(in crate::gateway) async fn accept(
    stream: Stream,
    read: BytesMut,
    rules: &SharedTlsRules,
    counts: &TlsMetrics,
) -> Option<Stream> {
    let mut socket = stream.into_any().downcast::<L4Stream>().ok()?;
    if !read.is_empty() {
        socket.rewind(&read);
    }
    match handshake::accept(*socket, rules).await {
        Ok(stream) => {
            counts.done();
            Some(Box::new(stream))
        }
        Err(Failure { reason, why, plain }) => {
            counts.failed(reason);
            log::debug!("a TLS handshake came to nothing ({}): {why}", reason.name());
            if let (Reason::PlainHttp, Some((socket, read))) = (reason, plain) {
                let port = socket_port(&socket);
                send_and_close(Box::new(socket), &speaks_https(&read, port)).await;
            }
            None
        }
    }
}

fn socket_port(socket: &L4Stream) -> u16 {
    use pingora_core::protocols::GetSocketDigest;
    let digest = socket.get_socket_digest();
    let local = digest.as_ref().and_then(|digest| digest.local_addr()?.as_inet().map(|addr| addr.port()));
    local.unwrap_or(443)
}

/// The answer to plain HTTP where TLS is spoken, with the address that was meant where the client has said enough.
fn speaks_https(read: &[u8], port: u16) -> Vec<u8> {
    let meant = match head::check(read, 0, &Limits::default()) {
        Ok(Progress::Complete(head)) => redirect::https(host(&head, read), head.target.of(read), port),
        _ => None,
    };
    let detail = match meant {
        Some(url) => format!("This port speaks HTTPS. Ask for {url} instead."),
        None => "This port speaks HTTPS. Ask for https:// instead of http://.".to_owned(),
    };
    let body = format!("400 Bad Request\n\n{detail}\n");
    format!(
        "HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: {}\r\n\
         Cache-Control: no-store\r\nConnection: close\r\n\r\n{body}",
        body.len(),
    )
    .into_bytes()
}

/// Ends a connection whose client begins TLS where plain HTTP is spoken.
pub(in crate::gateway) async fn refuse_tls(stream: Stream, counts: &TlsMetrics) {
    counts.met_plain_listener();
    log::debug!("a client begins TLS on a listener without tls");
    send_and_close(stream, &handshake::alert(AlertDescription::HandshakeFailure)).await;
}

/// What a tunnel goes on with: a connection over TLS 1.3 leaves rustls here, which one that can be moved must. `None`: it is
/// lost.
pub(in crate::gateway) fn for_tunnel(stream: Stream) -> Option<Stream> {
    if !(*stream).as_any().is::<TlsStream>() {
        return Some(stream);
    }
    let stream = stream.into_any().downcast::<TlsStream>().ok()?;
    match stream.into_records() {
        Ok(Ok(records)) => Some(Box::new(records)),
        Ok(Err(stays)) => Some(Box::new(stays)),
        Err(why) => {
            log::error!("a tunnel over TLS is lost: {why}");
            None
        }
    }
}
