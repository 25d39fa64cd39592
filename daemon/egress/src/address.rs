//! Which addresses a sandbox may reach: public ones, and nothing that leads back into this host, its network, or its cloud.
//!
//! What is not listed as public is refused, so that a range that somebody invents tomorrow is not open today.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use nix::ifaddrs::getifaddrs;

/// Ranges of IPv4 that are not the public Internet, each with what it is.
const NOT_PUBLIC_V4: &[(Ipv4Net, &str)] = &[
    (
        v4([0, 0, 0, 0], 8),
        "this network; Linux connects 0.0.0.0 to itself",
    ),
    (v4([10, 0, 0, 0], 8), "private"),
    (
        v4([100, 64, 0, 0], 10),
        "shared by customers of a carrier, and metadata of some clouds",
    ),
    (v4([127, 0, 0, 0], 8), "this host"),
    (
        v4([169, 254, 0, 0], 16),
        "link-local, and metadata of most clouds",
    ),
    (v4([172, 16, 0, 0], 12), "private"),
    (
        v4([192, 0, 0, 0], 24),
        "assigned to protocols, and metadata of some clouds",
    ),
    (v4([192, 0, 2, 0], 24), "for documentation"),
    (v4([192, 88, 99, 0], 24), "relays to 6to4"),
    (v4([192, 168, 0, 0], 16), "private"),
    (v4([198, 18, 0, 0], 15), "for benchmarks"),
    (v4([198, 51, 100, 0], 24), "for documentation"),
    (v4([203, 0, 113, 0], 24), "for documentation"),
    (v4([224, 0, 0, 0], 4), "multicast"),
    (v4([240, 0, 0, 0], 4), "reserved, and broadcast"),
];

/// The only range of IPv6 from which public addresses are given out.
const PUBLIC_V6: Ipv6Net = v6([0x2000, 0, 0, 0, 0, 0, 0, 0], 3);

/// What within [`PUBLIC_V6`] is not public all the same.
const NOT_PUBLIC_V6: &[(Ipv6Net, &str)] = &[
    (
        v6([0x2001, 0, 0, 0, 0, 0, 0, 0], 23),
        "assigned to protocols; Teredo holds an IPv4 address",
    ),
    (
        v6([0x2001, 0xdb8, 0, 0, 0, 0, 0, 0], 32),
        "for documentation",
    ),
    (
        v6([0x2002, 0, 0, 0, 0, 0, 0, 0], 16),
        "6to4 holds an IPv4 address",
    ),
    (v6([0x3fff, 0, 0, 0, 0, 0, 0, 0], 20), "for documentation"),
];

const fn v4(octets: [u8; 4], prefix: u8) -> Ipv4Net {
    let [a, b, c, d] = octets;
    Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), prefix)
}

const fn v6(words: [u16; 8], prefix: u8) -> Ipv6Net {
    let [a, b, c, d, e, f, g, h] = words;
    Ipv6Net::new_assert(Ipv6Addr::new(a, b, c, d, e, f, g, h), prefix)
}

/// The addresses of this host now. What listens on a public one of them often relies on a firewall that a connection from within
/// does not pass.
///
/// # Errors
/// When the kernel does not tell.
pub fn own() -> io::Result<Vec<IpAddr>> {
    let address = |of: nix::sys::socket::SockaddrStorage| {
        let v4 = of.as_sockaddr_in().map(|v4| IpAddr::V4(v4.ip()));
        v4.or_else(|| of.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip())))
    };
    let interfaces = getifaddrs()?;
    Ok(interfaces
        .filter_map(|interface| interface.address.and_then(address))
        .collect())
}

/// Whether any of these ranges has it.
#[must_use]
pub fn is_in(address: IpAddr, ranges: &[IpNet]) -> bool {
    ranges.iter().any(|range| range.contains(&address))
}

