//! The proxy's own short answers.

use crate::gateway::http1::Reject;
use bytes::Bytes;

/// Why the proxy answers itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::gateway) struct ErrorResponse {
    pub(in crate::gateway) status: u16,
    /// One sentence for the person who reads it.
    pub(in crate::gateway) detail: &'static str,
}

impl From<Reject> for ErrorResponse {
    fn from(reject: Reject) -> ErrorResponse {
        ErrorResponse { status: reject.status, detail: reject.reason }
    }
}

impl ErrorResponse {
    pub(in crate::gateway) const NO_REDIRECT: ErrorResponse =
        ErrorResponse { status: 400, detail: "Only https is served here, and the request names no address for it." };
    pub(in crate::gateway) const NO_ROUTE: ErrorResponse =
        ErrorResponse { status: 404, detail: "No application is configured for this address." };
    pub(in crate::gateway) const REQUEST_TIMEOUT: ErrorResponse =
        ErrorResponse { status: 408, detail: "The request did not arrive completely in time." };
    pub(in crate::gateway) const TOO_LONG: ErrorResponse =
        ErrorResponse { status: 413, detail: "The request body is larger than allowed here." };
    pub(in crate::gateway) const MISDIRECTED: ErrorResponse =
        ErrorResponse { status: 421, detail: "This address asks for another client certificate. Connect to it anew." };
    pub(in crate::gateway) const BROKEN: ErrorResponse =
        ErrorResponse { status: 502, detail: "The application ended the connection before it answered." };
    pub(in crate::gateway) const NO_WORKER: ErrorResponse =
        ErrorResponse { status: 503, detail: "The application is starting or busy. Try again in a moment." };
    pub(in crate::gateway) const NO_UPGRADE: ErrorResponse =
        ErrorResponse { status: 501, detail: "The application speaks HTTP/2 and takes no WebSocket upgrades." };
    pub(in crate::gateway) const LOOP: ErrorResponse =
        ErrorResponse { status: 508, detail: "The request has come through this proxy again and again." };
    pub(in crate::gateway) const NO_ANSWER: ErrorResponse =
        ErrorResponse { status: 504, detail: "The application did not answer in time." };

    pub(in crate::gateway) fn reason(&self) -> &'static str {
        match self.status {
            400 => "Bad Request",
            404 => "Not Found",
            405 => "Method Not Allowed",
            408 => "Request Timeout",
            413 => "Content Too Large",
            414 => "URI Too Long",
            417 => "Expectation Failed",
            421 => "Misdirected Request",
            431 => "Request Header Fields Too Large",
            500 => "Internal Server Error",
            501 => "Not Implemented",
            502 => "Bad Gateway",
            503 => "Service Unavailable",
            504 => "Gateway Timeout",
            505 => "HTTP Version Not Supported",
            508 => "Loop Detected",
            _ => "Error",
        }
    }

    /// How many seconds a client should wait before it tries again.
    pub(in crate::gateway) fn retry_after(&self) -> Option<&'static str> {
        (self.status == 503).then_some("1")
    }

    pub(in crate::gateway) fn body(&self) -> Bytes {
        format!("{} {}\n\n{}\n", self.status, self.reason(), self.detail).into()
    }

    /// The whole HTTP/1.1 message; the connection closes after it.
    pub(in crate::gateway) fn message(&self) -> Vec<u8> {
        let body = self.body();
        let retry = self.retry_after().map(|s| format!("Retry-After: {s}\r\n")).unwrap_or_default();
        let head = format!(
            "HTTP/1.1 {} {}\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: {}\r\n\
             Cache-Control: no-store\r\n{retry}Connection: close\r\n\r\n",
            self.status,
            self.reason(),
            body.len(),
        );
        [head.as_bytes(), &body].concat()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_says_its_length() {
        let message = String::from_utf8(ErrorResponse::NO_WORKER.message()).unwrap();
        let (head, body) = message.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 503 Service Unavailable\r\n"));
        assert!(head.contains("Retry-After: 1"));
        assert!(head.contains(&format!("Content-Length: {}", body.len())));
    }
}
