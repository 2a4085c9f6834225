//! The status for people: one block of lines per app, within 80 columns.

use super::view::{App, Port, Status, Worker};

/// A usual terminal.
const WIDTH: usize = 80;
/// Lines that are shown of a worker that is not well: its last ones, or those around the error that it died of. The
/// rest is in the JSON.
const LAST_WORDS: usize = 5;
const LAST_ERROR: usize = 8;

const HEAD: [&str; 11] = ["SLOT", "PID", "STATE", "SINCE", "ACTIVE", "PARKED", "SESS", "ELU", "LAG", "RSS", "RESTARTS"];
/// Which column is text; numbers stand on the right.
const STATE: usize = 2;

pub(super) fn render(status: &Status) -> String {
    let up = duration(status.uptime_seconds);
    let mut lines = vec![format!("pingora-unix-proxy {}, pid {}, up {up}", status.version, status.pid)];
    lines.extend(status.file.as_ref().map(|file| format!("configuration: {file}")));
    // One layout for all apps, so that the eye runs down.
    let rows: Vec<Vec<[String; 11]>> = status.apps.iter().map(|app| app.workers.iter().map(row).collect()).collect();
    let mut widths = HEAD.map(str::len);
    for cells in rows.iter().flatten() {
        for (width, cell) in widths.iter_mut().zip(cells) {
            *width = cell.chars().count().max(*width);
        }
    }
    let wide = 2 + widths.iter().sum::<usize>() + 2 * (HEAD.len() - 1) <= WIDTH;
    let gap = if wide { "  " } else { " " };
    for (app, rows) in status.apps.iter().zip(&rows) {
        lines.push(String::new());
        lines.push(headline(app));
        if rows.is_empty() {
            continue;
        }
        lines.push(line(&HEAD.map(str::to_owned), &widths, gap));
        for (cells, worker) in rows.iter().zip(&app.workers) {
            lines.push(line(cells, &widths, gap));
            lines.extend(wrapped(&further_ports(worker)).map(|line| format!("       {line}")));
            remarks(worker, &mut lines);
        }
    }
    lines.push(String::new());
    lines.join("\n")
}

fn headline(app: &App) -> String {
    let mut slots: Vec<u16> = app.workers.iter().map(|worker| worker.slot).collect();
    slots.sort_unstable();
    slots.dedup();
    let generation = app.workers.iter().filter_map(|worker| worker.generation).max();
    let generation = generation.filter(|generation| *generation > 1);
    let generation = generation.map(|generation| format!(", generation {generation}")).unwrap_or_default();
    format!("{}: {} of {} ready{generation}", app.name, app.ready, slots.len())
}

fn row(worker: &Worker) -> [String; 11] {
    let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    [
        worker.slot.to_string(),
        or_dash(worker.pid.map(|pid| pid.to_string())),
        worker.state.clone(),
        or_dash(worker.since_seconds.map(duration)),
        worker.active.to_string(),
        worker.parked.to_string(),
        or_dash(worker.sessions.map(|sessions| sessions.to_string())),
        or_dash(worker.elu.map(|elu| format!("{:.0}%", elu * 100.0))),
        or_dash(worker.lag_seconds.map(lag)),
        or_dash(worker.rss_bytes.map(bytes)),
        worker.restarts.to_string(),
    ]
}

fn line(cells: &[String; 11], widths: &[usize; 11], gap: &str) -> String {
    let padded = |(column, (cell, width)): (usize, (&String, &usize))| {
        let width = *width;
        if column == STATE { format!("{cell:<width$}") } else { format!("{cell:>width$}") }
    };
    let cells: Vec<String> = cells.iter().zip(widths).enumerate().map(padded).collect();
    format!("  {}", cells.join(gap)).trim_end().to_owned()
}

