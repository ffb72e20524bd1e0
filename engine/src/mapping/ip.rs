//! IP addresses, both versions: their texts, and the terms that they are in the index.
//!
//! An address is 128 bits, one of version 4 as RFC 4291 (section 2.5.5.2) maps it, and its term is
//! 32 hexadecimal digits: terms are in the addresses' order, so that a network is an interval of terms.

use std::net::{IpAddr, Ipv6Addr};

/// The bits that all mapped addresses of version 4 begin with.
const MAPPED_BITS: u8 = 96;
const ALL_BITS: u8 = 128;

/// Reads an address.
pub(crate) fn read(text: &str) -> Option<Ipv6Addr> {
    Some(match text.parse().ok()? {
        IpAddr::V4(address) => address.to_ipv6_mapped(),
        IpAddr::V6(address) => address,
    })
}

/// Reads a network, an address and how many of its bits count: its first address and its last.
pub(crate) fn read_network(text: &str) -> Option<(Ipv6Addr, Ipv6Addr)> {
    let (address, length) = text.split_once('/')?;
    let length: u8 = length.parse().ok()?;
    let (address, length) = match address.parse().ok()? {
        IpAddr::V4(address) => (address.to_ipv6_mapped(), MAPPED_BITS.checked_add(length)?),
        IpAddr::V6(address) => (address, length),
    };
    let rest = u128::MAX.checked_shr(length.into()).unwrap_or(0);
    let bits = u128::from(address);
    (length <= ALL_BITS).then(|| ((bits & !rest).into(), (bits | rest).into()))
}

/// An address as people write it.
pub fn print(address: Ipv6Addr) -> String {
    match address.to_ipv4_mapped() {
        Some(address) => address.to_string(),
        None => address.to_string(),
    }
}

/// An address's term.
pub(crate) fn term(address: Ipv6Addr) -> String {
    format!("{:032x}", u128::from(address))
}

/// The address of a term; `None` where it is none.
pub(crate) fn of_term(term: &str) -> Option<Ipv6Addr> {
    u128::from_str_radix(term, 16).ok().map(Ipv6Addr::from)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn addresses_are_read_and_printed() {
        let check = |text: &str, expected: Option<&str>| {
            assert_eq!(read(text).map(print).as_deref(), expected, "{text}");
        };
        check("192.168.1.7", Some("192.168.1.7"));
        check("::ffff:192.168.1.7", Some("192.168.1.7"));
        check("2001:DB8:0:0:0:0:0:1", Some("2001:db8::1"));
        check("::", Some("::"));
        check("::1", Some("::1"));
        check("fe80::1%eth0", None);
        check("192.168.1", None);
        check("192.168.001.1", None);
        check("256.0.0.1", None);
        check("10.0.0.0/8", None);
        check("", None);
    }

    #[test]
    fn networks_are_intervals() {
        let check = |text: &str, expected: Option<(&str, &str)>| {
            let found = read_network(text).map(|(first, last)| (print(first), print(last)));
            let expected = expected.map(|(first, last)| (first.to_owned(), last.to_owned()));
            assert_eq!(found, expected, "{text}");
        };
        check("10.1.2.3/8", Some(("10.0.0.0", "10.255.255.255")));
        check("10.1.2.3/32", Some(("10.1.2.3", "10.1.2.3")));
        check("0.0.0.0/0", Some(("0.0.0.0", "255.255.255.255")));
        check("2001:db8::/32", Some(("2001:db8::", "2001:db8:ffff:ffff:ffff:ffff:ffff:ffff")));
        check("::/0", Some(("::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff")));
        check("::1/128", Some(("::1", "::1")));
        check("10.0.0.0/33", None);
        check("::/129", None);
        check("10.0.0.0/255", None);
        check("10.0.0.0/-1", None);
        check("10.0.0.0/", None);
        check("10.0.0.0", None);
    }

    proptest! {
        #[test]
        fn terms_are_in_the_order_of_addresses(left: u128, right: u128, shift in 0..128_u32) {
            let (left, right) = (Ipv6Addr::from(left >> shift), Ipv6Addr::from(right >> shift));
            prop_assert_eq!(term(left).cmp(&term(right)), left.cmp(&right));
            prop_assert_eq!(of_term(&term(left)), Some(left));
            prop_assert_eq!(read(&print(left)), Some(left));
        }
    }
}
