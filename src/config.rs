//! Configuration: defaults, then one TOML file, then the environment, then the command line; checked whole before a
//! port is bound. Every field has one name: `container_max` in the file is `LANDFALL_CONTAINER_MAX` in the environment.

use std::fmt::{self, Display};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use toml::Value;

use crate::limits;

mod acme;
mod storage;
mod supervisor;

pub use storage::{Bucket, Container, Speech, Storage};
pub use supervisor::{Supervisor, supervisor};

/// Why a configuration can't be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file can't be read.
    #[error("the configuration file {path} can't be read: {error}. Give the path of a TOML file, or none")]
    Unreadable {
        /// Which file.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// The file is not TOML.
    #[error("the configuration file {path} is not TOML: {error}")]
    Syntax {
        /// Which file.
        path: PathBuf,
        /// Where and why.
        error: Box<toml::de::Error>,
    },
    /// No field has this name.
    #[error("there is no field `{field}` in the configuration. The fields are: {known}")]
    Unknown {
        /// The name.
        field: String,
        /// Every name there is.
        known: String,
    },
    /// A field has a value that can't be.
    #[error("the configuration field `{field}` can't be `{value}`: {remedy}")]
    Invalid {
        /// Which field.
        field: &'static str,
        /// Its value.
        value: String,
        /// What would be right.
        remedy: String,
    },
}

/// How log lines are written.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum LogFormat {
    /// One JSON object per line.
    #[default]
    Json,
    /// For people.
    Text,
}

/// Where a database is, with the password that lets in: it is never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct DatabaseUrl(String);

impl DatabaseUrl {
    /// The whole, for who connects.
    #[must_use]
    pub fn secret(&self) -> &str {
        &self.0
    }
}

impl From<String> for DatabaseUrl {
    fn from(url: String) -> Self {
        Self(url)
    }
}

impl fmt::Debug for DatabaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DatabaseUrl")
    }
}

