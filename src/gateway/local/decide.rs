//! Whether the proxy answers a request itself, and what.

use super::answer::{Content, LocalAnswer};
use super::files;
use crate::gateway::request::error_pages::Reader;
use crate::gateway::request::error_response::ErrorResponse;
use crate::gateway::request::plan::HeaderSource;
use crate::gateway::request::request_id::RequestId;
use crate::gateway::request::route::{Action, Redirect, Route, StaticAnswer};
use crate::gateway::request::route_table::{Asked, without_port};
use crate::gateway::rules::Rules;

/// The answer by a route that does more than ask an app; `None` where the app is asked after all.
pub(in crate::gateway) async fn answer<'a, H: HeaderSource<'a> + Copy>(
    rules: &Rules,
    route: &Route,
    asked: &Asked<'a, H>,
    is_upgrade: bool,
    id: &RequestId,
) -> Option<LocalAnswer> {
    let is_read = matches!(asked.method, b"GET" | b"HEAD") && !is_upgrade;
    if let Some(files) = route.files.as_ref().filter(|_| is_read)
        && let Some(answer) = files::answer(rules, files, route, asked, id).await
    {
        return Some(answer);
    }
    match &route.action {
        Action::App(_) => None,
        Action::Answer(answer) => Some(fixed(answer)),
        Action::Redirect(redirect) => Some(redirected(redirect, route, asked)),
        Action::Maintenance(seconds) => {
            let retry_after = Some(u32::try_from(*seconds).unwrap_or(u32::MAX));
            let error = ErrorResponse { retry_after, ..ErrorResponse::MAINTENANCE };
            Some(LocalAnswer::error(&error, &rules.error_pages, &Reader::of(asked.headers, id)))
        }
        Action::FilesOnly => {
            Some(LocalAnswer::error(&ErrorResponse::NO_FILE, &rules.error_pages, &Reader::of(asked.headers, id)))
        }
    }
}

fn fixed(fixed: &StaticAnswer) -> LocalAnswer {
    if matches!(fixed.status, 204 | 304) {
        return LocalAnswer::new(fixed.status, Content::None);
    }
    let mut answer = LocalAnswer::new(fixed.status, Content::Bytes(fixed.body.clone()));
    answer.field("Content-Type", fixed.content_type.clone().into_bytes());
    if fixed.status >= 500 {
        answer.field("Cache-Control", &b"no-store"[..]);
    }
    if let Some(seconds) = fixed.retry_after {
        answer.field("Retry-After", seconds.to_string().into_bytes());
    }
    answer
}

fn redirected<'a, H: HeaderSource<'a> + Copy>(redirect: &Redirect, route: &Route, asked: &Asked<'a, H>) -> LocalAnswer {
    let location = redirect.location(without_port(asked.host), asked.target, &route.path);
    let mut answer = LocalAnswer::new(redirect.status, Content::Bytes(bytes::Bytes::new()));
    answer.field("Location", location);
    answer
}
