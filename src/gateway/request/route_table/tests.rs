use super::*;
use crate::gateway::request::route::Action;
use http::HeaderMap;

/// Routes by host and path; a path that begins with `=` is exact, one with `~` a pattern. The app is the place.
fn routes(rules: &[(&str, &str)]) -> Vec<Route> {
    let route = |(app, (host, path)): (usize, &(&str, &str))| {
        let mut route = Route::to_app(Some(*host).filter(|host| !host.is_empty()), path, app);
        match path.split_at(1) {
            ("=", path) => route.path = PathRule::Exact(path.into()),
            ("~", pattern) => route.path = PathRule::Pattern(pattern.into()),
            _ => {}
        }
        route
    };
    rules.iter().enumerate().map(route).collect()
}

fn find(table: &Routes, host: &str, target: &str) -> Result<Option<usize>, Ambiguous> {
    let headers = HeaderMap::new();
    table.find(&Asked { host: host.as_bytes(), target: target.as_bytes(), method: b"GET", headers: &headers })
}

#[test]
fn the_best_match_wins_whatever_the_order() {
    let table = Routes::new(
        routes(&[
            ("", "/"),
            ("*.example.com", "/"),
            ("chat.example.com", "/"),
            ("chat.example.com", "/api"),
            ("*.eu.example.com", "/"),
            ("", "/api/v2/"),
            ("", "=/api/v2/exact"),
            ("", r"~^/api/.*\.php$"),
            ("", "~[.]php$"),
        ]),
        true,
    );
    for (host, target, app) in [
        ("other.org", "/x", 0),
        ("other.org", "/api/v2/users?x=/", 5),
        ("other.org", "/api/v2", 5),
        ("other.org", "/api/v20", 0),
        ("other.org", "/api/v2/exact", 6),
        ("other.org", "/api/v2/exact?q", 6),
        ("other.org", "/api/v2/exact/", 5),
        ("other.org", "/api/v2/x.php", 7),
        ("other.org", "/x.php", 8),
        ("a.example.com", "/", 1),
        ("a.b.example.com:8000", "/", 1),
        ("example.com", "/", 0),
        (".example.com", "/", 0),
        ("a.eu.example.com", "/", 4),
        ("eu.example.com", "/", 1),
        ("CHAT.example.com:443", "/", 2),
        ("chat.example.com.", "/api", 3),
        ("chat.example.com", "/api?x", 3),
        ("chat.example.com", "/apis", 2),
        ("chat.example.com", "//api//x", 3),
        ("chat.example.com", "/%61pi", 3),
        ("chat.example.com", "http://chat.example.com/api/x", 3),
        ("chat.example.com", "http://chat.example.com", 2),
        ("[::1]:8000", "/", 0),
        ("", "*", 0),
    ] {
        assert_eq!(find(&table, host, target), Ok(Some(app)), "{host} {target}");
    }
    let long = "a.".repeat(200) + "example.com";
    assert_eq!(find(&table, &long, "/"), Ok(Some(0)));
}

#[test]
fn no_rule_no_app() {
    let table = Routes::new(routes(&[("a.org", "/x")]), true);
    assert_eq!(find(&table, "a.org", "/"), Ok(None));
    assert_eq!(find(&table, "b.org", "/x"), Ok(None));
    assert_eq!(find(&table, "[::1]:80", "/x"), Ok(None));
    assert_eq!(find(&Routes::new(Vec::new(), true), "a", "/"), Ok(None));
}

#[test]
fn methods_and_headers_narrow_a_route() {
    let mut all = routes(&[("", "/"), ("", "/"), ("", "/"), ("", "/"), ("", "/")]);
    all[1].methods = vec!["GET".into()];
    all[2].methods = vec!["POST".into(), "PUT".into()];
    let rule = |name: &str, value| HeaderRule { name: name.into(), value };
    all[3].headers = vec![rule("x-version", HeaderValue::Is("2".into()))];
    all[4].headers = vec![rule("x-version", HeaderValue::Present), rule("x-beta", HeaderValue::Absent)];
    let table = Routes::new(all, true);
    for (method, headers, app) in [
        ("GET", &[][..], 1),
        ("HEAD", &[], 1),
        ("PUT", &[], 2),
        ("get", &[], 0),
        ("DELETE", &[], 0),
        ("DELETE", &[("x-version", "2"), ("x-beta", "1")], 3),
        ("DELETE", &[("x-version", "2")], 4),
        ("DELETE", &[("x-version", "1")], 4),
        ("DELETE", &[("x-version", "1"), ("x-beta", "1")], 0),
    ] {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, value.parse().unwrap());
        }
        let asked = Asked { host: b"a", target: b"/x", method: method.as_bytes(), headers: &map };
        assert_eq!(table.find(&asked), Ok(Some(app)), "{method} {headers:?}");
    }
}