/// Everything that can be set.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Config {
    /// The data directory.
    pub data: PathBuf,
    /// The PostgreSQL database that holds the facts and the full text; without it they are in the data directory.
    pub database: Option<DatabaseUrl>,
    /// Where new bytes are kept.
    pub storage: Storage,
    /// Where else there are bytes, from before or for the future.
    pub more_storage: Vec<Storage>,
    /// The APIs whose clients send to the bucket themselves. Which there are is known where they are put together.
    pub direct: Vec<String>,
    /// Where the server listens.
    pub listen: SocketAddr,
    /// The server's address as clients see it, without a slash at its end.
    pub public_url: Option<String>,
    /// Largest container, in bytes, inclusive.
    pub container_max: u64,
    /// Below so many free bytes nothing new is taken.
    pub free_space_min: u64,
    /// Are unknown identity providers made on first use?
    pub create_providers: bool,
    /// Digests beyond the checksums that every resumable upload gets: `md5`, or nothing.
    pub digests: Vec<String>,
    /// PEM file with the certificate chain.
    pub tls_certificate: Option<PathBuf>,
    /// PEM file with its key.
    pub tls_key: Option<PathBuf>,
    /// Host names for which a certificate is ordered by ACME (RFC 8555); without any, none is.
    pub acme_domains: Vec<String>,
    /// Does the operator agree to the terms of service of the authority?
    pub acme_terms_agreed: bool,
    /// The mail address at which the authority reaches the operator.
    pub acme_contact: Option<String>,
    /// The directory of the authority.
    pub acme_directory: String,
    /// PEM file with the only roots that are believed for the directory; without it the system's are.
    pub acme_ca: Option<PathBuf>,
    /// Requests per second and key; without it there is no cap.
    pub rate_limit: Option<u32>,
    /// Requests of one key at once; without it as many as in a second.
    pub rate_burst: Option<u32>,
    /// Origins whose scripts may use the server; each may hold one `*`.
    pub cors_origins: Vec<String>,
    /// Addresses or networks whose forwarded headers are believed.
    pub trusted_proxies: Vec<String>,
    /// Where the metrics are served, and only there; without it they are served with everything else.
    pub admin_listen: Option<SocketAddr>,
    /// How log lines are written.
    pub log_format: LogFormat,
    /// Which log lines are written.
    pub log_filter: String,
    /// Connections at once.
    pub connections_max: usize,
    /// At a stop, running requests may go on for so many seconds.
    pub stop_seconds: u64,
    /// Seconds that a body may stand still.
    pub body_idle_seconds: u64,
    /// Seconds before the slowest rate is asked for.
    pub body_grace_seconds: u64,
    /// Slowest accepted body, in bytes per second on average.
    pub body_rate_bytes: u64,
    /// Slowest body while others wait for memory, in bytes per second.
    pub body_yield_rate_bytes: u64,
    /// Seconds in which a client must take something of its answer.
    pub answer_idle_seconds: u64,
    /// Seconds that a client has for its request head.
    pub header_seconds: u64,
    /// Bytes of bodies in memory, over all connections: one half for uploads, one for JSON.
    pub body_memory_max: u64,
    /// Texts extracted at once.
    pub workers: usize,
    /// The binary that extraction children run; without it this one.
    pub program: Option<PathBuf>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            data: PathBuf::from("./landfall-data"),
            database: None,
            storage: Storage::Disk,
            more_storage: Vec::new(),
            direct: Vec::new(),
            listen: SocketAddr::from(([127, 0, 0, 1], 8080)),
            public_url: None,
            container_max: limits::CONTAINER_DEFAULT_BYTES,
            free_space_min: 256 * 1024 * 1024,
            create_providers: false,
            digests: vec![String::from("md5")],
            tls_certificate: None,
            tls_key: None,
            acme_domains: Vec::new(),
            acme_terms_agreed: false,
            acme_contact: None,
            acme_directory: String::from(acme::DIRECTORY),
            acme_ca: None,
            rate_limit: None,
            rate_burst: None,
            cors_origins: vec![String::from("*")],
            trusted_proxies: Vec::new(),
            admin_listen: None,
            log_format: LogFormat::Json,
            log_filter: String::from("info"),
            connections_max: 10_000,
            stop_seconds: 30,
            body_idle_seconds: limits::BODY_IDLE.as_secs(),
            body_grace_seconds: limits::BODY_GRACE.as_secs(),
            body_rate_bytes: limits::BODY_RATE_BYTES,
            body_yield_rate_bytes: limits::BODY_YIELD_RATE_BYTES,
            answer_idle_seconds: limits::ANSWER_IDLE.as_secs(),
            header_seconds: limits::HEADER_TIME.as_secs(),
            body_memory_max: 128 * 1024 * 1024,
            workers: 2,
            program: None,
        }
    }
}

/// Every field that a file or the environment may set.
const FIELDS: &[&str] = &[
    "data",
    "database",
    "storage",
    "more_storage",
    "direct",
    "listen",
    "public_url",
    "container_max",
    "free_space_min",
    "create_providers",
    "digests",
    "tls_certificate",
    "tls_key",
    "acme_domains",
    "acme_terms_agreed",
    "acme_contact",
    "acme_directory",
    "acme_ca",
    "rate_limit",
    "rate_burst",
    "cors_origins",
    "trusted_proxies",
    "admin_listen",
    "log_format",
    "log_filter",
    "connections_max",
    "stop_seconds",
    "body_idle_seconds",
    "body_grace_seconds",
    "body_rate_bytes",
    "body_yield_rate_bytes",
    "answer_idle_seconds",
    "header_seconds",
    "body_memory_max",
    "workers",
    "program",
];

/// What the environment says about access to clouds: the variables that their own tools read. Some are secrets, which is
/// why they are no part of [`Config`].
#[must_use]
#[allow(clippy::disallowed_methods, reason = "this is the one place that reads the environment")]
pub fn cloud_environment() -> std::collections::HashMap<String, String> {
    let others = ["HOME", "XDG_CONFIG_HOME", "GCE_METADATA_HOST", "NO_GCE_CHECK"];
    let cloud = ["AWS_", "GOOGLE_", "AZURE_", "AZBLOB_"];
    let named = |name: &str| others.contains(&name) || cloud.iter().any(|prefix| name.starts_with(prefix));
    let text = |(name, value): (std::ffi::OsString, std::ffi::OsString)| {
        Some((name.into_string().ok()?, value.into_string().ok()?))
    };
    std::env::vars_os().filter_map(text).filter(|(name, _)| named(name)).collect()
}

