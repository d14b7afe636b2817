//! Values as a file or the environment has them.

use std::net::SocketAddr;

use toml::Value;

use super::{ConfigError, DatabaseUrl, invalid};

pub(super) fn text(field: &'static str, value: &Value) -> Result<String, ConfigError> {
    match value.as_str() {
        Some(text) if !text.is_empty() => Ok(text.to_owned()),
        Some(_) => Err(invalid(field, "", "it is empty; leave the field out for the default")),
        None => Err(invalid(field, value, "it must be a text in quotes")),
    }
}

pub(super) fn database(field: &'static str, value: &Value) -> Result<DatabaseUrl, ConfigError> {
    // What is refused is not shown either.
    match value.as_str() {
        Some(url) if url.starts_with("postgres://") || url.starts_with("postgresql://") => {
            Ok(DatabaseUrl(url.to_owned()))
        }
        _ => Err(invalid(field, "…", "it must be a URL such as postgres://user:password@host:5432/database")),
    }
}

pub(super) fn address(field: &'static str, value: &Value) -> Result<SocketAddr, ConfigError> {
    let text = text(field, value)?;
    text.parse().map_err(|_| invalid(field, &text, "write address:port, such as 127.0.0.1:8080 or [::]:8080"))
}

pub(super) fn boolean(field: &'static str, value: &Value) -> Result<bool, ConfigError> {
    match value {
        Value::Boolean(value) => Ok(*value),
        Value::String(text) if text == "true" || text == "1" => Ok(true),
        Value::String(text) if text == "false" || text == "0" => Ok(false),
        other => Err(invalid(field, shown(other), "it is true or false")),
    }
}

pub(super) fn number<T: TryFrom<i64>>(field: &'static str, value: &Value) -> Result<T, ConfigError> {
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
pub(super) fn bytes(field: &'static str, value: &Value) -> Result<u64, ConfigError> {
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
pub(super) fn list(field: &'static str, value: &Value) -> Result<Vec<String>, ConfigError> {
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
