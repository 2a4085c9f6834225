//! Sees in a worker's last words that it wanted a TCP port which another process has.

/// What Node.js, Python, Ruby, Go and libc say of it.
const WORDS: [&str; 2] = ["EADDRINUSE", "address already in use"];

/// What to do, when the worker was to take the place of another.
pub(crate) fn advice<T: AsRef<str>>(last_words: &[T]) -> Option<&'static str> {
    let says = |line: &T| {
        let line = line.as_ref().to_ascii_lowercase();
        WORDS.iter().any(|word| line.contains(&word.to_ascii_lowercase()))
    };
    last_words.iter().any(says).then_some(
        "a port that it wants is taken, by the worker that it was to replace, if they cannot run side by side: \
         surge: 0 in the app stops that one first",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_port_that_is_taken_is_told() {
        for line in [
            "Error: listen EADDRINUSE: address already in use :::7000",
            "OSError: [Errno 98] Address already in use",
            "listen tcp :7000: bind: address already in use",
        ] {
            assert!(advice(&["about to start", line]).is_some(), "{line}");
        }
        assert_eq!(advice(&["Error: connect ECONNREFUSED 127.0.0.1:5432"]), None);
        assert_eq!(advice::<&str>(&[]), None);
    }
}
