//! Whether a worker takes connections, and answers as it should.

use crate::fleet::policy::Health;
use crate::pool::Member;
use crate::process::worker_socket;
use http::StatusCode;
use pingora::http::RequestHeader;
use pingora_core::Error;
use pingora_core::protocols::http::v1::client::HttpSession;
use pingora_core::protocols::l4::stream::Stream;
use std::path::Path;
use std::time::Duration;
use tokio::net::UnixStream;

/// For a worker's socket to take a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// Connects to a worker, and to nobody else: [`worker_socket::connect`].
pub(super) async fn connect(member: &Member) -> Result<UnixStream, String> {
    let connecting = worker_socket::prove(Path::new(&*member.socket), member.user, || member.pinned.get());
    let connected = tokio::time::timeout(CONNECT_TIMEOUT, connecting).await;
    let (stream, pin) = connected.map_err(|_| "it does not accept".to_owned())?.map_err(|e| e.to_string())?;
    // Traffic finds it even if its path is removed.
    member.pinned.set(pin);
    Ok(stream)
}

/// An app's own health check: one request, each time on a new connection.
///
/// Not Pingora's: that one connects by the path, and its connectors read the certificates of the system's authorities
/// and panic when one is damaged.
pub(super) struct HttpCheck {
    request: RequestHeader,
    /// The first and the last status that is good.
    expect: (u16, u16),
}

impl HttpCheck {
    /// `None` where the app has none.
    pub(super) fn new(health: &Health) -> Option<HttpCheck> {
        let path = health.path.as_ref()?;
        let mut request = RequestHeader::build("GET", b"/", None).ok()?;
        // What is no path was refused by the configuration.
        request.set_uri(path.parse().ok()?);
        request.append_header("Host", "localhost").ok()?;
        request.append_header("User-Agent", "pingora-unix-proxy (health check)").ok()?;
        Some(HttpCheck { request, expect: health.expect })
    }

    /// Asks a worker, and reads the whole answer. Whoever calls limits the time.
    ///
    /// # Errors
    /// What is wrong with the worker, for people.
    pub(super) async fn ask(&self, member: &Member) -> Result<(), String> {
        let stream = Stream::from(connect(member).await?);
        let mut session = HttpSession::new(Box::new(stream));
        self.ask_on(&mut session).await
    }

    async fn ask_on(&self, session: &mut HttpSession) -> Result<(), String> {
        let told = |error: Box<Error>| why(&error);
        session.write_request_header(Box::new(self.request.clone())).await.map_err(told)?;
        let status = loop {
            session.read_response().await.map_err(told)?;
            let status = session.get_status().ok_or("an answer without a status")?;
            // What comes before the answer. A 101 is one, and not a good one.
            if !status.is_informational() || status == StatusCode::SWITCHING_PROTOCOLS {
                break status;
            }
        };
        let (first, last) = self.expect;
        if !(first..=last).contains(&status.as_u16()) {
            return Err(format!("status {status}"));
        }
        while session.read_body_ref().await.map_err(told)?.is_some() {}
        Ok(())
    }
}

/// What a health check found, for people.
fn why(error: &Error) -> String {
    error.context.as_ref().map_or_else(|| error.etype().as_str().to_owned(), |context| context.as_str().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::worker::{Incarnation, Slot, WorkerId};
    use std::sync::Arc;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::UnixListener;

    fn member(name: &str) -> Member {
        let path = std::env::temp_dir().join(format!("probe-{name}-{}.sock", std::process::id()));
        let _ = std::fs::remove_file(&path);
        let id = WorkerId { app: "app".into(), slot: Slot(0), incarnation: Incarnation(1) };
        let socket: Arc<str> = path.to_str().unwrap().into();
        Member::new(id, None, socket)
    }

    #[tokio::test]
    async fn a_socket_is_well_while_somebody_listens() {
        let member = member("socket");
        assert!(connect(&member).await.unwrap_err().contains("No such file"));
        let listener = UnixListener::bind(&*member.socket).unwrap();
        connect(&member).await.unwrap();
        drop(listener);
        assert!(connect(&member).await.unwrap_err().contains("refused"));
        std::fs::remove_file(&*member.socket).unwrap();
    }

    #[tokio::test]
    async fn an_answer_is_judged_by_its_status_and_read_to_its_end() {
        let member = member("http");
        let listener = UnixListener::bind(&*member.socket).unwrap();
        let health = Health { path: Some("/healthz?a=b".to_owned()), expect: (200, 299), ..Health::default() };
        let check = HttpCheck::new(&health).unwrap();
        let long = format!("HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n{}", "x".repeat(100_000));
        for (answer, wanted) in [
            ("HTTP/1.1 204 No Content\r\n\r\n", Ok(())),
            (long.as_str(), Ok(())),
            ("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", Ok(())),
            ("HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n", Err("status 503 Service Unavailable")),
        ] {
            let serve = async {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut head = [0; 500];
                let read = stream.read(&mut head).await.unwrap();
                stream.write_all(answer.as_bytes()).await.unwrap();
                String::from_utf8_lossy(&head[..read]).into_owned()
            };
            let (asked, head) = tokio::join!(check.ask(&member), serve);
            assert_eq!(asked, wanted.map_err(str::to_owned));
            assert!(head.starts_with("GET /healthz?a=b HTTP/1.1\r\nHost: localhost\r\n"), "{head}");
        }
        std::fs::remove_file(&*member.socket).unwrap();
    }
}
