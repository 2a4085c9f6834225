//! Why the proxy answers in a worker's place. How that looks stands in [`super::error_pages`].

use crate::gateway::http1::Reject;

/// Why the proxy answers itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::gateway) struct ErrorResponse {
    pub(in crate::gateway) status: u16,
    /// One sentence for the person who reads it.
    pub(in crate::gateway) detail: &'static str,
    /// How many seconds a client should wait before it tries again, if that would help.
    pub(in crate::gateway) retry_after: Option<u32>,
}

impl From<Reject> for ErrorResponse {
    fn from(reject: Reject) -> ErrorResponse {
        ErrorResponse::new(reject.status, reject.reason)
    }
}

impl ErrorResponse {
    /// Where to is said by [`super::redirect`].
    pub(in crate::gateway) const TO_HTTPS: ErrorResponse =
        ErrorResponse::new(308, "The same address is served by https.");
    pub(in crate::gateway) const NO_REDIRECT: ErrorResponse =
        ErrorResponse::new(400, "Only https is served here, and the request names no address for it.");
    pub(in crate::gateway) const NO_ROUTE: ErrorResponse =
        ErrorResponse::new(404, "No application is configured for this address.");
    pub(in crate::gateway) const MAINTENANCE: ErrorResponse =
        ErrorResponse::new(503, "Maintenance is under way. Try again later.");
    pub(in crate::gateway) const NO_FILE: ErrorResponse = ErrorResponse::new(404, "There is no such file.");
    pub(in crate::gateway) const AMBIGUOUS_PATH: ErrorResponse =
        ErrorResponse::new(400, "The path can be read in more than one way.");
    pub(in crate::gateway) const REQUEST_TIMEOUT: ErrorResponse =
        ErrorResponse::new(408, "The request did not arrive completely in time.");
    pub(in crate::gateway) const TOO_LONG: ErrorResponse =
        ErrorResponse::new(413, "The request body is larger than allowed here.");
    pub(in crate::gateway) const MISDIRECTED: ErrorResponse =
        ErrorResponse::new(421, "This address asks for another client certificate. Connect to it anew.");
    pub(in crate::gateway) const BROKEN: ErrorResponse =
        ErrorResponse::new(502, "The application ended the connection before it answered.");
    pub(in crate::gateway) const NO_WORKER: ErrorResponse = ErrorResponse {
        retry_after: Some(1),
        ..ErrorResponse::new(503, "The application is starting or busy. Try again in a moment.")
    };
    pub(in crate::gateway) const NO_UPGRADE: ErrorResponse =
        ErrorResponse::new(501, "The application speaks HTTP/2 and takes no WebSocket upgrades.");
    pub(in crate::gateway) const LOOP: ErrorResponse =
        ErrorResponse::new(508, "The request has come through this proxy again and again.");
    pub(in crate::gateway) const NO_ANSWER: ErrorResponse =
        ErrorResponse::new(504, "The application did not answer in time.");

    pub(in crate::gateway) const fn new(status: u16, detail: &'static str) -> ErrorResponse {
        ErrorResponse { status, detail, retry_after: None }
    }

    /// The client has had as much as it may; in so many seconds it may have more.
    pub(in crate::gateway) const fn too_many(seconds: u32) -> ErrorResponse {
        let detail = "Too many requests have come from this address. Try again later.";
        ErrorResponse { retry_after: Some(seconds), ..ErrorResponse::new(429, detail) }
    }

    pub(in crate::gateway) fn reason(&self) -> &'static str {
        match self.status {
            400 => "Bad Request",
            404 => "Not Found",
            405 => "Method Not Allowed",
            408 => "Request Timeout",
            412 => "Precondition Failed",
            413 => "Content Too Large",
            414 => "URI Too Long",
            417 => "Expectation Failed",
            421 => "Misdirected Request",
            429 => "Too Many Requests",
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

    /// As plain text.
    pub(in crate::gateway) fn text(&self) -> String {
        format!("{} {}\n\n{}\n", self.status, self.reason(), self.detail)
    }
}
