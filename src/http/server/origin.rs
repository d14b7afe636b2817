//! What this server is called, as its client sees it.

use axum::http::HeaderMap;
use axum::http::header::HOST;

use super::ConnectionInfo;
use crate::config::Config;

/// The base URL of this server as the client sees it, without a slash at its end: the configured one, or where the
/// request came in.
#[must_use]
pub fn origin(config: &Config, headers: &HeaderMap, info: &ConnectionInfo) -> String {
    if let Some(url) = &config.public_url {
        return url.clone();
    }
    let scheme = seen_scheme(config, headers, info);
    format!("{scheme}://{}{}", seen_host(config, headers, info), seen_prefix(config, headers, info))
}

/// The scheme that the client used, as far as a trusted proxy tells it.
#[must_use]
pub fn seen_scheme(config: &Config, headers: &HeaderMap, info: &ConnectionInfo) -> &'static str {
    let forwarded = if config.trusts(info.peer.ip()) { last(headers, "x-forwarded-proto") } else { None };
    match forwarded {
        Some("https") => "https",
        Some("http") => "http",
        _ if info.tls => "https",
        _ => "http",
    }
}

/// The path that a proxy takes off every request before it passes it on: the configured one, or what a trusted proxy
/// says; empty without one.
#[must_use]
pub fn seen_prefix<'a>(config: &'a Config, headers: &'a HeaderMap, info: &ConnectionInfo) -> &'a str {
    if config.public_url.is_some() {
        return config.public_prefix();
    }
    let forwarded = if config.trusts(info.peer.ip()) { last(headers, "x-forwarded-prefix") } else { None };
    forwarded.map(|prefix| prefix.trim_end_matches('/')).filter(|prefix| is_prefix(prefix)).unwrap_or_default()
}

/// The host that the client asked for, which is the one it signed.
#[must_use]
pub fn seen_host(config: &Config, headers: &HeaderMap, info: &ConnectionInfo) -> String {
    let forwarded = if config.trusts(info.peer.ip()) { last(headers, "x-forwarded-host") } else { None };
    let host = headers.get(HOST).and_then(|host| host.to_str().ok());
    match forwarded.filter(|host| is_host(host)).or(host.filter(|host| is_host(host))) {
        Some(host) => host.to_owned(),
        None => info.local.to_string(),
    }
}

/// The last value of a list: what the nearest proxy, the one that is believed, has said itself.
fn last<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let value = headers.get_all(name).iter().next_back()?.to_str().ok()?;
    value.rsplit(',').next().map(str::trim)
}

/// A name, an IPv4 or a bracketed IPv6 address, and maybe a port.
fn is_host(text: &str) -> bool {
    let (name, rest) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, rest)) if address.parse::<std::net::Ipv6Addr>().is_ok() => (address, rest),
        Some(_) => return false,
        None => text.split_at(text.find(':').unwrap_or(text.len())),
    };
    let port = match rest.strip_prefix(':') {
        Some(port) => port.parse::<u16>().is_ok() && port.bytes().all(|b| b.is_ascii_digit()),
        None => rest.is_empty(),
    };
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b':');
    port && !name.is_empty() && text.len() <= 255 && name.bytes().all(plain)
}

fn is_prefix(text: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b'~');
    text.len() <= 256
        && text.strip_prefix('/').is_some_and(|path| {
            path.split('/').all(|part| !part.is_empty() && part != "." && part != ".." && part.bytes().all(plain))
        })
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, SocketAddr};

    use axum::http::HeaderValue;

    use super::*;

    #[test]
    fn hosts_and_prefixes_are_checked() {
        for yes in ["a", "files.example.com", "a:80", "127.0.0.1:8080", "[::1]", "[fe80::1]:8080", "a_b-c.d"] {
            assert!(is_host(yes), "{yes}");
        }
        let long = "a".repeat(256);
        for no in
            ["", "a b", "a/b", "a@b", "a:b", "a:+1", "a:", ":80", "[::1", "[zz]", "[::1]x", "a\"b", "é", "::1", &long]
        {
            assert!(!is_host(no), "{no}");
        }
        for yes in ["/a", "/a/b-c_d.e~f"] {
            assert!(is_prefix(yes), "{yes}");
        }
        for no in ["", "/", "a", "//a", "/a//b", "/../a", "/a/.", "/a?b", "/a\"b", "/a%2fb"] {
            assert!(!is_prefix(no), "{no}");
        }
        let config = Config { trusted_proxies: vec!["10.0.0.1".into()], ..Config::default() };
        let peer = |ip: &str| ConnectionInfo {
            peer: SocketAddr::new(ip.parse::<IpAddr>().expect(ip), 1),
            local: SocketAddr::from(([127, 0, 0, 1], 8080)),
            tls: true,
        };
        let mut headers = HeaderMap::new();
        headers.insert(HOST, HeaderValue::from_static("inner:1"));
        headers.insert("x-forwarded-host", HeaderValue::from_static("forged, outer.example"));
        assert_eq!(seen_host(&config, &headers, &peer("10.0.0.1")), "outer.example");
        assert_eq!(origin(&config, &headers, &peer("10.0.0.2")), "https://inner:1");
        headers.insert("x-forwarded-host", HeaderValue::from_static("a b"));
        headers.insert("x-forwarded-proto", HeaderValue::from_static("javascript"));
        assert_eq!(origin(&config, &headers, &peer("10.0.0.1")), "https://inner:1");
        headers.insert(HOST, HeaderValue::from_static("a b"));
        assert_eq!(origin(&config, &headers, &peer("10.0.0.1")), "https://127.0.0.1:8080");
    }
}
