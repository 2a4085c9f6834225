//! What the proxy answers a stream in the worker's place.

use super::answer::Answer;
use crate::gateway::request::error_response::ErrorResponse;
use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderValue, Response, StatusCode};

pub(super) fn refuse(answer: &mut Answer, refusal: ErrorResponse, is_head: bool) {
    let mut response = Response::new(());
    *response.status_mut() = StatusCode::from_u16(refusal.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let fields = response.headers_mut();
    fields.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    fields.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if let Some(seconds) = refusal.retry_after {
        fields.insert(RETRY_AFTER, seconds.into());
    }
    answer.send_whole(response, if is_head { Bytes::new() } else { refusal.body() });
}
