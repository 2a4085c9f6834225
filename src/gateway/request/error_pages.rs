//! How the proxy's own errors look: HTML for who asks for it, JSON for who asks for that, plain text for all others, or what
//! the user has written instead.

use super::error_response::ErrorResponse;
use super::plan::HeaderSource;
use super::request_id::RequestId;
use bytes::Bytes;
use std::borrow::Cow;

/// What stands in a page for the request's id.
const REQUEST_ID: &str = "{request_id}";

/// Pages in the place of the proxy's own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ErrorPages(Vec<ErrorPage>);

/// A page in the place of the proxy's own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ErrorPage {
    pub(crate) statuses: Statuses,
    pub(crate) content_type: String,
    /// May hold `{request_id}`.
    pub(crate) body: Bytes,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Statuses {
    Only(u16),
    /// 4 or 5, for all that begin with it.
    All(u16),
}

/// In which form an error is wanted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::gateway) enum Wanted {
    Html,
    Json,
    #[default]
    Text,
}

/// Who reads an error.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::gateway) struct Reader<'a> {
    pub(in crate::gateway) wanted: Wanted,
    /// To be told to whoever runs the proxy; empty where requests have none.
    pub(in crate::gateway) request_id: &'a str,
}

impl<'a> Reader<'a> {
    pub(in crate::gateway) fn of<'h>(headers: impl HeaderSource<'h>, id: &'a RequestId) -> Reader<'a> {
        Reader { wanted: headers.first("accept").map_or(Wanted::Text, wanted), request_id: id.as_str() }
    }
}

/// An error as its reader gets it.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::gateway) struct Page<'p> {
    pub(in crate::gateway) content_type: &'p str,
    pub(in crate::gateway) body: Bytes,
}

impl ErrorPages {
    /// Those of one status come before those of a class, whatever their order.
    pub(crate) fn new(mut pages: Vec<ErrorPage>) -> ErrorPages {
        pages.sort_by_key(|page| matches!(page.statuses, Statuses::All(_)));
        ErrorPages(pages)
    }

    pub(in crate::gateway) fn page(&self, error: &ErrorResponse, reader: &Reader<'_>) -> Page<'_> {
        match self.replaced(error, reader.wanted) {
            Some(page) => Page { content_type: &page.content_type, body: with_id(&page.body, reader.request_id) },
            None => built_in(error, reader),
        }
    }

    /// A page that the reader asks for by its type; for who asks for none, the first.
    fn replaced(&self, error: &ErrorResponse, wanted: Wanted) -> Option<&ErrorPage> {
        if self.0.is_empty() {
            return None;
        }
        let matches = |statuses| match statuses {
            Statuses::Only(status) => status == error.status,
            Statuses::All(class) => class == error.status / 100,
        };
        let mut pages = self.0.iter().filter(|page| matches(page.statuses));
        match wanted {
            Wanted::Text => pages.next(),
            Wanted::Html => pages.find(|page| page.content_type.starts_with("text/html")),
            Wanted::Json => pages.find(|page| page.content_type.contains("json")),
        }
    }

    /// The whole HTTP/1.1 message; the connection closes after it.
    pub(in crate::gateway) fn message(&self, error: &ErrorResponse, reader: &Reader<'_>, is_head: bool) -> Vec<u8> {
        let page = self.page(error, reader);
        let retry = error.retry_after.map(|s| format!("Retry-After: {s}\r\n")).unwrap_or_default();
        let id = match reader.request_id {
            "" => String::new(),
            id => format!("X-Request-Id: {id}\r\n"),
        };
        let head = format!(
            "HTTP/1.1 {} {}\r\nContent-Type: {}\r\nContent-Length: {}\r\n\
             Cache-Control: no-store\r\n{retry}{id}Connection: close\r\n\r\n",
            error.status,
            error.reason(),
            page.content_type,
            page.body.len(),
        );
        let body = if is_head { &[][..] } else { &page.body };
        [head.as_bytes(), body].concat()
    }
}

fn with_id(body: &Bytes, id: &str) -> Bytes {
    if memchr::memmem::find(body, REQUEST_ID.as_bytes()).is_none() {
        return body.clone();
    }
    let id = escaped(id);
    let mut out = Vec::with_capacity(body.len() + id.len());
    let mut from = 0;
    for at in memchr::memmem::find_iter(body, REQUEST_ID) {
        out.extend_from_slice(&body[from..at]);
        out.extend_from_slice(id.as_bytes());
        from = at + REQUEST_ID.len();
    }
    out.extend_from_slice(&body[from..]);
    out.into()
}

/// An id is the client's word where the client is trusted: nothing in it may end a string or begin a tag.
fn escaped(id: &str) -> Cow<'_, str> {
    let is_safe = |b: u8| b.is_ascii_alphanumeric() || b"-_.:+/=@~".contains(&b);
    if id.bytes().all(is_safe) {
        return Cow::Borrowed(id);
    }
    Cow::Owned(id.chars().filter(|c| u8::try_from(*c).is_ok_and(is_safe)).collect())
}