/// What became of servers beside the main one.
fn further_ports(worker: &Worker) -> String {
    if worker.further_ports.is_empty() {
        return String::new();
    }
    let main = worker.port.map(|port| format!("port {port}; ")).unwrap_or_default();
    let one = |further: &Port| match (further.state.as_str(), further.at) {
        ("listens", Some(at)) if at != further.port => format!("{} at {at}", further.port),
        ("listens", _) => format!("{} here", further.port),
        ("taken", _) => format!("{} with another process", further.port),
        (state, _) => format!("{} {state}", further.port),
    };
    let further: Vec<String> = worker.further_ports.iter().map(one).collect();
    format!("{main}further ports: {}", further.join(", "))
}

/// Why a worker is not as it should be.
fn remarks(worker: &Worker, lines: &mut Vec<String>) {
    let ready = worker.state == "ready";
    if ready && worker.failures == 0 {
        return;
    }
    let mut text = if ready { String::new() } else { worker.reason.clone() };
    let mut add = |more: String| {
        if !text.is_empty() {
            text.push_str("; ");
        }
        text.push_str(&more);
    };
    if worker.failures > 0 {
        let times =
            if worker.failures == 1 { "once".to_owned() } else { format!("{} times in a row", worker.failures) };
        add(format!("failed {times}"));
        if let Some(exit) = worker.last_exit.as_ref().filter(|exit| **exit != worker.reason) {
            add(format!("last: {exit}"));
        }
    }
    if let Some(retry) = worker.retry_seconds {
        let soon = if retry < 10.0 { format!("{:.1}s", retry.max(0.0)) } else { duration(retry) };
        add(format!("starts again in {soon}"));
    }
    lines.extend(wrapped(&text).map(|line| format!("       {line}")));
    let shown = |words: &str| words.chars().take(WIDTH - 9).collect::<String>();
    let Some(error) = &worker.last_error else {
        let skip = worker.last_stderr.len().saturating_sub(LAST_WORDS);
        lines.extend(worker.last_stderr.iter().skip(skip).map(|words| format!("       | {}", shown(words))));
        return;
    };
    // What it died of first, then where.
    lines.push(format!("       > {}", shown(error)));
    let around = worker.last_error_lines.iter().filter(|line| !line.trim().is_empty() && line.trim() != error);
    lines.extend(around.take(LAST_ERROR).map(|line| format!("       | {}", shown(line))));
}

fn wrapped(text: &str) -> impl Iterator<Item = String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= WIDTH - 7 => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines.into_iter()
}

/// At most two units: 5s, 3m20s, 4h05m, 2d7h, 120d.
fn duration(seconds: f64) -> String {
    let s = seconds.max(0.0) as u64;
    match s {
        0..60 => format!("{s}s"),
        60..3600 => format!("{}m{:02}s", s / 60, s % 60),
        3600..86_400 => format!("{}h{:02}m", s / 3600, s / 60 % 60),
        86_400..864_000 => format!("{}d{}h", s / 86_400, s / 3600 % 24),
        _ => format!("{}d", s / 86_400),
    }
}

fn lag(seconds: f64) -> String {
    match seconds * 1000.0 {
        ms if ms < 10.0 => format!("{ms:.1}ms"),
        ms if ms < 1000.0 => format!("{ms:.0}ms"),
        ms => format!("{:.1}s", ms / 1000.0),
    }
}

/// In 1024s: 940K, 84M, 1.2G.
fn bytes(bytes: u64) -> String {
    const UNIT: f64 = 1024.0;
    match bytes as f64 / UNIT {
        k if k < 1000.0 => format!("{k:.0}K"),
        k if k < 1000.0 * UNIT => format!("{:.0}M", k / UNIT),
        k => format!("{:.1}G", k / UNIT / UNIT),
    }
}

/// Without what would steer a terminal: workers' words are shown here. Colours are left out, other control
/// characters are replaced.
pub(super) fn printable(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\u{1b}' if chars.peek() == Some(&'[') => {
                chars.next();
                // A control sequence ends with its first letter or sign of this range (ECMA-48, 5.4).
                let _ = chars.by_ref().find(|c| matches!(c, '@'..='~'));
            }
            '\n' | '\t' => shown.push(c),
            c if c.is_control() => shown.push('\u{fffd}'),
            c => shown.push(c),
        }
    }
    shown
}