/// What keeps an address from being reached; nothing for a public one that is not this host's `own`. `allowed` are ranges that the
/// administrator opened.
#[must_use]
pub fn objection(address: IpAddr, allowed: &[IpNet], own: &[IpAddr]) -> Option<&'static str> {
    // The same address in two notations would be judged twice and differently; nobody needs this one.
    if let IpAddr::V6(v6) = address
        && v6.to_ipv4_mapped().is_some()
    {
        return Some("an IPv4 address in IPv6 notation");
    }
    if is_in(address, allowed) {
        return None;
    }
    if own.contains(&address) {
        return Some("an address of this host");
    }
    match address {
        IpAddr::V4(v4) => NOT_PUBLIC_V4
            .iter()
            .find(|(net, _)| net.contains(&v4))
            .map(|(_, what)| *what),
        IpAddr::V6(v6) if !PUBLIC_V6.contains(&v6) => Some(
            "not of the public range of IPv6: this host, link-local, private, multicast, or a translation of IPv4",
        ),
        IpAddr::V6(v6) => NOT_PUBLIC_V6
            .iter()
            .find(|(net, _)| net.contains(&v6))
            .map(|(_, what)| *what),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_public_addresses_are_reached() {
        let check = |text: &str, open: bool| {
            let address: IpAddr = text.parse().unwrap();
            assert_eq!(objection(address, &[], &[]).is_none(), open, "{text}");
        };
        for public in [
            "1.1.1.1",
            "93.184.216.34",
            "172.32.0.1",
            "100.128.0.1",
            "2606:4700::1",
            "2a00:1450::1",
        ] {
            check(public, true);
        }
        for refused in [
            "0.0.0.0",
            "0.1.2.3",
            "10.0.0.1",
            "100.64.0.1",
            "100.100.100.200",
            "127.0.0.1",
            "127.9.9.9",
            "169.254.169.254",
            "169.254.170.2",
            "172.16.0.1",
            "172.31.255.255",
            "192.0.0.192",
            "192.0.2.1",
            "192.88.99.1",
            "192.168.1.1",
            "198.18.0.1",
            "198.51.100.1",
            "203.0.113.1",
            "224.0.0.1",
            "239.255.255.250",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::ffff:1.1.1.1",
            "::ffff:127.0.0.1",
            "::7f00:1",
            "64:ff9b::1.1.1.1",
            "64:ff9b::a9fe:a9fe",
            "64:ff9b:1::1",
            "100::1",
            "2001::1",
            "2001:10::1",
            "2001:20::1",
            "2001:db8::1",
            "2002:7f00:1::1",
            "2002:a9fe:a9fe::",
            "3fff::1",
            "5f00::1",
            "fc00::1",
            "fd00:ec2::254",
            "fe80::1",
            "fec0::1",
            "ff02::1",
        ] {
            check(refused, false);
        }
    }

    #[test]
    fn what_the_administrator_opened_is_open_in_its_own_notation_only() {
        let open: Vec<IpNet> = vec![
            "127.0.0.1/32".parse().unwrap(),
            "10.1.0.0/16".parse().unwrap(),
        ];
        let check = |text: &str, ok: bool| {
            assert_eq!(
                objection(text.parse().unwrap(), &open, &[]).is_none(),
                ok,
                "{text}"
            );
        };
        check("127.0.0.1", true);
        check("10.1.2.3", true);
        check("127.0.0.2", false);
        check("10.2.0.1", false);
        check("::ffff:127.0.0.1", false);
    }

    #[test]
    fn an_address_of_this_host_is_refused_unless_it_was_opened() {
        let own: Vec<IpAddr> = vec![
            "93.184.216.34".parse().unwrap(),
            "2606:4700::7".parse().unwrap(),
        ];
        for address in &own {
            assert!(objection(*address, &[], &own).is_some(), "{address}");
            assert!(
                objection(*address, &[IpNet::from(*address)], &own).is_none(),
                "{address}"
            );
        }
        assert!(objection("93.184.216.35".parse().unwrap(), &[], &own).is_none());
    }
}
