//! The other life of this program: it cleans up after a proxy that was killed and that nobody follows.

use crate::process::guard::Post;
use crate::supervisor;
use std::ffi::OsString;
use std::io::Write;
use std::process::ExitCode;

/// `None`: the command line asks for something else.
pub(super) fn main(args: &[OsString]) -> Option<ExitCode> {
    let post = Post::told(args)?;
    let (said, code) = match post.keep() {
        Ok(None) => return Some(ExitCode::SUCCESS),
        Ok(Some(dir)) => {
            post.clear_beyond();
            (supervisor::terminate_orphans(dir), ExitCode::SUCCESS)
        }
        Err(why) => (format!("nothing is cleaned up: {why}"), ExitCode::FAILURE),
    };
    // Whoever read it may be gone, too.
    let _ = writeln!(
        std::io::stderr(),
        "pingora-unix-proxy: process {} was killed, and no other took over: {said}",
        post.of()
    );
    Some(code)
}