fn built_in(error: &ErrorResponse, reader: &Reader<'_>) -> Page<'static> {
    let (status, reason, detail) = (error.status, error.reason(), error.detail);
    let id = escaped(reader.request_id);
    let (content_type, body) = match reader.wanted {
        // Programs that read this form find the id in the header.
        Wanted::Text => ("text/plain; charset=utf-8", error.text()),
        Wanted::Json => {
            let mut body = serde_json::json!({ "status": status, "error": reason, "detail": detail });
            if !id.is_empty() {
                body["request_id"] = id.into();
            }
            ("application/json", format!("{body}\n"))
        }
        Wanted::Html => {
            let id = if id.is_empty() { String::new() } else { format!("<p>Request <code>{id}</code></p>\n") };
            let body = format!(
                "<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n\
                 <meta name=\"viewport\" content=\"width=device-width\">\n<title>{status} {reason}</title>\n\
                 <style>body {{ font: 1rem/1.5 system-ui, sans-serif; max-width: 36rem; margin: 4rem auto; \
                 padding: 0 1rem }}</style>\n<h1>{status} {reason}</h1>\n<p>{detail}</p>\n{id}</html>\n"
            );
            ("text/html; charset=utf-8", body)
        }
    };
    Page { content_type, body: body.into() }
}

/// What an `Accept` asks for by name, the heaviest first. `*/*`, which every program sends, asks for nothing.
fn wanted(accept: &[u8]) -> Wanted {
    let mut best = (0, Wanted::Text);
    for range in accept.split(|&b| b == b',') {
        let mut parts = range.split(|&b| b == b';').map(<[u8]>::trim_ascii);
        let name = parts.next().unwrap_or_default();
        let is = |one: &str| name.eq_ignore_ascii_case(one.as_bytes());
        let named = if is("text/html") || is("application/xhtml+xml") {
            Wanted::Html
        } else if is("application/json") || name.to_ascii_lowercase().ends_with(b"+json") {
            Wanted::Json
        } else if is("text/plain") {
            Wanted::Text
        } else {
            continue;
        };
        let weight = parts.find_map(super::file_request::weight).unwrap_or(1000);
        if weight > best.0 {
            best = (weight, named);
        }
    }
    best.1
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHROME: &str = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,*/*;q=0.8";

    #[test]
    fn an_error_has_the_form_that_is_asked_for() {
        for (accept, expected) in [
            (CHROME, Wanted::Html),
            ("*/*", Wanted::Text),
            ("", Wanted::Text),
            ("application/json", Wanted::Json),
            ("application/json, text/plain, */*", Wanted::Json),
            ("application/problem+json", Wanted::Json),
            ("text/html;q=0.5, application/json;q=0.9", Wanted::Json),
            ("text/html;q=0, application/json;q=0.1", Wanted::Json),
            ("text/plain, text/html;q=0.5", Wanted::Text),
            ("text/html ; level=1 ; q=0.4, APPLICATION/JSON; q=0.3", Wanted::Html),
            ("image/png", Wanted::Text),
            (",;q=,;;", Wanted::Text),
        ] {
            assert_eq!(wanted(accept.as_bytes()), expected, "{accept}");
        }
    }

    #[test]
    fn a_message_says_its_length() {
        let pages = ErrorPages::default();
        for wanted in [Wanted::Text, Wanted::Html, Wanted::Json] {
            let reader = Reader { wanted, request_id: "a-1" };
            let message = String::from_utf8(pages.message(&ErrorResponse::NO_WORKER, &reader, false)).unwrap();
            let (head, body) = message.split_once("\r\n\r\n").unwrap();
            assert!(head.starts_with("HTTP/1.1 503 Service Unavailable\r\n"));
            assert!(head.contains("Retry-After: 1"));
            assert!(head.contains(&format!("Content-Length: {}\r\n", body.len())));
            assert!(head.contains("\r\nX-Request-Id: a-1\r\n"), "{head}");
            assert_eq!(body.contains("a-1"), wanted != Wanted::Text, "{body}");
            assert!(body.contains(ErrorResponse::NO_WORKER.detail), "{body}");
            let message = String::from_utf8(pages.message(&ErrorResponse::NO_WORKER, &reader, true)).unwrap();
            assert_eq!(message, format!("{head}\r\n\r\n"));
        }
        let many = pages.message(&ErrorResponse::too_many(7), &Reader::default(), false);
        let many = String::from_utf8(many).unwrap();
        assert!(many.starts_with("HTTP/1.1 429 Too Many Requests\r\n") && many.contains("\r\nRetry-After: 7\r\n"));
        assert!(!many.contains("X-Request-Id"), "{many}");
        let plain = pages.page(&ErrorResponse::NO_ROUTE, &Reader::default());
        assert_eq!(plain.body, "404 Not Found\n\nNo application is configured for this address.\n");
    }

    #[test]
    fn pages_replace_the_own_ones() {
        let page = |statuses, content_type: &str, body: &'static str| ErrorPage {
            statuses,
            content_type: content_type.into(),
            body: Bytes::from_static(body.as_bytes()),
        };
        let pages = ErrorPages::new(vec![
            page(Statuses::All(5), "text/html; charset=utf-8", "<p>any {request_id} {request_id}</p>"),
            page(Statuses::Only(503), "text/html", "busy"),
            page(Statuses::Only(503), "application/json", "{\"id\":\"{request_id}\"}"),
        ]);
        for (error, wanted, body) in [
            (ErrorResponse::NO_WORKER, Wanted::Html, "busy"),
            (ErrorResponse::NO_WORKER, Wanted::Text, "busy"),
            (ErrorResponse::NO_WORKER, Wanted::Json, "{\"id\":\"ascript1\"}"),
            (ErrorResponse::BROKEN, Wanted::Html, "<p>any ascript1 ascript1</p>"),
        ] {
            let reader = Reader { wanted, request_id: "a<script>\"1" };
            assert_eq!(pages.page(&error, &reader).body, body);
        }
        // No page of its type, and none for its status.
        for (error, wanted) in [(ErrorResponse::BROKEN, Wanted::Json), (ErrorResponse::NO_ROUTE, Wanted::Html)] {
            let reader = Reader { wanted, request_id: "" };
            assert_eq!(pages.page(&error, &reader), built_in(&error, &reader));
        }
    }
}
