//! Parse, run, exit code.

#![forbid(unsafe_code)]

fn main() -> std::process::ExitCode {
    pingora_unix_proxy::server::main(std::env::args_os())
}
