//! The commands of the command line, over the API of a running proxy.

use super::client::{self, Failure, Reply, Request};
use super::health::Check;
use super::sent::Variables;
use super::table;
use super::view::Status;
use serde::Deserialize;
use serde_json::json;
use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// What to ask of which proxy.
#[derive(Clone, Debug)]
pub(crate) struct Command {
    /// Its control API.
    pub(crate) socket: PathBuf,
    pub(crate) verb: Verb,
    /// For the answer; `None` takes what suits the verb.
    pub(crate) timeout: Option<Duration>,
}

#[derive(Clone, Debug)]
pub(crate) enum Verb {
    Status {
        json: bool,
    },
    /// Every app that changed, or one in any case. `conf` is in force from then on.
    Reload {
        app: Option<String>,
        conf: Option<PathBuf>,
        env: Option<Variables>,
    },
    /// `to` as a person writes it: 4, +1, -1, auto.
    Scale {
        app: String,
        to: String,
    },
    /// All apps, one after the other, if none is named.
    Restart {
        app: Option<String>,
        env: Option<Variables>,
    },
    /// By this program and configuration; those of the running one, where not named.
    Upgrade {
        program: Option<PathBuf>,
        conf: Option<PathBuf>,
    },
    /// Asked on the address of health, if there is one.
    Health {
        check: Check,
        address: Option<SocketAddr>,
    },
}

/// For what is known at once.
const SOON: Duration = Duration::from_secs(10);
/// For a health check: what asks has a limit of its own.
const SHORT: Duration = Duration::from_secs(5);
/// For what waits for workers to start and end.
const LONG: Duration = Duration::from_secs(3600);

/// The process's exit codes.
const DONE: u8 = 0;
const FAILED: u8 = 1;

/// What an operation answers.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Said {
    message: String,
    error: String,
    hint: Option<String>,
}

impl Command {
    /// Prints the outcome; returns the exit code: 0 when it was done, 1 when not.
    pub(crate) fn run(&self, out: &mut dyn Write, err: &mut dyn Write) -> u8 {
        match self.carry_out(out) {
            Ok(()) => DONE,
            Err(why) => {
                // Nobody is left to tell it to, when that fails.
                let _ = writeln!(err, "pingora-unix-proxy: {}", table::printable(&why));
                FAILED
            }
        }
    }

    fn carry_out(&self, out: &mut dyn Write) -> Result<(), String> {
        match &self.verb {
            Verb::Status { json: true } => {
                let reply = self.get_status()?;
                print(out, String::from_utf8_lossy(&reply.body).trim_end());
            }
            Verb::Status { json: false } => print(out, table::render(&self.status()?).trim_end()),
            Verb::Reload { app, conf, env } => {
                let body = json!({"app": app, "conf": conf, "env": env.as_ref().map(object)}).to_string();
                self.operate(out, "", "/v1/reload", &body)?;
            }
            Verb::Scale { app, to } => {
                self.operate(out, app, &format!("/v1/apps/{app}/scale"), &json!({"to": to}).to_string())?;
            }
            Verb::Restart { app: Some(app), env } => self.restart(out, app, env.as_ref())?,
            Verb::Upgrade { program, conf } => {
                let body = json!({"program": program, "conf": conf}).to_string();
                self.operate(out, "", "/v1/upgrade", &body)?;
            }
            Verb::Health { check, address } => self.health(out, *check, *address)?,
            Verb::Restart { app: None, env } => {
                for app in self.status()?.apps {
                    self.restart(out, &app.name, env.as_ref())?;
                }
            }
        }
        Ok(())
    }

    fn get_status(&self) -> Result<Reply, String> {
        let request = Request { method: "GET", path: "/v1/status", body: "" };
        let reply = self.send(&request, SOON)?;
        if reply.status == 200 { Ok(reply) } else { Err(refusal(&reply)) }
    }

    fn status(&self) -> Result<Status, String> {
        let reply = self.get_status()?;
        serde_json::from_slice(&reply.body).map_err(|error| self.odd(error.to_string()))
    }

    fn restart(&self, out: &mut dyn Write, app: &str, env: Option<&Variables>) -> Result<(), String> {
        let body = env.map(|env| json!({"env": object(env)}).to_string()).unwrap_or_default();
        self.operate(out, app, &format!("/v1/apps/{app}/restart"), &body)
    }

    fn health(&self, out: &mut dyn Write, check: Check, address: Option<SocketAddr>) -> Result<(), String> {
        let request = Request { method: "GET", path: check.path(), body: "" };
        let reply = match address {
            Some(address) => client::send_tcp(address, &request, self.timeout.unwrap_or(SHORT)),
            None => client::send(&self.socket, &request, self.timeout.unwrap_or(SHORT)),
        };
        let reply = reply.map_err(|failure| failure.to_string())?;
        let text = String::from_utf8_lossy(&reply.body);
        let text = text.trim_end();
        match reply.status {
            200 => print(out, text),
            503 => return Err(text.to_owned()),
            status => return Err(format!("it does not answer as the proxy does: status {status} of {}", check.path())),
        }
        Ok(())
    }

    fn operate(&self, out: &mut dyn Write, app: &str, path: &str, body: &str) -> Result<(), String> {
        let about = if app.is_empty() { String::new() } else { format!("{app}: ") };
        let reply = self.send(&Request { method: "POST", path, body }, LONG)?;
        if reply.status != 200 {
            return Err(format!("{about}{}", refusal(&reply)));
        }
        let said: Said = serde_json::from_slice(&reply.body).map_err(|error| self.odd(error.to_string()))?;
        print(out, &format!("{about}{}", said.message));
        Ok(())
    }

    fn send(&self, request: &Request<'_>, usual: Duration) -> Result<Reply, String> {
        client::send(&self.socket, request, self.timeout.unwrap_or(usual)).map_err(|failure| failure.to_string())
    }

    fn odd(&self, what: String) -> String {
        Failure::Odd { socket: self.socket.clone(), what }.to_string()
    }
}

fn object(variables: &Variables) -> serde_json::Map<String, serde_json::Value> {
    variables.iter().map(|(name, value)| (name.clone(), value.clone().into())).collect()
}

fn print(out: &mut dyn Write, text: &str) {
    // As with a closed pipe of `status | head`: what is not read need not be written.
    let _ = writeln!(out, "{}", table::printable(text));
}

fn refusal(reply: &Reply) -> String {
    match serde_json::from_slice::<Said>(&reply.body) {
        Ok(Said { error, hint: Some(hint), .. }) if !error.is_empty() => format!("{error}; {hint}"),
        Ok(Said { error, .. }) if !error.is_empty() => error,
        _ => format!("the proxy answered with status {}", reply.status),
    }
}
