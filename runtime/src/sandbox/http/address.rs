//! Which addresses are reached by a name only if the operator says so, and which never.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// What kind of place an address is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Anybody's, on the internet.
    Public,
    /// This machine, or a network of the operator's: loopback, RFC 1918, shared (CGNAT), unique local.
    Private,
    /// Nothing that a name should lead to: link-local (where clouds serve credentials), multicast, unspecified, reserved,
    /// and IPv6 forms that hide an IPv4 address.
    Special,
}

/// Azure serves its machines' configuration at this one, which looks public.
const AZURE_WIRE_SERVER: Ipv4Addr = Ipv4Addr::new(168, 63, 129, 16);

/// An address in the form in which it is connected to: IPv4 within IPv6 is IPv4.
pub(super) fn canonical(address: IpAddr) -> IpAddr {
    address.to_canonical()
}

/// The kind of a canonical address. By the registries of special addresses of IANA, RFC 6890.
pub(super) fn kind(address: IpAddr) -> Kind {
    match canonical(address) {
        IpAddr::V4(address) => kind_v4(address),
        IpAddr::V6(address) => kind_v6(address),
    }
}

fn kind_v4(address: Ipv4Addr) -> Kind {
    let [a, b, c, _] = address.octets();
    match (a, b, c) {
        (10 | 127, ..) | (192, 168, _) | (172, 16..=31, _) | (100, 64..=127, _) => Kind::Private,
        // "This network", link-local, protocol assignments, relays, documentation, benchmarks, multicast, reserved.
        (0 | 224..=255, ..)
        | (169, 254, _)
        | (192, 0, 0 | 2)
        | (192, 88, 99)
        | (198, 18 | 19, _)
        | (198, 51, 100)
        | (203, 0, 113) => Kind::Special,
        _ if address == AZURE_WIRE_SERVER => Kind::Special,
        _ => Kind::Public,
    }
}

fn kind_v6(address: Ipv6Addr) -> Kind {
    let parts = address.segments();
    match parts {
        [0, 0, 0, 0, 0, 0, 0, 1] | [0xfc00..=0xfdff, ..] => Kind::Private,
        // NAT64: what is meant is the IPv4 address in it.
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] => {
            let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
            kind_v4(Ipv4Addr::new(a, b, c, d))
        }
        // Protocol assignments with Teredo, documentation, 6to4.
        [0x2001, 0..=0x1ff, ..] | [0x2001, 0xdb8, ..] | [0x2002, ..] | [0x3fff, 0..=0xfff, ..] => Kind::Special,
        // What was given out so far. All else is reserved, link-local, multicast or a form of IPv4.
        [0x2000..=0x3fff, ..] => Kind::Public,
        _ => Kind::Special,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_special_address_is_known() {
        for (expected, addresses) in [
            (
                Kind::Public,
                &["1.1.1.1", "8.8.8.8", "172.15.0.1", "172.32.0.1", "100.63.0.1", "100.128.0.1", "2606:4700::1"][..],
            ),
            (Kind::Public, &["64:ff9b::101:101", "::ffff:1.1.1.1", "192.0.1.1", "2001:200::1"]),
            (Kind::Private, &["127.0.0.1", "127.255.0.1", "10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.1.1"]),
            (Kind::Private, &["100.64.0.1", "100.127.255.255", "::1", "fc00::1", "fdff::1", "::ffff:10.0.0.1"]),
            (Kind::Private, &["::ffff:127.0.0.1", "64:ff9b::a00:1", "64:ff9b::7f00:1"]),
            (Kind::Special, &["0.0.0.0", "0.1.2.3", "169.254.169.254", "192.0.0.1", "192.0.2.1", "198.51.100.1"]),
            (Kind::Special, &["203.0.113.1", "198.18.0.1", "198.19.255.255", "192.88.99.1", "224.0.0.1", "239.1.1.1"]),
            (Kind::Special, &["240.0.0.1", "255.255.255.255", "168.63.129.16", "::", "fe80::1", "febf::1", "fec0::1"]),
            (
                Kind::Special,
                &["ff02::1", "2001:db8::1", "3fff::1", "2002:7f00:1::", "2001::1", "2001:1ff::1", "100::1"],
            ),
            (
                Kind::Special,
                &["::7f00:1", "::ffff:169.254.169.254", "64:ff9b::a9fe:a9fe", "64:ff9b:1::1", "5f00::1", "4000::1"],
            ),
        ] {
            for address in addresses {
                assert_eq!(kind(address.parse().unwrap()), expected, "{address}");
            }
        }
        assert_eq!(canonical("::ffff:10.0.0.1".parse().unwrap()), "10.0.0.1".parse::<IpAddr>().unwrap());
    }
}
