//! How often a request has come through this proxy. Each time, the proxy adds its name to the field `CDN-Loop`
//! (RFC 8586), which a program that passes a request on passes on, too. So a loop ends, of which an app or another
//! proxy is a part that asks this one again with the fields that it was asked with. Whoever writes the name into a
//! request of his own is refused himself, and nobody else.

/// The field, as HTTP/2 and `http` have it.
pub(in crate::gateway) const FIELD: &str = "cdn-loop";
/// Passes after which a request is refused. Apps may ask themselves through the proxy a few levels deep.
const MAX_PASSES: usize = 10;

/// The name of this proxy, the same after a restart and in a process that takes over.
#[derive(Clone, Debug)]
pub(crate) struct LoopName(Box<str>);

impl LoopName {
    /// Of what tells this proxy from all others, without telling it to others.
    pub(crate) fn of(parts: &[&[u8]]) -> LoopName {
        // FNV-1a. A proxy of the same name in the way would only be counted, too.
        let bytes = parts.iter().flat_map(|part| part.iter().copied().chain([0]));
        let hash = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, b| (hash ^ u64::from(b)).wrapping_mul(0x100_0000_01b3));
        LoopName(format!("pingora-unix-proxy-{:08x}", hash >> 32).into())
    }

    pub(in crate::gateway) fn as_str(&self) -> &str {
        &self.0
    }

    /// How often a value of the field holds the name. Other names, and parameters, mean nothing here.
    pub(in crate::gateway) fn count(&self, value: &[u8]) -> usize {
        let name = |member: &[u8]| {
            let end = memchr::memchr(b';', member).unwrap_or(member.len());
            member[..end].trim_ascii().eq_ignore_ascii_case(self.0.as_bytes())
        };
        value.split(|&b| b == b',').filter(|member| name(member)).count()
    }
}

/// Whether a request that has come through so often is refused.
pub(in crate::gateway) fn is_loop(passes: usize) -> bool {
    passes >= MAX_PASSES
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_own_name_counts_wherever_it_stands() {
        let name = LoopName::of(&[b"host", b"/run/proxy"]);
        let own = name.as_str().to_owned();
        assert_eq!(own, LoopName::of(&[b"host", b"/run/proxy"]).as_str());
        assert_ne!(own, LoopName::of(&[b"host/run", b"/proxy"]).as_str());
        for (value, count) in [
            (String::new(), 0),
            ("cdn.example".into(), 0),
            (own.clone(), 1),
            (format!("cdn.example; a=b, {own}"), 1),
            (format!("{own};v=1,{}", own.to_uppercase()), 2),
            (format!("{own}x, x{own}, a={own}"), 0),
            (vec![own; 10].join(", "), 10),
        ] {
            assert_eq!(name.count(value.as_bytes()), count, "{value}");
        }
        assert!(!is_loop(9) && is_loop(10));
    }
}
