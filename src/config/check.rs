//! What a configuration can be as a whole.

use super::{Config, ConfigError, acme, invalid, network};
use crate::limits;

/// Is it usable? The public URL loses the slash at its end.
pub(super) fn check(config: &mut Config) -> Result<(), ConfigError> {
    if let Some(given) = &config.public_url {
        let trimmed = given.trim_end_matches('/').to_owned();
        check_public_url(&trimmed).map_err(|remedy| invalid("public_url", given, remedy))?;
        config.public_url = Some(trimmed);
    }
    let range = |field, value: u64, least: u64, most: u64| {
        if (least..=most).contains(&value) {
            Ok(())
        } else {
            Err(invalid(field, value, format!("it must be between {least} and {most}")))
        }
    };
    let day = 24 * 3600;
    range("container_max", config.container_max, 1, limits::CONTAINER_MAX_BYTES)?;
    range("connections_max", u64::try_from(config.connections_max).unwrap_or(u64::MAX), 1, 1_000_000)?;
    range("stop_seconds", config.stop_seconds, 0, day)?;
    range("body_idle_seconds", config.body_idle_seconds, 1, day)?;
    range("body_grace_seconds", config.body_grace_seconds, 1, day)?;
    range("answer_idle_seconds", config.answer_idle_seconds, 1, day)?;
    range("header_seconds", config.header_seconds, 1, day)?;
    range("body_memory_max", config.body_memory_max, 16 * 1024 * 1024, 1 << 40)?;
    range("workers", u64::try_from(config.workers).unwrap_or(u64::MAX), 1, 256)?;
    range("rate_limit", u64::from(config.rate_limit.unwrap_or(1)), 1, u64::from(u32::MAX))?;
    range("rate_burst", u64::from(config.rate_burst.unwrap_or(1)), 1, u64::from(u32::MAX))?;
    if config.tls_certificate.is_some() != config.tls_key.is_some() {
        let (field, other) = match &config.tls_key {
            None => ("tls_key", "tls_certificate"),
            Some(_) => ("tls_certificate", "tls_key"),
        };
        return Err(invalid(field, "", format!("`{other}` is set; set both, or none for plain HTTP")));
    }
    acme::check(config)?;
    if let (Some(burst), None) = (config.rate_burst, config.rate_limit) {
        return Err(invalid("rate_burst", burst, "`rate_limit` is not set, so there is nothing to exceed; set both"));
    }
    if let Some(admin) = config.admin_listen.filter(|admin| *admin == config.listen && admin.port() != 0) {
        return Err(invalid("admin_listen", admin, "it is `listen` as well; choose another port, or leave it out"));
    }
    if let Some(digest) = config.digests.iter().find(|digest| *digest != "md5") {
        return Err(invalid("digests", digest, "the list holds `md5`, or nothing"));
    }
    for origin in &config.cors_origins {
        if origin.is_empty() || origin.matches('*').count() > 1 || !origin.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(invalid(
                "cors_origins",
                origin,
                "an origin looks like https://example.com or https://*.example.com, with at most one `*`",
            ));
        }
    }
    for proxy in &config.trusted_proxies {
        if network::read(proxy).is_none() {
            return Err(invalid(
                "trusted_proxies",
                proxy,
                "a proxy is an address such as 10.0.0.7, or a network such as 10.0.0.0/8",
            ));
        }
    }
    if let Err(error) = tracing_subscriber::EnvFilter::try_new(&config.log_filter) {
        return Err(invalid("log_filter", &config.log_filter, format!("{error}; write `info`, or `landfall=debug`")));
    }
    Ok(())
}

fn check_public_url(text: &str) -> Result<(), &'static str> {
    let Ok(url) = url::Url::parse(text) else { return Err("it must be a URL such as https://files.example.com") };
    if !matches!(url.scheme(), "http" | "https") || url.host().is_none() {
        return Err("it must begin with http:// or https:// and a host");
    }
    if url.query().is_some() || url.fragment().is_some() || !url.username().is_empty() || url.password().is_some() {
        return Err("it must have no query, no fragment and no user name: only scheme, host, port and path");
    }
    // What is signed is compared byte by byte, so it has to be written the way clients write it.
    let written = if url.path() == "/" && !text.ends_with('/') {
        url.as_str().trim_end_matches('/') == text
    } else {
        url.as_str() == text
    };
    if written {
        Ok(())
    } else {
        Err("write it in lower case, without the scheme's own port and with nothing to escape")
    }
}
