//! What is said about certificates that are ordered by ACME.

use std::net::IpAddr;

use super::{Config, ConfigError, invalid};

/// The authority where none is named.
pub(super) const DIRECTORY: &str = "https://acme-v02.api.letsencrypt.org/directory";
/// What authorities take in one certificate.
const NAMES: usize = 100;

/// Can a certificate be ordered with what is said?
pub(super) fn check(config: &Config) -> Result<(), ConfigError> {
    if config.acme_domains.is_empty() {
        return unused(config);
    }
    if config.tls_certificate.is_some() {
        return Err(invalid(
            "acme_domains",
            config.acme_domains.join(", "),
            "`tls_certificate` is set as well; a certificate is ordered or comes from files: leave one of them out",
        ));
    }
    if config.acme_domains.len() > NAMES {
        let count = format!("{} names", config.acme_domains.len());
        return Err(invalid("acme_domains", count, format!("a certificate has {NAMES} names at most")));
    }
    for (at, name) in config.acme_domains.iter().enumerate() {
        check_name(name).map_err(|remedy| invalid("acme_domains", name, remedy))?;
        if config.acme_domains.iter().take(at).any(|other| other == name) {
            return Err(invalid("acme_domains", name, "it is there twice"));
        }
    }
    if !config.acme_terms_agreed {
        return Err(invalid(
            "acme_terms_agreed",
            "false",
            "an authority wants its terms of service agreed to, which nobody does for you: read them and set it to true",
        ));
    }
    let secured = url::Url::parse(&config.acme_directory).is_ok_and(|url| {
        url.scheme() == "https" && url.has_host() && url.username().is_empty() && url.password().is_none()
    });
    if !secured {
        let remedy = "it must be a URL that begins with https:// and has no user name";
        return Err(invalid("acme_directory", &config.acme_directory, remedy));
    }
    match &config.acme_contact {
        Some(contact) if !is_mail_address(contact) => {
            Err(invalid("acme_contact", contact, "write one mail address such as ops@example.com, without `mailto:`"))
        }
        Some(_) | None => Ok(()),
    }
}

/// What is said about an order that nobody wants is a mistake.
fn unused(config: &Config) -> Result<(), ConfigError> {
    let default = DIRECTORY == config.acme_directory;
    let said = [
        ("acme_contact", config.acme_contact.clone()),
        ("acme_ca", config.acme_ca.as_ref().map(|path| path.display().to_string())),
        ("acme_directory", (!default).then(|| config.acme_directory.clone())),
        ("acme_terms_agreed", config.acme_terms_agreed.then(|| String::from("true"))),
    ];
    match said.into_iter().find_map(|(field, value)| Some((field, value?))) {
        Some((field, value)) => {
            Err(invalid(field, value, "`acme_domains` is not set, so that nothing is ordered; set both, or none"))
        }
        None => Ok(()),
    }
}

/// A name that an authority can ask for over TLS.
fn check_name(name: &str) -> Result<(), &'static str> {
    if name.starts_with("*.") {
        return Err(
            "no wildcard can be proved over TLS: list the names, or bring a certificate with `tls_certificate`",
        );
    }
    if name.trim_matches(['[', ']']).parse::<IpAddr>().is_ok() {
        return Err("it must be a host name, not an address");
    }
    if name.bytes().any(|b| b.is_ascii_uppercase()) {
        return Err("write it in lower case");
    }
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    if name.len() > 253 || !name.split('.').all(label) {
        return Err("it must be a host name such as uploads.example.com; other letters are written as xn--…");
    }
    Ok(())
}

fn is_mail_address(text: &str) -> bool {
    let plain = text.bytes().all(|b| b.is_ascii_graphic() && !b",:?<>\"".contains(&b));
    plain
        && text.split_once('@').is_some_and(|(user, host)| !user.is_empty() && !host.is_empty() && !host.contains('@'))
}
