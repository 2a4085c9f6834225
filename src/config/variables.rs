//! `env` and `env_file`: the variables of an app's workers.

use super::error::shown;
use super::fields::{Decoder, Fields};
use super::yaml::Value;
use crate::process::is_ours;
use std::path::PathBuf;

/// Most files of variables of an app.
const MOST_FILES: usize = 16;

pub(super) fn env(d: &mut Decoder<'_>, fields: &Fields<'_>) -> Vec<(String, String)> {
    let Some(field) = fields.filled("env") else { return Vec::new() };
    let Some(entries) = d.named(&field) else {
        d.wrong(&field, "a map of names and values", "write env: {NAME: value}");
        return Vec::new();
    };
    let mut env = Vec::new();
    for (entry, field) in entries {
        let name = &entry.key;
        if name.is_empty() || name.contains(['=', '\0']) {
            let message = format!("{} cannot be the name of a variable", shown(name));
            d.found.error(field.key_at, message, "a name is not empty and has no =");
        } else if is_ours(name) {
            d.found.error(field.key_at, format!("{} is set by the proxy", field.path), "remove it");
        } else if field.node.value == Value::Null {
            d.wrong(&field, "text", "write \"\" for an empty value");
        } else if let Some(value) = d.word(&field) {
            env.push((name.clone(), value));
        }
    }
    env
}

/// One file or several. What they say is read when workers are started; here it is seen that it can be.
pub(super) fn env_file(d: &mut Decoder<'_>, fields: &Fields<'_>) -> Vec<PathBuf> {
    let Some(field) = fields.filled("env_file") else { return Vec::new() };
    let items = match &field.node.value {
        Value::Map(_) => {
            d.wrong(&field, "a file, or a list of files", "write env_file: .env");
            return Vec::new();
        }
        _ => field.items().unwrap_or_else(|| vec![field.clone()]),
    };
    if items.len() > MOST_FILES {
        let message = format!("{} has {} files, and at most {MOST_FILES} are read", field.path, items.len());
        d.found.error(field.at(), message, "");
    }
    let mut files = Vec::new();
    for item in items.iter().take(MOST_FILES) {
        let Some(file) = d.file(item) else { continue };
        match d.machine.variables(&file) {
            Ok(()) => files.push(file),
            Err(why) => d.found.error(item.at(), format!("{}: {why}", item.path), ""),
        }
    }
    files
}
