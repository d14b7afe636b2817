//! Where the bytes are that a database names. It remembers that, because a process that looks elsewhere would find none of
//! them, and keep its own where no other looks.

use std::fmt;
use std::path::Path;

use super::StartError;
use crate::blob::{S3, Wanted, write_durably};
use crate::clock::{Clock, random_uuid};
use crate::config::{Bucket, Config, Storage, cloud_environment};
use crate::meta::MetaStore;

/// The setting that remembers it, and the file of a data directory that has the name of its bytes.
const PLACE: &str = "storage";
/// Tells this database's bytes from another's in a bucket.
const INSTALLATION: &str = "installation";

/// A place for bytes, as it is remembered.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Place {
    /// A data directory: the name in its file. Facts that lie in the same directory do without.
    Disk(String),
    /// A bucket with a prefix.
    Bucket(String),
}

impl Place {
    fn of(bucket: &Bucket) -> Self {
        Self::Bucket(format!("{}/{}", bucket.name, bucket.prefix))
    }

    fn stored(&self) -> Vec<u8> {
        match self {
            Self::Disk(name) => format!("disk {name}"),
            Self::Bucket(name) => format!("bucket {name}"),
        }
        .into_bytes()
    }

    fn read(stored: &[u8]) -> Self {
        let text = String::from_utf8_lossy(stored);
        match text.split_once(' ') {
            Some(("bucket", name)) => Self::Bucket(name.to_owned()),
            Some((_, name)) => Self::Disk(name.to_owned()),
            None => Self::Disk(text.into_owned()),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Disk(name) if name.is_empty() => f.write_str("on the disk"),
            Self::Disk(name) => write!(f, "on the disk of the data directory whose file `{PLACE}` says {name}"),
            Self::Bucket(name) => write!(f, "in s3://{name}"),
        }
    }
}

fn elsewhere(known: &Place, config: &Config, own: Option<&str>) -> StartError {
    let data = config.data.display();
    let here = match (&config.storage, own) {
        (Storage::Bucket(bucket), _) => Place::of(bucket).to_string(),
        (Storage::Disk, Some(own)) => format!("in {data}, whose file `{PLACE}` says {own}"),
        (Storage::Disk, None) => format!("in {data}, which has no file `{PLACE}`"),
    };
    let remedy = match (known, &config.storage) {
        (Place::Disk(name), Storage::Disk) => format!(
            "Several processes at one database need a bucket (the field `storage`), which has to be there from the beginning. One \
             needs the data directory that holds the bytes: if it is {data}, put back from a backup, write {name} into \
             {data}/{PLACE}"
        ),
        (Place::Disk(_), Storage::Bucket(_)) => {
            "Nothing is moved from a disk to a bucket: set `storage` to `disk`".into()
        }
        (Place::Bucket(name), _) => format!(
            "Give every process at this database the same `storage`, s3://{name}. A copy of that bucket is taken as well, if it \
             has the object `owner`"
        ),
    };
    StartError::Elsewhere { known: known.to_string(), here, remedy }
}

fn own_name(directory: &Path) -> std::io::Result<Option<String>> {
    match std::fs::read_to_string(directory.join(PLACE)) {
        Ok(name) => Ok(Some(name.trim().to_owned())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

async fn known(meta: &dyn MetaStore) -> Result<Option<Place>, StartError> {
    Ok(meta.setting(PLACE).await?.map(|stored| Place::read(&stored)))
}

/// Remembers a place if none is, and says which is remembered.
async fn remember(meta: &dyn MetaStore, place: &Place) -> Result<Place, StartError> {
    Ok(Place::read(&meta.set_setting(PLACE, place.stored(), true).await?))
}

/// Can the place be used, and is it the one where this database's bytes are? The first process decides. A bucket
/// has to do what is `wanted` of it as well.
pub(super) async fn settle(config: &Config, meta: &dyn MetaStore, wanted: Wanted) -> Result<(), StartError> {
    let known = known(meta).await?;
    match &config.storage {
        Storage::Disk if !meta.is_shared() => match known {
            Some(known @ Place::Bucket(_)) => Err(elsewhere(&known, config, None)),
            Some(Place::Disk(_)) => Ok(()),
            None => remember(meta, &Place::Disk(String::new())).await.map(drop),
        },
        Storage::Disk => {
            let own = own_name(&config.data)?;
            let known = match (known, &own) {
                (Some(known), _) => known,
                (None, Some(own)) => remember(meta, &Place::Disk(own.clone())).await?,
                (None, None) => {
                    let name = random_uuid().to_string();
                    write_durably(&config.data.join(PLACE), format!("{name}\n").as_bytes())?;
                    return match remember(meta, &Place::Disk(name.clone())).await? {
                        Place::Disk(known) if known == name => Ok(()),
                        known => Err(elsewhere(&known, config, Some(&name))),
                    };
                }
            };
            match (&known, &own) {
                (Place::Disk(known), Some(own)) if known == own => Ok(()),
                _ => Err(elsewhere(&known, config, own.as_deref())),
            }
        }
        Storage::Bucket(bucket) => {
            if let Some(known @ Place::Disk(_)) = &known {
                return Err(elsewhere(known, config, None));
            }
            // Over connections of its own: those of the server belong to its planes.
            let store = S3::open(bucket, cloud_environment(), Clock::system(), config.body_memory_max)?;
            // Before it is remembered: a place that can't be used is corrected.
            store.check(wanted).await?;
            let here = Place::of(bucket);
            let known = match known {
                Some(known) => known,
                None => remember(meta, &here).await?,
            };
            let id = match meta.setting(INSTALLATION).await? {
                Some(id) => id,
                None => meta.set_setting(INSTALLATION, random_uuid().to_string().into_bytes(), true).await?,
            };
            // Under another name it is a copy, which has the owner's mark, or a mistake, which has none.
            if store.claim(&String::from_utf8_lossy(&id), known == here).await? {
                Ok(())
            } else {
                Err(elsewhere(&known, config, None))
            }
        }
    }
}

/// The same for one who only looks: nothing is made or remembered.
pub(super) async fn compare(config: &Config, meta: &dyn MetaStore) -> Result<(), StartError> {
    let Some(known) = known(meta).await? else { return Ok(()) };
    let own = own_name(&config.data)?;
    match (&known, &config.storage) {
        (Place::Disk(_), Storage::Disk) if !meta.is_shared() => Ok(()),
        (Place::Disk(known), Storage::Disk) if own.as_ref() == Some(known) => Ok(()),
        (Place::Bucket(_), Storage::Bucket(bucket)) if known == Place::of(bucket) => Ok(()),
        (Place::Bucket(_), Storage::Bucket(bucket)) => {
            let store = S3::open_to_read(bucket, cloud_environment(), Clock::system())?;
            let id = meta.setting(INSTALLATION).await?.unwrap_or_default();
            match store.claim(&String::from_utf8_lossy(&id), false).await? {
                true => Ok(()),
                false => Err(elsewhere(&known, config, own.as_deref())),
            }
        }
        _ => Err(elsewhere(&known, config, own.as_deref())),
    }
}