impl Config {
    /// Reads the file, if there is one, and the environment over it, and checks the whole.
    ///
    /// # Errors
    /// The first thing that is wrong, with its remedy.
    #[allow(clippy::disallowed_methods, reason = "this is the one place that reads the environment")]
    pub fn load(file: Option<&Path>) -> Result<Self, ConfigError> {
        let environment = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.to_string_lossy().into_owned())));
        Self::read(file, environment)
    }

    fn read(file: Option<&Path>, environment: impl IntoIterator<Item = (String, String)>) -> Result<Self, ConfigError> {
        let mut config = Self::default();
        if let Some(path) = file {
            let text = std::fs::read_to_string(path)
                .map_err(|error| ConfigError::Unreadable { path: path.to_owned(), error })?;
            let table: toml::Table =
                text.parse().map_err(|error| ConfigError::Syntax { path: path.to_owned(), error: Box::new(error) })?;
            for (name, value) in &table {
                let Some(field) = FIELDS.iter().find(|field| *field == name) else {
                    return Err(ConfigError::Unknown { field: name.clone(), known: FIELDS.join(", ") });
                };
                config.set(field, value)?;
            }
        }
        // Unknown names are left alone: orchestrators set LANDFALL_PORT and the like for a service of that name.
        for (name, value) in environment {
            let field = FIELDS
                .iter()
                .find(|field| name.strip_prefix("LANDFALL_").is_some_and(|rest| rest == field.to_ascii_uppercase()));
            if let Some(field) = field {
                config.set(field, &Value::String(value))?;
            }
        }
        config.validate()?;
        Ok(config)
    }

    /// Sets a field from text, as the environment would.
    ///
    /// # Errors
    /// When the field can't have that value.
    pub fn set_text(&mut self, field: &'static str, value: &str) -> Result<(), ConfigError> {
        self.set(field, &Value::String(value.to_owned()))
    }

    fn set(&mut self, field: &'static str, value: &Value) -> Result<(), ConfigError> {
        match field {
            "data" => self.data = PathBuf::from(text(field, value)?),
            "database" => self.database = Some(database(field, value)?),
            "storage" => self.storage = storage_of(field, &text(field, value)?)?,
            "more_storage" => {
                let texts = match value {
                    // What stands in a URL may hold a comma, and no space.
                    Value::String(text) => text.split_ascii_whitespace().map(str::to_owned).collect(),
                    other => list(field, other)?,
                };
                self.more_storage = texts.iter().map(|text| storage_of(field, text)).collect::<Result<_, _>>()?;
            }
            "direct" => self.direct = list(field, value)?,
            "listen" => self.listen = address(field, value)?,
            "public_url" => self.public_url = Some(text(field, value)?),
            "container_max" => self.container_max = bytes(field, value)?,
            "free_space_min" => self.free_space_min = bytes(field, value)?,
            "create_providers" => self.create_providers = boolean(field, value)?,
            "digests" => self.digests = list(field, value)?,
            "tls_certificate" => self.tls_certificate = Some(PathBuf::from(text(field, value)?)),
            "tls_key" => self.tls_key = Some(PathBuf::from(text(field, value)?)),
            "acme_domains" => self.acme_domains = list(field, value)?,
            "acme_terms_agreed" => self.acme_terms_agreed = boolean(field, value)?,
            "acme_contact" => self.acme_contact = Some(text(field, value)?),
            "acme_directory" => self.acme_directory = text(field, value)?,
            "acme_ca" => self.acme_ca = Some(PathBuf::from(text(field, value)?)),
            "rate_limit" => self.rate_limit = Some(number(field, value)?),
            "rate_burst" => self.rate_burst = Some(number(field, value)?),
            "cors_origins" => self.cors_origins = list(field, value)?,
            "trusted_proxies" => self.trusted_proxies = list(field, value)?,
            "admin_listen" => self.admin_listen = Some(address(field, value)?),
            "log_format" => {
                self.log_format = match text(field, value)?.as_str() {
                    "json" => LogFormat::Json,
                    "text" => LogFormat::Text,
                    other => return Err(invalid(field, other, "it is `json` or `text`")),
                }
            }
            "log_filter" => self.log_filter = text(field, value)?,
            "connections_max" => self.connections_max = number(field, value)?,
            "stop_seconds" => self.stop_seconds = number(field, value)?,
            "body_idle_seconds" => self.body_idle_seconds = number(field, value)?,
            "body_grace_seconds" => self.body_grace_seconds = number(field, value)?,
            "body_rate_bytes" => self.body_rate_bytes = bytes(field, value)?,
            "body_yield_rate_bytes" => self.body_yield_rate_bytes = bytes(field, value)?,
            "answer_idle_seconds" => self.answer_idle_seconds = number(field, value)?,
            "header_seconds" => self.header_seconds = number(field, value)?,
            "body_memory_max" => self.body_memory_max = bytes(field, value)?,
            "workers" => self.workers = number(field, value)?,
            "program" => self.program = Some(PathBuf::from(text(field, value)?)),
            other => return Err(ConfigError::Unknown { field: other.to_owned(), known: FIELDS.join(", ") }),
        }
        Ok(())
    }

    /// Checks the whole; to be called again after the command line has changed fields.
    ///
    /// # Errors
    /// The first field that can't be as it is.
    pub fn validate(&mut self) -> Result<(), ConfigError> {
        if let Some(given) = &self.public_url {
            let trimmed = given.trim_end_matches('/').to_owned();
            check_public_url(&trimmed).map_err(|remedy| invalid("public_url", given, remedy))?;
            self.public_url = Some(trimmed);
        }
        let range = |field, value: u64, least: u64, most: u64| {
            if (least..=most).contains(&value) {
                Ok(())
            } else {
                Err(invalid(field, value, format!("it must be between {least} and {most}")))
            }
        };
        let day = 24 * 3600;
        range("container_max", self.container_max, 1, limits::CONTAINER_MAX_BYTES)?;
        range("connections_max", u64::try_from(self.connections_max).unwrap_or(u64::MAX), 1, 1_000_000)?;
        range("stop_seconds", self.stop_seconds, 0, day)?;
        range("body_idle_seconds", self.body_idle_seconds, 1, day)?;
        range("body_grace_seconds", self.body_grace_seconds, 1, day)?;
        range("answer_idle_seconds", self.answer_idle_seconds, 1, day)?;
        range("header_seconds", self.header_seconds, 1, day)?;
        range("body_memory_max", self.body_memory_max, 16 * 1024 * 1024, 1 << 40)?;
        range("workers", u64::try_from(self.workers).unwrap_or(u64::MAX), 1, 256)?;
        range("rate_limit", u64::from(self.rate_limit.unwrap_or(1)), 1, u64::from(u32::MAX))?;
        range("rate_burst", u64::from(self.rate_burst.unwrap_or(1)), 1, u64::from(u32::MAX))?;
        if self.tls_certificate.is_some() != self.tls_key.is_some() {
            let (field, other) = match &self.tls_key {
                None => ("tls_key", "tls_certificate"),
                Some(_) => ("tls_certificate", "tls_key"),
            };
            return Err(invalid(field, "", format!("`{other}` is set; set both, or none for plain HTTP")));
        }
        acme::check(self)?;
        if let (Some(burst), None) = (self.rate_burst, self.rate_limit) {
            return Err(invalid(
                "rate_burst",
                burst,
                "`rate_limit` is not set, so there is nothing to exceed; set both",
            ));
        }
        if let Some(admin) = self.admin_listen.filter(|admin| *admin == self.listen && admin.port() != 0) {
            return Err(invalid("admin_listen", admin, "it is `listen` as well; choose another port, or leave it out"));
        }
        if let Some(digest) = self.digests.iter().find(|digest| *digest != "md5") {
            return Err(invalid("digests", digest, "the list holds `md5`, or nothing"));
        }
        for origin in &self.cors_origins {
            if origin.is_empty() || origin.matches('*').count() > 1 || !origin.bytes().all(|b| b.is_ascii_graphic()) {
                return Err(invalid(
                    "cors_origins",
                    origin,
                    "an origin looks like https://example.com or https://*.example.com, with at most one `*`",
                ));
            }
        }
        for proxy in &self.trusted_proxies {
            if network(proxy).is_none() {
                return Err(invalid(
                    "trusted_proxies",
                    proxy,
                    "a proxy is an address such as 10.0.0.7, or a network such as 10.0.0.0/8",
                ));
            }
        }
        if let Err(error) = tracing_subscriber::EnvFilter::try_new(&self.log_filter) {
            return Err(invalid("log_filter", &self.log_filter, format!("{error}; write `info`, or `landfall=debug`")));
        }
        Ok(())
    }

    /// Host (and port, unless it is the scheme's own) of the public URL.
    #[must_use]
    pub fn public_host(&self) -> Option<&str> {
        let rest = self.public_url.as_deref()?.split_once("://")?.1;
        Some(rest.split_once('/').map_or(rest, |(host, _)| host))
    }

    /// Path prefix of the public URL: empty, or `/` and more without a slash at its end.
    #[must_use]
    pub fn public_prefix(&self) -> &str {
        let rest = self.public_url.as_deref().and_then(|url| url.split_once("://")).map_or("", |(_, rest)| rest);
        rest.find('/').map_or("", |at| &rest[at..])
    }

    /// Are the forwarded headers of this peer believed?
    #[must_use]
    pub fn trusts(&self, peer: IpAddr) -> bool {
        let peer = peer.to_canonical();
        self.trusted_proxies.iter().filter_map(|proxy| network(proxy)).any(|network| contains(network, peer))
    }
}

