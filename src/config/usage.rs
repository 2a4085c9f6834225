//! Mistakes on the command line.

/// Reason to end at once: help, version, or a mistake on the command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stop {
    /// For standard output when `code` is 0, else for standard error. Ends in a newline.
    pub text: String,
    /// 0 for help and version, 2 for a mistake.
    pub code: u8,
}

pub(super) fn mistake(message: &str, hint: &str) -> Stop {
    Stop { text: format!("command line: {message}; {hint}\n"), code: 2 }
}
