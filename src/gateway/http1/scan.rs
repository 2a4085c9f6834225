//! Byte classes of HTTP/1, and searches that take eight bytes at a step.

const ONES: u64 = u64::MAX / 255;
const HIGHS: u64 = ONES * 0x80;

/// The high bit of each byte below `n` (at most 0x80). Bytes above the lowest hit may be marked by its borrow:
/// only the lowest mark counts.
const fn below(word: u64, n: u8) -> u64 {
    word.wrapping_sub(ONES * n as u64) & !word & HIGHS
}

/// The same for bytes equal to `b`.
const fn equal(word: u64, b: u8) -> u64 {
    below(word ^ (ONES * b as u64), 1)
}

/// Index of the first byte at or after `from` that `word_hit` marks, the rest of fewer than eight bytes by `byte_hit`.
#[inline(always)]
fn find(bytes: &[u8], from: usize, word_hit: impl Fn(u64) -> u64, byte_hit: impl Fn(u8) -> bool) -> Option<usize> {
    let mut at = from;
    let mut rest = bytes.get(from..)?;
    while let Some((chunk, after)) = rest.split_first_chunk::<8>() {
        let hits = word_hit(u64::from_le_bytes(*chunk));
        if hits != 0 {
            return Some(at + hits.trailing_zeros() as usize / 8);
        }
        at += 8;
        rest = after;
    }
    rest.iter().position(|&b| byte_hit(b)).map(|n| at + n)
}

/// First byte that is not printable ASCII, or is `#`: it ends a request target, rightly or not.
pub(super) fn target_end(bytes: &[u8], from: usize) -> Option<usize> {
    let word = |w: u64| below(w, 0x21) | equal(w, 0x7f) | equal(w, b'#') | (w & HIGHS);
    find(bytes, from, word, |b| !is_target(b))
}

/// First control character but HTAB: it ends a field value, rightly or not.
pub(super) fn control(bytes: &[u8], from: usize) -> Option<usize> {
    let mut from = from;
    loop {
        let at = find(bytes, from, |w| below(w, 0x20) | equal(w, 0x7f), |b| b < 0x20 || b == 0x7f)?;
        if bytes[at] != b'\t' {
            return Some(at);
        }
        from = at + 1;
    }
}

/// First byte that no token may hold (RFC 9110, section 5.6.2).
pub(super) fn token_end(bytes: &[u8], from: usize) -> Option<usize> {
    bytes.get(from..)?.iter().position(|&b| !is_token(b)).map(|n| from + n)
}

const fn is_target(b: u8) -> bool {
    b > 0x20 && b < 0x7f && b != b'#'
}

pub(super) fn is_token(b: u8) -> bool {
    CLASS[b as usize] & TOKEN != 0
}

/// May stand in the host part of an authority: `reg-name` of RFC 3986, section 3.2.2.
pub(super) fn is_host(b: u8) -> bool {
    CLASS[b as usize] & HOST != 0
}

const TOKEN: u8 = 1;
const HOST: u8 = 2;
static CLASS: [u8; 256] = classes();

const fn classes() -> [u8; 256] {
    let mut table = [0; 256];
    let mut b = 0u8;
    loop {
        if b.is_ascii_alphanumeric() {
            table[b as usize] = TOKEN | HOST;
        }
        if b == 127 {
            break;
        }
        b += 1;
    }
    table = add(table, b"!#$%&'*+-.^_`|~", TOKEN);
    add(table, b"-._~%!$&'()*+,;=", HOST)
}

const fn add(mut table: [u8; 256], members: &[u8], class: u8) -> [u8; 256] {
    let mut i = 0;
    while i < members.len() {
        table[members[i] as usize] |= class;
        i += 1;
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every byte at every place of a run must be found exactly as a plain loop finds it.
    #[test]
    fn searches_agree_with_plain_loops() {
        for len in 0..20 {
            for place in 0..len {
                for b in 0..=255u8 {
                    for filler in [b'a', b' ' + 1, 0x7e] {
                        let mut bytes = vec![filler; len];
                        bytes[place] = b;
                        let plain = |hit: fn(u8) -> bool| bytes.iter().position(|&b| hit(b));
                        assert_eq!(target_end(&bytes, 0), plain(|b| !is_target(b)), "{bytes:?}");
                        assert_eq!(control(&bytes, 0), plain(|b| b != 9 && (b < 0x20 || b == 0x7f)), "{bytes:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn searches_begin_where_told() {
        assert_eq!(control(b"\r12345678901\r", 1), Some(12));
        assert_eq!(control(b"\t\t\t\t\t\t\t\t\t\r", 0), Some(9));
        assert_eq!(control(b"\r", 2), None);
        assert_eq!(token_end(b": a:", 2), Some(3));
    }

    #[test]
    fn token_class_is_that_of_the_rfc() {
        for b in 0..=255u8 {
            let separator = b"\"(),/:;<=>?@[\\]{}".contains(&b);
            assert_eq!(is_token(b), b.is_ascii_graphic() && !separator, "{b}");
        }
    }
}
