//! Why the proxy answers in a worker's place. How that looks stands in [`super::error_pages`].

use crate::gateway::http1::Reject;

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
    pub(in crate::gateway) const NO_ROUTE: ErrorResponse =
        ErrorResponse { status: 404, detail: "No application is configured for this address." };
    pub(in crate::gateway) const MAINTENANCE: ErrorResponse =
        ErrorResponse { status: 503, detail: "Maintenance is under way. Try again later." };
    pub(in crate::gateway) const NO_FILE: ErrorResponse =
        ErrorResponse { status: 404, detail: "There is no such file." };
    pub(in crate::gateway) const AMBIGUOUS_PATH: ErrorResponse =
        ErrorResponse { status: 400, detail: "The path can be read in more than one way." };
    pub(in crate::gateway) const REQUEST_TIMEOUT: ErrorResponse =
        ErrorResponse { status: 408, detail: "The request did not arrive completely in time." };
    pub(in crate::gateway) const TOO_LONG: ErrorResponse =
        ErrorResponse { status: 413, detail: "The request body is larger than allowed here." };
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
            412 => "Precondition Failed",
            413 => "Content Too Large",
            414 => "URI Too Long",
            417 => "Expectation Failed",
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

    /// How many seconds a client should wait before it tries again.
    pub(in crate::gateway) fn retry_after(&self) -> Option<&'static str> {
        (self.status == 503).then_some("1")
    }
}
