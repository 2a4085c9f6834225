//! What the proxy answers a stream in the worker's place.

use super::answer::Answer;
use crate::gateway::request::error_pages::{ErrorPages, Reader};
use crate::gateway::request::error_response::ErrorResponse;
use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderValue, Response, StatusCode};

/// `pages` may be others' by now: an error is told as the rules of the moment say.
pub(super) fn refuse(
    answer: &mut Answer,
    refusal: ErrorResponse,
    pages: &ErrorPages,
    reader: &Reader<'_>,
    is_head: bool,
) {
    let page = pages.page(&refusal, reader);
    let mut response = Response::new(());
    *response.status_mut() = StatusCode::from_u16(refusal.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let fields = response.headers_mut();
    if let Ok(kind) = HeaderValue::from_str(page.content_type) {
        fields.insert(CONTENT_TYPE, kind);
    }
    fields.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if let Some(seconds) = refusal.retry_after {
        fields.insert(RETRY_AFTER, seconds.into());
    }
    answer.send_whole(response, if is_head { Bytes::new() } else { page.body });
}
