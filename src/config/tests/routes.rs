//! What a route may ask for and do.

use super::*;
use crate::gateway::{Action, Files, HeaderRule, HeaderValue, PathRule, Redirect, Rewrite, RouteLimits, StaticAnswer};

#[test]
fn routes_arrive() {
    let route =
        |text: &str| good(&format!("routes: [{{{text}}}]\napps: {{chat: {{script: app.js}}}}")).routes.remove(0);
    let plain = Route::to_app(None, "/", 0);
    let answered = |status, body: &'static str, content_type: &str| StaticAnswer {
        status,
        content_type: content_type.into(),
        body: bytes::Bytes::from_static(body.as_bytes()),
        retry_after: None,
    };
    let rule = |name: &str, value| HeaderRule { name: name.into(), value };
    let files = |cache: Option<&str>| Files {
        directory: "/srv/public".into(),
        index: "index.html".into(),
        cache_control: cache.map(str::to_owned),
    };
    let to = |status, to: &str| Action::Redirect(Redirect { status, to: to.into() });
    let text = "text/plain; charset=utf-8";
    for (written, expected) in [
        ("exact: /a/", Route { path: PathRule::Exact("/a/".into()), ..plain.clone() }),
        ("regex: \"^/v[0-9]+/\"", Route { path: PathRule::Pattern("^/v[0-9]+/".into()), ..plain.clone() }),
        ("path: /%7eme/caf%c3%a9", Route { path: PathRule::Prefix("/~me/caf%C3%A9".into()), ..plain.clone() }),
        ("methods: [GET, POST]", Route { methods: vec!["GET".into(), "POST".into()], ..plain.clone() }),
        ("methods: PUT", Route { methods: vec!["PUT".into()], ..plain.clone() }),
        (
            "headers: {X-A: 2, x-b: true, x-c: false}",
            Route {
                headers: vec![
                    rule("x-a", HeaderValue::Is("2".into())),
                    rule("x-b", HeaderValue::Present),
                    rule("x-c", HeaderValue::Absent),
                ],
                ..plain.clone()
            },
        ),
        ("files: public", Route { files: Some(files(None)), action: Action::FilesOnly, ..plain.clone() }),
        ("files: public, app: chat", Route { files: Some(files(None)), ..plain.clone() }),
        (
            "files: {directory: public, index: index.html, cache_control: max-age=60}, app: chat",
            Route { files: Some(files(Some("max-age=60"))), ..plain.clone() },
        ),
        ("redirect: /new", Route { action: to(302, "/new"), ..plain.clone() }),
        ("redirect: {to: /new}", Route { action: to(302, "/new"), ..plain.clone() }),
        (
            "redirect: {to: \"https://{host}{path}\", status: 308}",
            Route { action: to(308, "https://{host}{path}"), ..plain.clone() },
        ),
        ("answer: {}", Route { action: Action::Answer(answered(200, "", text)), ..plain.clone() }),
        (
            "answer: {body: ok, status: 200}",
            Route { action: Action::Answer(answered(200, "ok", text)), ..plain.clone() },
        ),
        (
            "answer: {status: 410, file: gone.html}",
            Route { action: Action::Answer(answered(410, "", "text/html; charset=utf-8")), ..plain.clone() },
        ),
        (
            "answer: {body: a, content_type: a/b}",
            Route { action: Action::Answer(answered(200, "a", "a/b")), ..plain.clone() },
        ),
        ("maintenance: true", Route { action: Action::Maintenance(120), ..plain.clone() }),
        ("maintenance: {}, files: public, app: chat", Route { action: Action::Maintenance(120), ..plain.clone() }),
        ("maintenance: {retry_after: 1h}", Route { action: Action::Maintenance(3600), ..plain.clone() }),
        ("maintenance: false", plain.clone()),
        (
            "path: /api, strip_prefix: /api, add_prefix: /v1",
            Route {
                rewrite: Some(Rewrite { strip: "/api".into(), add: "/v1".into() }),
                ..Route::to_app(None, "/api", 0)
            },
        ),
        (
            "limits: {body_size: none, body_timeout: 1s, body_rate: 0, response_timeout: 2s}",
            Route {
                limits: RouteLimits {
                    body_bytes: Some(None),
                    body_timeout: Some(Duration::from_secs(1)),
                    body_rate: Some(0),
                    response_timeout: Some(Duration::from_secs(2)),
                },
                ..plain.clone()
            },
        ),
    ] {
        assert_eq!(route(written), expected, "{written}");
    }
    let config = good("apps: {chat: {script: app.js, maintenance: {page: m.html}}}\npaths: lenient");
    assert!(matches!(&config.routes[0].action, Action::Answer(answer) if answer.status == 503), "{:?}", config.routes);
    assert!(!config.strict_paths);
}
