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

/// Index of the first byte at or after `from` for which `byte_hit` holds. `word_hit` marks the same bytes in a word.
///
/// Sixteen bytes at a step with no more than a yes or no, which compilers turn into a few vector instructions; then the
/// place by words.
#[inline(always)]
fn find(bytes: &[u8], from: usize, word_hit: impl Fn(u64) -> u64, byte_hit: impl Fn(u8) -> bool) -> Option<usize> {
    let mut rest = bytes.get(from..)?;
    while let Some((block, after)) = rest.split_first_chunk::<16>() {
        if block.iter().fold(false, |hit, &b| hit | byte_hit(b)) {
            break;
        }
        rest = after;
    }
    while let Some((word, after)) = rest.split_first_chunk::<8>() {
        let hits = word_hit(u64::from_le_bytes(*word));
        if hits != 0 {
            return Some(bytes.len() - rest.len() + hits.trailing_zeros() as usize / 8);
        }
        rest = after;
    }
    rest.iter().position(|&b| byte_hit(b)).map(|n| bytes.len() - rest.len() + n)
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
        let at = find(bytes, from, |w| below(w, 0x20) | equal(w, 0x7f), |b| (b < 0x20) | (b == 0x7f))?;
        if bytes[at] != b'\t' {
            return Some(at);
        }
        from = at + 1;
    }
}

/// First byte that no token may hold (RFC 9110, section 5.6.2).
pub(super) fn token_end(bytes: &[u8], from: usize) -> Option<usize> {
    let mut at = from;
    while let Some(word) = bytes.get(at..)?.first_chunk::<8>() {
        let rare = not_letter_digit_dash(u64::from_le_bytes(*word));
        if rare == 0 {
            at += 8;
            continue;
        }
        at += rare.trailing_zeros() as usize / 8;
        if !is_token(bytes[at]) {
            return Some(at);
        }
        at += 1;
    }
    bytes.get(at..)?.iter().position(|&b| !is_token(b)).map(|n| at + n)
}

/// The high bit of each byte that is none of `A-Z a-z 0-9 -`, of which nearly all names consist.
const fn not_letter_digit_dash(word: u64) -> u64 {
    // Adding to seven bits never carries into the next byte: every mark counts.
    let low = word & !HIGHS;
    let lower = low | (ONES * 0x20);
    let letter = at_least(lower, b'a') & !at_least(lower, b'z' + 1);
    let digit = at_least(low, b'0') & !at_least(low, b'9' + 1);
    let dash = !at_least(low ^ (ONES * b'-' as u64), 1);
    (word | !(letter | digit | dash)) & HIGHS
}

/// The high bit of each byte of at least `n`; all bytes must be below 0x80.
const fn at_least(low: u64, n: u8) -> u64 {
    low + ONES * (0x80 - n as u64)
}

const fn is_target(b: u8) -> bool {
    (b > 0x20) & (b < 0x7f) & (b != b'#')
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
        for len in 0..36 {
            for place in 0..len {
                for b in 0..=255u8 {
                    for filler in [b'a', b'!', b'~'] {
                        let mut bytes = vec![filler; len];
                        bytes[place] = b;
                        let plain = |hit: fn(u8) -> bool| bytes.iter().position(|&b| hit(b));
                        assert_eq!(target_end(&bytes, 0), plain(|b| !is_target(b)), "{bytes:?}");
                        assert_eq!(token_end(&bytes, 0), plain(|b| !is_token(b)), "{bytes:?}");
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
