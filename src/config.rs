//! Configuration: defaults, then one TOML file, then the environment, then the command line; checked whole before a
//! port is bound. Every field has one name: `container_max` in the file is `LANDFALL_CONTAINER_MAX` in the environment.

use std::fmt::{self, Display};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use toml::Value;

use crate::limits;

mod acme;
mod check;
mod network;
mod storage;
mod supervisor;
#[cfg(test)]
mod tests;
mod values;

pub use storage::{Bucket, Container, Speech, Storage};
pub use supervisor::{Supervisor, supervisor};
pub use values::size;
use values::{address, boolean, bytes, database, list, number, text};

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
        check::check(self)
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
        self.trusted_proxies
            .iter()
            .filter_map(|proxy| network::read(proxy))
            .any(|network| network::contains(network, peer))
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