/// Reads a place for bytes as the field `storage` has it.
///
/// # Errors
/// What would be right, with the field's name.
pub fn storage_of(field: &'static str, text: &str) -> Result<Storage, ConfigError> {
    // What stands before an `@` may be a secret, and so may a signature that belongs into a file of credentials.
    let secret = text.contains('@') || text.to_ascii_lowercase().contains("sig=") || text.contains("AccountKey=");
    let shown = if secret { "(not shown)" } else { text };
    storage::parse(text).map_err(|remedy| invalid(field, shown, remedy))
}

fn invalid(field: &'static str, value: impl Display, remedy: impl Into<String>) -> ConfigError {
    ConfigError::Invalid { field, value: value.to_string(), remedy: remedy.into() }
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

/// Reads `address` or `address/bits`.
fn network(text: &str) -> Option<(IpAddr, u8)> {
    let (address, bits) = match text.split_once('/') {
        None => (text, None),
        Some((address, bits)) => (address, Some(bits.parse::<u8>().ok()?)),
    };
    let address: IpAddr = address.parse().ok()?;
    let most = if address.is_ipv4() { 32 } else { 128 };
    let bits = bits.unwrap_or(most);
    (bits <= most).then_some((address, bits))
}

fn contains((network, bits): (IpAddr, u8), address: IpAddr) -> bool {
    fn wide(address: IpAddr) -> u128 {
        match address {
            IpAddr::V4(v4) => u128::from(u32::from(v4)) << 96,
            IpAddr::V6(v6) => u128::from(v6),
        }
    }
    let mask = u128::MAX.checked_shl(128 - u32::from(bits)).unwrap_or(0);
    network.is_ipv4() == address.is_ipv4() && wide(network) & mask == wide(address) & mask
}

fn text(field: &'static str, value: &Value) -> Result<String, ConfigError> {
    match value.as_str() {
        Some(text) if !text.is_empty() => Ok(text.to_owned()),
        Some(_) => Err(invalid(field, "", "it is empty; leave the field out for the default")),
        None => Err(invalid(field, value, "it must be a text in quotes")),
    }
}

fn database(field: &'static str, value: &Value) -> Result<DatabaseUrl, ConfigError> {
    // What is refused is not shown either.
    match value.as_str() {
        Some(url) if url.starts_with("postgres://") || url.starts_with("postgresql://") => {
            Ok(DatabaseUrl(url.to_owned()))
        }
        _ => Err(invalid(field, "…", "it must be a URL such as postgres://user:password@host:5432/database")),
    }
}

fn address(field: &'static str, value: &Value) -> Result<SocketAddr, ConfigError> {
    let text = text(field, value)?;
    text.parse().map_err(|_| invalid(field, &text, "write address:port, such as 127.0.0.1:8080 or [::]:8080"))
}

fn boolean(field: &'static str, value: &Value) -> Result<bool, ConfigError> {
    match value {
        Value::Boolean(value) => Ok(*value),
        Value::String(text) if text == "true" || text == "1" => Ok(true),
        Value::String(text) if text == "false" || text == "0" => Ok(false),
        other => Err(invalid(field, shown(other), "it is true or false")),
    }
}

fn number<T: TryFrom<i64>>(field: &'static str, value: &Value) -> Result<T, ConfigError> {
    let number = match value {
        Value::Integer(number) => Some(*number),
        Value::String(text) => text.parse().ok(),
        _ => None,
    };
    number
        .and_then(|number| T::try_from(number).ok())
        .ok_or_else(|| invalid(field, shown(value), "it must be a whole number that is not negative"))
}

/// An integer, or a text such as `5GiB`.
fn bytes(field: &'static str, value: &Value) -> Result<u64, ConfigError> {
    match value {
        Value::Integer(number) => u64::try_from(*number).ok(),
        Value::String(text) => size(text),
        _ => None,
    }
    .ok_or_else(|| invalid(field, shown(value), "it must be a number of bytes, or one with KiB, MiB, GiB or TiB"))
}

/// Reads a number of bytes such as `1048576`, `512 KiB` or `5GiB`; `KB` to `TB` are powers of 1000.
#[must_use]
pub fn size(text: &str) -> Option<u64> {
    let text = text.trim();
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let unit = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "kb" => 1_000,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
        "tb" => 1_000_000_000_000,
        "kib" => 1 << 10,
        "mib" => 1 << 20,
        "gib" => 1 << 30,
        "tib" => 1 << 40,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(unit)
}

/// An array of texts; in the environment they are separated by commas.
fn list(field: &'static str, value: &Value) -> Result<Vec<String>, ConfigError> {
    match value {
        Value::Array(values) => values.iter().map(|value| text(field, value)).collect(),
        Value::String(text) => {
            Ok(text.split(',').map(str::trim).filter(|part| !part.is_empty()).map(str::to_owned).collect())
        }
        other => Err(invalid(field, shown(other), "it must be a list of texts")),
    }
}

fn shown(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from(file: &str, environment: &[(&str, &str)]) -> Result<Config, ConfigError> {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("landfall.toml");
        std::fs::write(&path, file).expect("a file");
        Config::read(Some(&path), environment.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())))
    }

    fn error(file: &str) -> String {
        from(file, &[]).expect_err(file).to_string()
    }

    #[test]
    fn the_environment_goes_over_the_file_and_both_over_the_defaults() {
        let config = from(
            "data = '/d'\ncontainer_max = '5GiB'\nworkers = 3\ncors_origins = ['https://*.example.com']",
            &[
                ("LANDFALL_WORKERS", "4"),
                ("LANDFALL_TRUSTED_PROXIES", "10.0.0.0/8, ::1"),
                ("LANDFALL_CREATE_PROVIDERS", "true"),
                ("LANDFALL_PORT", "tcp://10.0.0.1:80"),
                ("landfall_data", "/other"),
            ],
        )
        .expect("a configuration");
        assert_eq!(config.data, PathBuf::from("/d"));
        assert_eq!(config.container_max, 5 << 30);
        assert_eq!(config.workers, 4);
        assert_eq!(config.trusted_proxies, ["10.0.0.0/8", "::1"]);
        assert!(config.create_providers);
        assert_eq!(config.cors_origins, ["https://*.example.com"]);
        assert_eq!(config.listen, Config::default().listen);
        assert_eq!(Config::read(None, []).expect("the defaults hold"), Config::default());
    }

    #[test]
    fn every_field_is_reachable() {
        for field in FIELDS {
            let unknown = Config::default().set(field, &Value::Boolean(false));
            assert!(!matches!(unknown, Err(ConfigError::Unknown { .. })), "{field}");
        }
        let debug = format!("{:?}", Config::default());
        assert_eq!(debug.matches(": ").count(), FIELDS.len(), "{debug}");
    }

    #[test]
    fn errors_name_field_value_and_remedy() {
        for (file, parts) in [
            ("datta = 'x'", ["`datta`", "fields are", "data, database, storage, more_storage, direct, listen"]),
            ("listen = 'localhost'", ["`listen`", "`localhost`", "127.0.0.1:8080"]),
            ("container_max = '5 gigs'", ["`container_max`", "`5 gigs`", "GiB"]),
            ("container_max = 0", ["`container_max`", "`0`", "between 1 and"]),
            ("container_max = '6TiB'", ["`container_max`", "`6597069766656`", "between 1 and"]),
            ("free_space_min = -1", ["`free_space_min`", "`-1`", "number of bytes"]),
            ("connections_max = 0", ["`connections_max`", "`0`", "between 1"]),
            ("workers = -1", ["`workers`", "`-1`", "not negative"]),
            ("tls_key = 'k.pem'", ["`tls_certificate`", "``", "set both"]),
            ("tls_certificate = 'c.pem'", ["`tls_key`", "``", "set both"]),
            ("acme_domains = ['*.example.com']", ["`acme_domains`", "`*.example.com`", "no wildcard"]),
            ("acme_domains = ['192.0.2.1']", ["`acme_domains`", "`192.0.2.1`", "not an address"]),
            ("acme_domains = ['A.example.com']", ["`acme_domains`", "`A.example.com`", "lower case"]),
            ("acme_domains = ['a.example.com/']", ["`acme_domains`", "`a.example.com/`", "host name"]),
            ("acme_domains = ['a..example.com']", ["`acme_domains`", "`a..example.com`", "host name"]),
            ("acme_domains = ['a.b', 'a.b']", ["`acme_domains`", "`a.b`", "twice"]),
            ("acme_domains = ['a.b']", ["`acme_terms_agreed`", "`false`", "terms of service"]),
            (
                "acme_domains = ['a.b']\ntls_certificate = 'c.pem'\ntls_key = 'k.pem'",
                ["`acme_domains`", "`a.b`", "`tls_certificate`"],
            ),
            ("acme_contact = 'me@example.com'", ["`acme_contact`", "`me@example.com`", "`acme_domains`"]),
            ("acme_ca = 'roots.pem'", ["`acme_ca`", "`roots.pem`", "`acme_domains`"]),
            ("acme_terms_agreed = true", ["`acme_terms_agreed`", "`true`", "`acme_domains`"]),
            ("acme_directory = 'https://ca.example/dir'", ["`acme_directory`", "https://ca", "`acme_domains`"]),
            (
                "acme_domains = ['a.b']\nacme_terms_agreed = true\nacme_directory = 'http://ca.example/dir'",
                ["`acme_directory`", "`http://ca.example/dir`", "https://"],
            ),
            (
                "acme_domains = ['a.b']\nacme_terms_agreed = true\nacme_contact = 'mailto:me@example.com'",
                ["`acme_contact`", "`mailto:me@example.com`", "without `mailto:`"],
            ),
            ("cors_origins = ['https://*.*']", ["`cors_origins`", "`https://*.*`", "at most one"]),
            ("trusted_proxies = ['10.0.0.0/33']", ["`trusted_proxies`", "`10.0.0.0/33`", "10.0.0.0/8"]),
            ("public_url = 'files.example.com'", ["`public_url`", "`files.example.com`", "https://"]),
            ("public_url = 'ftp://a'", ["`public_url`", "`ftp://a`", "http://"]),
            ("public_url = 'http://a/?x=1'", ["`public_url`", "`http://a/?x=1`", "no query"]),
            ("public_url = 'https://A.example:443'", ["`public_url`", "`https://A.example:443`", "lower case"]),
            ("log_format = 'xml'", ["`log_format`", "`xml`", "`text`"]),
            ("log_filter = 'a=b=c'", ["`log_filter`", "`a=b=c`", "info"]),
            ("create_providers = 'yes'", ["`create_providers`", "`yes`", "true or false"]),
            ("rate_limit = 0", ["`rate_limit`", "`0`", "between 1"]),
            ("rate_burst = 5", ["`rate_burst`", "`5`", "`rate_limit`"]),
            ("admin_listen = '127.0.0.1:8080'", ["`admin_listen`", "`127.0.0.1:8080`", "another port"]),
            ("database = 'me:secret@db'", ["`database`", "`…`", "postgres://"]),
            ("data = [", ["not TOML", "landfall.toml", ""]),
        ] {
            let message = error(file);
            assert!(!message.contains("secret"), "{message}");
            assert!(parts.iter().all(|part| message.contains(part)), "{file}: {message}");
        }
        let many: Vec<String> = (0..=100).map(|i| format!("'h{i}.example.com'")).collect();
        let message = error(&format!("acme_terms_agreed = true\nacme_domains = [{}]", many.join(",")));
        assert!(message.contains("`101 names`") && message.contains("100"), "{message}");
        let missing = Config::read(Some(Path::new("/none.toml")), []).expect_err("no file").to_string();
        assert!(missing.contains("/none.toml"), "{missing}");
    }

    #[test]
    fn more_places_are_a_list_or_words() {
        let config =
            from("more_storage = ['disk', 's3://bytes/a,b?region=x']", &[]).expect_err("no prefix has a comma");
        assert!(config.to_string().contains("`more_storage`"), "{config}");
        let file = from("storage = 's3://new'\nmore_storage = ['disk', 's3://old/x']", &[]).expect("valid");
        let words = from("storage = 's3://new'", &[("LANDFALL_MORE_STORAGE", " disk\ts3://old/x ")]).expect("valid");
        assert_eq!(file.more_storage.len(), 2);
        assert_eq!(file.more_storage, words.more_storage);
        assert_eq!(from("", &[("LANDFALL_MORE_STORAGE", "")]).expect("valid").more_storage, []);
        let secret = from("more_storage = 's3://key:secret@bytes'", &[]).expect_err("no key").to_string();
        assert!(!secret.contains("secret"), "{secret}");
    }

    #[test]
    fn certificates_are_ordered_for_names() {
        let config = from(
            "acme_terms_agreed = true\nacme_contact = 'ops@example.com'",
            &[("LANDFALL_ACME_DOMAINS", "uploads.example.com, xn--bcher-kva.example")],
        )
        .expect("a configuration");
        assert_eq!(config.acme_domains, ["uploads.example.com", "xn--bcher-kva.example"]);
        assert_eq!(config.acme_directory, "https://acme-v02.api.letsencrypt.org/directory");
    }

    #[test]
    fn a_database_s_password_is_not_shown() {
        let config = from("database = 'postgres://me:secret@db/facts'", &[]).expect("a configuration");
        assert!(config.database.as_ref().is_some_and(|url| url.secret().contains("secret")));
        assert!(!format!("{config:?}").contains("secret"));
    }

    #[test]
    fn the_public_url_is_taken_apart() {
        let of = |url: &str| from(&format!("public_url = '{url}'"), &[]).expect(url);
        let config = of("https://files.example.com:8443/up/load/");
        assert_eq!(config.public_url.as_deref(), Some("https://files.example.com:8443/up/load"));
        assert_eq!((config.public_host(), config.public_prefix()), (Some("files.example.com:8443"), "/up/load"));
        let config = of("http://[::1]:8080/");
        assert_eq!((config.public_host(), config.public_prefix()), (Some("[::1]:8080"), ""));
        assert_eq!((Config::default().public_host(), Config::default().public_prefix()), (None, ""));
    }

    #[test]
    fn proxies_are_addresses_or_networks() {
        let config = from("trusted_proxies = ['10.1.0.0/16', '192.168.0.7', 'fd00::/8', '::1']", &[]).expect("valid");
        for yes in ["10.1.2.3", "192.168.0.7", "fd12::1", "::1", "::ffff:10.1.2.3"] {
            assert!(config.trusts(yes.parse().expect(yes)), "{yes}");
        }
        for no in ["10.2.0.1", "192.168.0.8", "fe00::1", "::2", "127.0.0.1"] {
            assert!(!config.trusts(no.parse().expect(no)), "{no}");
        }
        let all = from("trusted_proxies = ['0.0.0.0/0']", &[]).expect("valid");
        assert!(all.trusts("1.2.3.4".parse().expect("v4")) && !all.trusts("::1".parse().expect("v6")));
    }
}
