//! Seeing and steering a running proxy: the control API on a Unix socket with the commands that use it, and
//! the page that Prometheus reads.
//!
//! This room knows neither supervisor nor gateway: what they can do stands behind [`Hands`], and what they
//! measure in a [`Registry`](prometheus_client::registry::Registry); the composition root brings both.
//!
//! ```text
//! command ── client ──► admin.sock ── Api ──► Hands     (HTTP/1.1, JSON; docs/operations.md)
//! Prometheus ─────────► TCP ──────── Scrape ──► Registry
//! ```
//!
//! More verbs: a route in [`api`], a method in [`Hands`], a variant of [`Verb`](commands::Verb). What [`health`] answers
//! is asked on an address of its own, and on the socket.

#![forbid(unsafe_code)]

mod api;
mod client;
pub(crate) mod commands;
mod exposition;
pub(crate) mod health;
mod http;
mod own;
mod scrape;
pub(crate) mod sent;
mod table;
#[cfg(test)]
mod tests;
pub(crate) mod view;

pub(crate) use api::Api;
pub(crate) use own::{register_build, register_process};
pub(crate) use scrape::Scrape;

use async_trait::async_trait;
use std::fmt;
use std::path::PathBuf;

/// What can be asked of a running proxy. Each operation returns when its outcome is known.
#[async_trait]
pub(crate) trait Backend: Send + Sync {
    fn status(&self) -> view::Status;

    fn condition(&self) -> health::Condition;

    /// Why this process may ask nothing, if that is so. `None` as its number: of another PID namespace.
    fn objection(&self, pid: Option<u32>) -> Option<String>;

    /// Reads the configuration again, that of `conf` from now on if there is one, and rolls out what changed, or what
    /// changed in the configuration and `app` in any case, which gets the variables `env`.
    async fn reload(&self, app: Option<String>, conf: Option<PathBuf>, env: Option<sent::Variables>) -> Outcome;

    /// The app is one of [`Hands::status`].
    async fn scale(&self, app: &str, to: Target) -> Outcome;

    /// Replaces this process by another of a program and a configuration; its own, where not named.
    async fn upgrade(&self, program: Option<PathBuf>, conf: Option<PathBuf>) -> Outcome;

    /// Replaces every worker of the app, which is one of [`Hands::status`]; the new ones get the variables `env`.
    async fn restart(&self, app: &str, env: Option<sent::Variables>) -> Outcome;
}

/// What was done, in a sentence, or why it was not.
pub(crate) type Outcome = Result<String, Refusal>;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// It was tried and failed: the reason, with the last words of the worker that failed.
    Failed(String),
    /// This proxy cannot do that.
    #[cfg_attr(not(test), allow(dead_code))] // what this one can do, others may not
    Unsupported(String),
}

impl From<String> for Refusal {
    fn from(reason: String) -> Refusal {
        Refusal::Failed(reason)
    }
}

/// How many workers an app is to have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    /// From 1.
    Count(u16),
    /// More or fewer than now; not 0.
    By(i16),
    /// As the load asks for, between the configured bounds.
    Auto,
}

impl Target {
    const MOST: i16 = 1024;
    const HINT: &str = "write a number from 1 to 1024, +1, -1 or auto";

    /// `4`, `+1`, `-1` or `auto`.
    pub(crate) fn parse(text: &str) -> Result<Target, String> {
        let wrong = || format!("{text:?} is no number of workers; {}", Target::HINT);
        if text == "auto" {
            return Ok(Target::Auto);
        }
        let number: i16 = text.parse().map_err(|_| wrong())?;
        let relative = text.starts_with(['+', '-']);
        match (relative, number) {
            (true, 1..=Self::MOST) | (true, -1024..=-1) => Ok(Target::By(number)),
            (false, 1..=Self::MOST) => Ok(Target::Count(number.unsigned_abs())),
            _ => Err(wrong()),
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Target::Count(count) => count.fmt(f),
            Target::By(by) => write!(f, "{by:+}"),
            Target::Auto => f.write_str("auto"),
        }
    }
}
