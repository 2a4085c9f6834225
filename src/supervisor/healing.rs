//! The runtime directory, looked at each second: what is missing is made again, and somebody is told.

use super::alarms::{Kind, Raised};
use super::apps::Apps;
use super::control_listener::ControlListener;
use super::snapshot::SnapshotWriter;
use crate::process::Error;
use std::time::{Duration, Instant};

/// How long the alarm lasts after the last repair: so that whoever measures now and then sees it.
const CALM: Duration = Duration::from_secs(60);

/// Whether and when something was missing.
pub(super) struct Healing {
    /// When the alarm was raised last, if that may be active.
    raised: Option<Instant>,
    /// Why something cannot be made again.
    refused: Option<String>,
}

impl Healing {
    /// The proxy before may have raised it.
    pub(super) fn new() -> Healing {
        Healing { raised: Some(Instant::now()), refused: None }
    }
}

impl Healing {
    /// Does not wait.
    pub(super) fn heal(&mut self, apps: &mut Apps, control: &mut ControlListener, writer: Option<&mut SnapshotWriter>) {
        match make_again(apps, control, writer) {
            Ok(made) if made.is_empty() => {
                self.refused = None;
                if self.raised.take_if(|raised| raised.elapsed() >= CALM).is_some() {
                    apps.alarms.clear(Kind::RuntimeDirectory, &"".into(), None);
                }
            }
            Ok(made) => {
                self.refused = None;
                let path = apps.dir.path().display();
                let detail = format!(
                    "of the runtime directory {path} somebody has removed {}; made again, and workers that run are still \
                     reached",
                    made.join(", ")
                );
                self.raise(apps, detail);
            }
            Err(why) => {
                let why = why.to_string();
                self.raised = Some(Instant::now());
                if self.refused.as_ref() != Some(&why) {
                    let path = apps.dir.path().display();
                    let detail = format!(
                        "the runtime directory {path} is not whole and cannot be made so, no worker can be started: {why}"
                    );
                    self.refused = Some(why);
                    self.raise(apps, detail);
                }
            }
        }
    }

    fn raise(&mut self, apps: &Apps, detail: String) {
        self.raised = Some(Instant::now());
        apps.alarms.raise(Raised { kind: Kind::RuntimeDirectory, app: "".into(), slot: None, detail });
    }
}

/// Tells what was missing.
fn make_again(
    apps: &mut Apps,
    control: &mut ControlListener,
    writer: Option<&mut SnapshotWriter>,
) -> Result<Vec<String>, Error> {
    let mut made = apps.dir.heal()?;
    if control.is_lost() {
        control.open_again(&apps.dir, &apps.registry)?;
        made.push("control.sock".to_owned());
    }
    let opened = apps.reopen_listeners()?;
    made.extend(opened.iter().map(|app| format!("what external workers of {app} need")));
    if !apps.dir.state_file().exists() && writer.is_some_and(SnapshotWriter::write_again) {
        made.push("state.json".to_owned());
    }
    Ok(made)
}
