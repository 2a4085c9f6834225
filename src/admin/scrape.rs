//! The page that Prometheus reads.

use super::exposition;
use super::http::Answer;
use async_trait::async_trait;
use http::header::ACCEPT;
use http::{Method, Response, StatusCode};
use pingora_core::apps::http_app::ServeHttp;
use pingora_core::protocols::http::ServerSession;
use prometheus_client::encoding::text;
use prometheus_client::registry::Registry;

const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
const PLAIN: &str = "text/plain; charset=utf-8";

/// Serves `/metrics` to everyone who can reach its address.
pub(crate) struct Scrape {
    registry: Registry,
}

impl Scrape {
    pub(crate) fn new(registry: Registry) -> Scrape {
        Scrape { registry }
    }

    /// In OpenMetrics if `accept` names it, else in Prometheus' text format.
    pub(super) fn answer(&self, method: &Method, path: &str, accept: Option<&[u8]>) -> Answer {
        let plain = |status, text: &str| Answer { status, kind: PLAIN, body: format!("{text}\n").into(), allow: None };
        if path != "/metrics" {
            return plain(StatusCode::NOT_FOUND, "there is /metrics");
        }
        if !matches!(*method, Method::GET | Method::HEAD) {
            return Answer { allow: Some("GET, HEAD"), ..plain(StatusCode::METHOD_NOT_ALLOWED, "use GET") };
        }
        let mut page = String::new();
        match text::encode(&mut page, &self.registry) {
            Ok(()) => {
                let (kind, page) = match exposition::asks_for_open_metrics(accept) {
                    true => (OPEN_METRICS, page),
                    false => (exposition::TEXT, exposition::to_text(&page)),
                };
                Answer { status: StatusCode::OK, kind, body: page.into_bytes(), allow: None }
            }
            Err(_) => plain(StatusCode::INTERNAL_SERVER_ERROR, "the metrics could not be written"),
        }
    }
}

#[async_trait]
impl ServeHttp for Scrape {
    async fn response(&self, session: &mut ServerSession) -> Response<Vec<u8>> {
        let head = session.req_header();
        let is_head = head.method == Method::HEAD;
        let accept = head.headers.get(ACCEPT).map(|accept| accept.as_bytes());
        let answer = self.answer(&head.method, head.uri.path(), accept);
        // Whatever came behind the head is not read.
        session.set_keepalive(None);
        let mut response = answer.into_response();
        if is_head {
            response.body_mut().clear();
        }
        response
    }
}
