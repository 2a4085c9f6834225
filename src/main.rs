//! Parse, run, exit code.

fn main() -> std::process::ExitCode {
    pingora_unix_proxy::server::main(std::env::args_os())
}
