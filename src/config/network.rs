//! Addresses and networks of proxies.

use std::net::IpAddr;

/// Reads `address` or `address/bits`.
pub(super) fn read(text: &str) -> Option<(IpAddr, u8)> {
    let (address, bits) = match text.split_once('/') {
        None => (text, None),
        Some((address, bits)) => (address, Some(bits.parse::<u8>().ok()?)),
    };
    let address: IpAddr = address.parse().ok()?;
    let most = if address.is_ipv4() { 32 } else { 128 };
    let bits = bits.unwrap_or(most);
    (bits <= most).then_some((address, bits))
}

pub(super) fn contains((network, bits): (IpAddr, u8), address: IpAddr) -> bool {
    fn wide(address: IpAddr) -> u128 {
        match address {
            IpAddr::V4(v4) => u128::from(u32::from(v4)) << 96,
            IpAddr::V6(v6) => u128::from(v6),
        }
    }
    let mask = u128::MAX.checked_shl(128 - u32::from(bits)).unwrap_or(0);
    network.is_ipv4() == address.is_ipv4() && wide(network) & mask == wide(address) & mask
}
