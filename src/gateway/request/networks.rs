//! Sets of IP networks: whose word is taken for the client's address.

use ipnet::IpNet;
use std::net::IpAddr;

/// Networks, for a look-up by bisection. IPv4 is a part of IPv6 here (`::ffff:0:0/96`), so an IPv4 client of an IPv6 listener
/// is found by its IPv4 network.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Networks(Box<[(u128, u128)]>);

impl Networks {
    pub(crate) fn of(networks: impl IntoIterator<Item = IpNet>) -> Networks {
        let mut ranges: Vec<(u128, u128)> =
            networks.into_iter().map(|net| (number(net.network()), number(net.broadcast()))).collect();
        ranges.sort_unstable();
        let mut merged: Vec<(u128, u128)> = Vec::with_capacity(ranges.len());
        for (first, last) in ranges {
            match merged.last_mut() {
                Some(before) if first <= before.1 => before.1 = before.1.max(last),
                _ => merged.push((first, last)),
            }
        }
        Networks(merged.into())
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn contains(&self, ip: IpAddr) -> bool {
        let ip = number(ip);
        let after = self.0.partition_point(|(first, _)| *first <= ip);
        after.checked_sub(1).and_then(|at| self.0.get(at)).is_some_and(|(_, last)| ip <= *last)
    }
}

fn number(ip: IpAddr) -> u128 {
    match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped().into(),
        IpAddr::V6(ip) => ip.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_in_one_of_the_networks_or_in_none() {
        let nets = ["10.0.0.0/8", "10.1.0.0/16", "192.168.1.1/32", "2001:db8::/32", "172.16.0.0/12"];
        let networks = Networks::of(nets.iter().map(|net| net.parse().unwrap()));
        let contains = |ip: &str| networks.contains(ip.parse().unwrap());
        for ip in
            ["10.0.0.0", "10.255.255.255", "10.1.2.3", "192.168.1.1", "::ffff:10.2.3.4", "2001:db8:ff::1", "172.31.0.1"]
        {
            assert!(contains(ip), "{ip}");
        }
        for ip in
            ["9.255.255.255", "11.0.0.0", "192.168.1.2", "192.168.1.0", "::10.0.0.1", "2001:db9::", "172.32.0.0", "::1"]
        {
            assert!(!contains(ip), "{ip}");
        }
        assert!(!Networks::default().contains("127.0.0.1".parse().unwrap()));
        assert!(Networks::of(["::/0".parse().unwrap()]).contains("127.0.0.1".parse().unwrap()));
    }
}
