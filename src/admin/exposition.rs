//! The page of metrics in Prometheus' own text format (0.0.4), for those who do not ask for OpenMetrics: the same samples,
//! told of by the names that they have there.

/// What a reader that says nothing else gets.
pub(super) const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Rewrites a page of OpenMetrics.
pub(super) fn to_text(page: &str) -> String {
    let mut out = String::with_capacity(page.len());
    let mut help = None;
    for line in page.lines() {
        match line.strip_prefix("# ").map(|told| told.splitn(3, ' ').collect::<Vec<_>>()).as_deref() {
            // It comes before the type, which decides how the family is named.
            Some(["HELP", name, text]) => help = Some((*name, *text)),
            Some(["TYPE", name, kind]) => {
                let (suffix, kind) = match *kind {
                    "counter" => ("_total", "counter"),
                    "info" => ("_info", "gauge"),
                    "unknown" => ("", "untyped"),
                    other => ("", other),
                };
                if let Some((_, text)) = help.take().filter(|(of, _)| of == name) {
                    out.push_str(&format!("# HELP {name}{suffix} {text}\n"));
                }
                out.push_str(&format!("# TYPE {name}{suffix} {kind}\n"));
            }
            Some(_) => {}
            None => {
                out.push_str(line);
                out.push('\n');
            }
        }
    }
    out
}

/// Whether a reader names the media type of OpenMetrics.
pub(super) fn asks_for_open_metrics(accept: Option<&[u8]>) -> bool {
    let accepted = accept.unwrap_or_default().split(|&b| b == b',');
    let mut names = accepted.map(|one| one.split(|&b| b == b';').next().unwrap_or_default().trim_ascii());
    names.any(|name| name.eq_ignore_ascii_case(b"application/openmetrics-text"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_are_told_of_by_the_names_of_their_samples() {
        let page = "# HELP a_b Help with: words.\n# TYPE a_b counter\na_b_total{x=\"# TYPE y\"} 1\n\
                    # HELP c_seconds Time.\n# TYPE c_seconds gauge\n# UNIT c_seconds seconds\nc_seconds 2\n\
                    # HELP build What runs.\n# TYPE build info\nbuild_info{version=\"1\"} 1\n# EOF\n";
        let text = "# HELP a_b_total Help with: words.\n# TYPE a_b_total counter\na_b_total{x=\"# TYPE y\"} 1\n\
                    # HELP c_seconds Time.\n# TYPE c_seconds gauge\nc_seconds 2\n\
                    # HELP build_info What runs.\n# TYPE build_info gauge\nbuild_info{version=\"1\"} 1\n";
        assert_eq!(to_text(page), text);
    }

    #[test]
    fn open_metrics_is_for_those_who_ask() {
        let prometheus = b"application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.2,*/*;q=0.1";
        assert!(asks_for_open_metrics(Some(prometheus)));
        assert!(
            [None, Some(&b"*/*"[..]), Some(b"text/plain")].into_iter().all(|accept| !asks_for_open_metrics(accept))
        );
    }
}
