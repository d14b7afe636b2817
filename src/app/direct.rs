//! Which APIs' clients send to the store themselves, as the configuration says it.

use crate::blob::Wanted;
use crate::config::{Config, ConfigError, Speech, Storage};
use crate::dialect::{aitronos, cognite, coveo, native};
use crate::engine::DirectWire;

/// Says that this API shall do so although one of its clients can't.
const INSISTING: char = '!';

/// The wires whose clients send to the store themselves.
///
/// # Errors
/// [`ConfigError::Invalid`] for an API that can't, and where bytes are on the disk.
pub(super) fn wires(config: &Config) -> Result<Vec<DirectWire>, ConfigError> {
    // What can't be anywhere is told before what can't be here.
    let speech = if let Storage::Bucket(bucket) = &config.storage { bucket.speech } else { Speech::S3 };
    let wires = config.direct.iter().map(|name| wire(name, speech)).collect::<Result<Vec<_>, _>>()?;
    match (&config.storage, config.direct.first()) {
        (Storage::Disk, Some(first)) => Err(invalid(
            first,
            "it needs a bucket (`storage = \"s3://…\"`, `\"gs://…\"` or `\"az://…\"`): from a disk there is nothing that clients could send \
             to themselves",
        )),
        (Storage::Container(_), _) if wires.iter().any(|wire| !wire.create_only) => Err(invalid(
            coveo::api::WIRE,
            "its clients send a fixed pair of headers, without the one that Azure wants for a blob, and what they send one \
             after the other is not kept apart there. Leave it out: its uploads pass through this server",
        )),
        _ => Ok(wires),
    }
}

fn invalid(value: &str, remedy: &str) -> ConfigError {
    ConfigError::Invalid { field: "direct", value: value.to_owned(), remedy: remedy.to_owned() }
}

fn wire(name: &str, speech: Speech) -> Result<DirectWire, ConfigError> {
    let wire = |wire: &str, create_only| Ok(DirectWire { wire: wire.to_owned(), create_only });
    match (name.trim_end_matches(INSISTING), name.ends_with(INSISTING), speech) {
        // Its clients send a fixed pair of headers, and no condition.
        (coveo::api::WIRE, false, Speech::S3) => wire(coveo::api::WIRE, false),
        (coveo::api::WIRE, false, Speech::Google) => Err(invalid(
            name,
            "its clients send a fixed pair of headers, which are Amazon's and mean nothing to Google: its uploads pass through \
             this server. Leave it out",
        )),
        (native::WIRE, false, Speech::S3 | Speech::Google) => wire(native::WIRE, true),
        // Of parts alone, which the server joins.
        (cognite::WIRE, true, Speech::S3 | Speech::Google) => wire(cognite::WIRE, true),
        (cognite::WIRE, false, Speech::S3 | Speech::Google) => Err(invalid(
            name,
            "its Python client from version 8 on sends its bearer token to whatever URL it is given, and its extractors \
             put this server's name into it: neither works with a bucket. Calls of that Python client are recognised and \
             stay with this server; write `cognite!` if you have no extractors",
        )),
        // Its clients are given sessions, which are Google's.
        (aitronos::WIRE, false, Speech::Google) => wire(aitronos::WIRE, true),
        (aitronos::WIRE, _, Speech::S3) => Err(invalid(
            name,
            "its uploads go on where they were interrupted, for which only Google's buckets have a URL: elsewhere they pass through \
             this server. Leave it out",
        )),
        (_, _, Speech::S3) => {
            Err(invalid(name, "the list holds `native` and `coveo`, and `cognite!` for those who insist"))
        }
        (_, _, Speech::Google) => {
            Err(invalid(name, "the list holds `native` and `aitronos`, and `cognite!` for those who insist"))
        }
    }
}

/// What the store must be able to do for them.
pub(super) fn wanted(wires: &[DirectWire]) -> Wanted {
    Wanted {
        create_only: wires.iter().any(|wire| wire.create_only),
        versions: wires.iter().any(|wire| !wire.create_only),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wires_of(direct: &str, storage: &str) -> Result<Vec<(String, bool)>, String> {
        let mut config = Config::default();
        config.set_text("storage", storage).expect("a storage");
        config.set_text("direct", direct).expect("a list");
        let wires = wires(&config).map_err(|error| error.to_string())?;
        Ok(wires.into_iter().map(|wire| (wire.wire, wire.create_only)).collect())
    }

    #[test]
    fn what_can_not_be_is_told_with_what_to_do() {
        let bucket = "s3://bytes/x";
        let both = vec![("native".to_owned(), true), ("coveo".to_owned(), false)];
        assert_eq!(wires_of("native, coveo", bucket), Ok(both));
        assert_eq!(wires_of("cognite!", bucket), Ok(vec![("cognite".to_owned(), true)]));
        assert_eq!(wires_of("native", "az://account1/bytes"), Ok(vec![("native".to_owned(), true)]));
        assert_eq!(wires_of("", "disk"), Ok(Vec::new()));
        let google = "gs://bytes/x";
        let both = vec![("native".to_owned(), true), ("aitronos".to_owned(), true)];
        assert_eq!(wires_of("native, aitronos", google), Ok(both));
        for (direct, storage, said) in [
            ("native", "disk", "s3://"),
            ("native, coveo", "az://account1/bytes", "pass through this server"),
            ("cognite", bucket, "cognite!"),
            ("aitronos", bucket, "Leave it out"),
            ("native!", bucket, "the list holds"),
            ("coveo", google, "Leave it out"),
            ("aitronos!", google, "the list holds"),
            ("everything", bucket, "the list holds"),
        ] {
            let sentence = wires_of(direct, storage).expect_err(direct);
            assert!(sentence.contains(said) && sentence.contains("`direct`"), "{sentence}");
        }
    }
}