#[test]
fn what_can_be_read_as_another_route_is_refused() {
    let rules = [("", "/"), ("", "/admin"), ("", "=/only"), ("", "/api"), ("a.org", "/x")];
    let table = Routes::new(routes(&rules), true);
    let lenient = Routes::new(routes(&rules), false);
    for target in [
        "/x/../admin",
        "/admin/../x",
        "/x/%2e%2e/admin",
        "/admin/%2e%2e%2fx",
        "/x%2f..%2fadmin",
        "/admin%2fx",
        "/admin%5cx",
        "/admin\\x",
        "/x\\..\\admin",
        "/admin;a=b",
        "/x/..;/admin",
        "/admin%00",
        "/only%00.html",
        "/%2561dmin",
        "/x%252f..%252fadmin",
        "/x/%c0%ae%c0%ae/admin",
        "/admin%c0%afx",
        "/admin%u002fx",
        "/admin/..%2fapi",
    ] {
        assert_eq!(find(&table, "h", target), Err(Ambiguous), "{target}");
        assert!(find(&lenient, "h", target).is_ok(), "{target}");
    }
    // Where every reading leads to the same, nothing is refused.
    for (target, app) in [
        ("/a%2fb", 0),
        ("/projects/group%2Fname", 0),
        ("/api/group%2Fname", 3),
        ("/api/a/../b", 3),
        ("/x;jsessionid=1", 0),
        ("/100%25", 0),
        ("/100%", 0),
        ("//admin", 1),
        ("/%61dmin/x", 1),
        ("/api/%00", 3),
    ] {
        assert_eq!(find(&table, "h", target), Ok(Some(app)), "{target}");
    }
    // One route for all, or several that do the same.
    let single = Routes::new(routes(&[("", "/")]), true);
    assert_eq!(find(&single, "h", "/x/..%2fadmin"), Ok(Some(0)));
    let mut same = routes(&[("", "/"), ("", "/admin")]);
    same[1].action = Action::App(0);
    assert!(find(&Routes::new(same, true), "h", "/x/..%2fadmin").is_ok());
}

#[test]
fn four_thousand_routes_cost_what_four_do() {
    let looks = |count: usize| {
        let names: Vec<(String, String)> =
            (0..count).map(|n| (format!("h{n}.example.com"), format!("/a/b{n}"))).collect();
        let mut rules: Vec<(&str, &str)> = names.iter().map(|(host, path)| (host.as_str(), path.as_str())).collect();
        rules.extend(names.iter().map(|(_, path)| ("*.example.org", path.as_str())));
        rules.extend(names.iter().map(|(_, path)| ("", path.as_str())));
        let table = Routes::new(routes(&rules), true);
        let headers = HeaderMap::new();
        let mut most = 0;
        for host in ["h3.example.com", "x.y.example.org", "other.net", &"a.".repeat(100)] {
            for path in ["/a/b3/c/d", "/a/none", "/", &"/x".repeat(500)] {
                let asked = Asked { host: host.as_bytes(), target: path.as_bytes(), method: b"GET", headers: &headers };
                let mut looks = 0;
                table.look(host.as_bytes(), path.as_bytes(), &asked, &mut looks);
                most = most.max(looks);
            }
        }
        most
    };
    let few = looks(4);
    assert_eq!(looks(4096), few);
    assert!(few <= 16, "{few} looks");
}

#[test]
fn a_pattern_that_cannot_be_used_is_told() {
    assert_eq!(check_pattern(r"^/a/\d+$"), Ok(()));
    assert!(check_pattern("(").unwrap_err().contains("unclosed group"));
    assert!(check_pattern("a{1000}{1000}{1000}").is_err());
}
