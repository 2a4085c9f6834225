//! What both HTTP services share.

use http::header::{ALLOW, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE};
use http::{HeaderValue, Response, StatusCode};
use pingora_core::protocols::http::ServerSession;
use std::time::Duration;

/// For a request's body to arrive, in all.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);

/// An answer before it is a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) kind: &'static str,
    pub(super) body: Vec<u8>,
    /// The methods that would do, of a 405.
    pub(super) allow: Option<&'static str>,
}

impl Answer {
    pub(super) fn into_response(self) -> Response<Vec<u8>> {
        let mut response = Response::new(self.body);
        *response.status_mut() = self.status;
        let length = HeaderValue::from(response.body().len());
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(self.kind));
        headers.insert(CONTENT_LENGTH, length);
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if let Some(allow) = self.allow {
            headers.insert(ALLOW, HeaderValue::from_static(allow));
        }
        response
    }
}

/// The whole body; `Err` is the status to answer, and the connection must not be used again.
pub(super) async fn read_body(session: &mut ServerSession, most: usize) -> Result<Vec<u8>, StatusCode> {
    let read = async {
        let mut body = Vec::new();
        while let Some(piece) = session.read_request_body().await.map_err(|_| StatusCode::BAD_REQUEST)? {
            if body.len() + piece.len() > most {
                return Err(StatusCode::PAYLOAD_TOO_LARGE);
            }
            body.extend_from_slice(&piece);
        }
        Ok(body)
    };
    let body = tokio::time::timeout(BODY_TIMEOUT, read).await.unwrap_or(Err(StatusCode::REQUEST_TIMEOUT));
    if body.is_err() {
        session.set_keepalive(None);
    }
    body
}
