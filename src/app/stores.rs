//! Which kinds of places for bytes there are: what each is called, how it is opened, checked and claimed. One more kind is
//! one more arm of each `match` here.

use std::sync::Arc;

use async_trait::async_trait;

use super::StartError;
use crate::blob::{Azure, BlobStore, Local, S3, Wanted};
use crate::clock::Clock;
use crate::config::{Config, Storage, cloud_environment};

/// The directory of bytes in a data directory.
const BLOBS: &str = "blobs";

/// What somebody wants of a place.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Access {
    /// To write and to delete as well.
    Write,
    /// Only to read: nothing is made, tidied or removed.
    Read,
}

/// A place that others can reach as well, over connections of its own: those of a server belong to its planes.
#[async_trait]
pub(super) trait Reachable: Send + Sync {
    /// Can it be used, for all that a server will want to do there?
    async fn check(&self, wanted: Wanted) -> Result<(), StartError>;

    /// Has it this mark? One that has none has it from now on, if it may be taken.
    async fn claim(&self, mark: &str, may_be_taken: bool) -> Result<bool, StartError>;
}

/// A configured place, opened. Nothing has been asked of it.
pub(super) struct Opened {
    pub(super) store: Arc<dyn BlobStore>,
    /// None for the disk, which is this machine's.
    pub(super) reachable: Option<Box<dyn Reachable>>,
}

/// What a place is called that others can reach: the scheme of its URL, and the rest that tells it from others. The disk has
/// a name of its own.
pub(super) fn name(storage: &Storage) -> Option<(&'static str, String)> {
    match storage {
        Storage::Disk => None,
        Storage::Bucket(bucket) => Some((bucket.speech.scheme(), format!("{}/{}", bucket.name, bucket.prefix))),
        Storage::Container(at) => Some(("az", format!("{}/{}/{}", at.account, at.name, at.prefix))),
    }
}

/// Opens a configured place.
///
/// # Errors
/// When the disk can't be used, or there is nothing to reach a store with.
pub(super) fn open(storage: &Storage, config: &Config, clock: &Clock, access: Access) -> Result<Opened, StartError> {
    match storage {
        Storage::Disk => {
            let directory = config.data.join(BLOBS);
            let opened = match access {
                Access::Write => Local::open(&directory),
                Access::Read => Local::open_to_read(&directory),
            };
            let unusable = |error| StartError::Data { directory: config.data.display().to_string(), error };
            Ok(Opened { store: Arc::new(opened.map_err(unusable)?), reachable: None })
        }
        Storage::Bucket(bucket) => {
            let open = || match access {
                Access::Write => S3::open(bucket, cloud_environment(), clock.clone(), config.body_memory_max),
                Access::Read => S3::open_to_read(bucket, cloud_environment(), clock.clone()),
            };
            Ok(Opened { store: Arc::new(open()?), reachable: Some(Box::new(open()?)) })
        }
        Storage::Container(container) => {
            let open = || match access {
                Access::Write => Azure::open(container, cloud_environment(), clock.clone(), config.body_memory_max),
                Access::Read => Azure::open_to_read(container, cloud_environment(), clock.clone()),
            };
            Ok(Opened { store: Arc::new(open()?), reachable: Some(Box::new(open()?)) })
        }
    }
}

#[async_trait]
impl Reachable for Azure {
    async fn check(&self, wanted: Wanted) -> Result<(), StartError> {
        Ok(Self::check(self, wanted).await?)
    }

    async fn claim(&self, mark: &str, may_be_taken: bool) -> Result<bool, StartError> {
        Ok(Self::claim(self, mark, may_be_taken).await?)
    }
}

#[async_trait]
impl Reachable for S3 {
    async fn check(&self, wanted: Wanted) -> Result<(), StartError> {
        Ok(Self::check(self, wanted).await?)
    }

    async fn claim(&self, mark: &str, may_be_taken: bool) -> Result<bool, StartError> {
        Ok(Self::claim(self, mark, may_be_taken).await?)
    }
}
