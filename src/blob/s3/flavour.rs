//! Which store it is: what Amazon's and those like it do in one way, and Google's in another. Everything else is the same
//! code.

use std::collections::HashMap;
use std::time::Duration;

use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

use super::amazon::{self, Amazon};
use super::google::{self, Google};
use super::objects::Stat;
use crate::blob::PutAsk;
use crate::blob::remote::{Ask, Caller, Element, Fault, Protocol, Signed};
use crate::config::{Bucket, Speech};
use crate::outbound::{Head, OutboundError};

/// A header.
pub(super) type Header = (&'static str, String);
/// A condition: a header that is always the same.
pub(super) type Condition = (&'static str, &'static str);

/// A store, as it is spoken to.
pub(super) enum Flavour {
    Amazon(Amazon),
    Google(Google),
}

/// Makes calls to a bucket.
pub(super) fn caller(
    bucket: &Bucket,
    environment: HashMap<String, String>,
    stall: Duration,
) -> Result<Caller<Flavour>, OutboundError> {
    let (flavour, near) = match bucket.speech {
        Speech::S3 => {
            let amazon = Amazon::new(bucket, environment)?;
            let near = amazon.is_near();
            (Flavour::Amazon(amazon), near)
        }
        Speech::Google => {
            let google = Google::new(bucket, environment)?;
            let near = google.is_near();
            (Flavour::Google(google), near)
        }
    };
    Caller::new(flavour, stall, near)
}

impl Flavour {
    /// Does every object have a number, whether the bucket keeps older ones or not? Then it is named with each read and each
    /// deletion, which takes exactly that one and leaves nothing; without, a bucket that keeps versions has to be listed.
    pub(super) const fn numbers(&self) -> bool {
        match self {
            Self::Amazon(_) => false,
            Self::Google(_) => true,
        }
    }

    /// The condition under which a key takes one object only.
    pub(super) const fn create_only(&self) -> Condition {
        match self {
            Self::Amazon(_) => amazon::CREATE_ONLY,
            Self::Google(_) => google::CREATE_ONLY,
        }
    }

    /// The condition under which our own objects are put. A name takes one in a second at Google's, and an older one may be
    /// kept: what is there need not be put again.
    pub(super) const fn own_condition(&self) -> Option<Condition> {
        match self {
            Self::Amazon(_) => None,
            Self::Google(_) => Some(google::CREATE_ONLY),
        }
    }

    /// The condition under which parts that clients sent are joined, where that may have one.
    pub(super) const fn join_condition(&self) -> Option<Condition> {
        match self {
            Self::Amazon(_) => Some(amazon::CREATE_ONLY),
            Self::Google(_) => None,
        }
    }

    /// The header of a body that has this checksum.
    pub(super) fn checksum(&self, crc32c: u32) -> Header {
        match self {
            Self::Amazon(_) => (amazon::CHECKSUM, BASE64.encode(crc32c.to_be_bytes())),
            Self::Google(_) => google::checksum(crc32c),
        }
    }

    /// The header of an upload whose parts come with checksums, where it is told beforehand. Its completion names them.
    pub(super) const fn announces(&self) -> Option<Condition> {
        match self {
            Self::Amazon(_) => Some(("x-amz-checksum-algorithm", "CRC32C")),
            Self::Google(_) => None,
        }
    }

    /// The header that has the digests of an object told, where they are not told anyway.
    pub(super) const fn telling(&self) -> Option<Condition> {
        match self {
            Self::Amazon(_) => Some(("x-amz-checksum-mode", "ENABLED")),
            Self::Google(_) => None,
        }
    }

    /// The header that has an object's bytes sent as they are stored, also those that were sent compressed.
    pub(super) const fn as_stored(&self) -> Option<Condition> {
        match self {
            Self::Amazon(_) => None,
            Self::Google(_) => Some(("accept-encoding", "gzip")),
        }
    }

    /// What a client's own PUT is to carry, so that the store compares.
    pub(super) fn checks(&self, ask: &PutAsk<'_>, checksums: bool) -> Vec<Header> {
        match self {
            Self::Amazon(_) => amazon::checks(ask.declared, checksums),
            Self::Google(_) => google::checks(ask),
        }
    }

    /// What a client's own PUT carries by itself, and what is signed so that the store takes no other number of bytes, where
    /// `checks` has nothing for it.
    pub(super) fn length(&self, (least, most): (u64, u64)) -> Option<Header> {
        match self {
            Self::Amazon(_) if least == most => Some(("content-length", most.to_string())),
            Self::Amazon(_) | Self::Google(_) => None,
        }
    }

    /// An object, by the head of an answer about it. `None` when that tells no length.
    pub(super) fn stat(&self, head: &Head) -> Option<Stat> {
        match self {
            Self::Amazon(_) => amazon::stat(head),
            Self::Google(_) => google::stat(head),
        }
    }

    /// The version, or the number, of what was put.
    pub(super) fn version(&self, head: &Head) -> Option<String> {
        let name = match self {
            Self::Amazon(_) => amazon::VERSION,
            Self::Google(_) => google::GENERATION,
        };
        head.header(name).map(str::to_owned)
    }

    /// The parameter that asks for it.
    pub(super) const fn version_query(&self) -> &'static str {
        match self {
            Self::Amazon(_) => amazon::VERSION_QUERY,
            Self::Google(_) => google::GENERATION_QUERY,
        }
    }

    /// Its own sessions for uploads that go on, where it has them.
    pub(super) const fn sessions(&self) -> Option<&Google> {
        match self {
            Self::Amazon(_) => None,
            Self::Google(google) => Some(google),
        }
    }

    /// URLs at which clients reach an object, one for each of these further parameters, for a PUT within so many seconds with
    /// exactly these headers.
    pub(super) async fn public(
        &self,
        key: &str,
        queries: Vec<Vec<(String, String)>>,
        headers: &[(&str, &str)],
        life: u32,
    ) -> Result<Vec<String>, Fault> {
        match self {
            Self::Amazon(amazon) => {
                let signer = amazon.signer().await?;
                Ok(queries.into_iter().map(|query| signer.public(key, query, headers, life)).collect())
            }
            Self::Google(google) => {
                let puts = queries.into_iter().map(|query| google::Put { key, query, headers, life });
                google.public(&puts.collect::<Vec<_>>()).await
            }
        }
    }

    /// The same at which this server reaches it, for a moment.
    pub(super) async fn own(&self, key: &str, headers: &[(&str, &str)]) -> Result<String, Fault> {
        match self {
            Self::Amazon(amazon) => Ok(amazon.signer().await?.own(key, headers)),
            Self::Google(google) => {
                let life = amazon::SIGNED_SECONDS;
                google.own(google::Put { key, query: Vec::new(), headers, life }).await
            }
        }
    }
}

#[async_trait]
impl Protocol for Flavour {
    fn place(&self) -> String {
        match self {
            Self::Amazon(amazon) => amazon.place(),
            Self::Google(google) => google.place(),
        }
    }

    async fn sign(&self, ask: &Ask<'_>) -> Result<Signed, Fault> {
        match self {
            Self::Amazon(amazon) => amazon.sign(ask).await,
            Self::Google(google) => google.sign(ask).await,
        }
    }

    fn judge(&self, status: u16, head: &Head, document: Option<&Element>) -> Fault {
        match self {
            Self::Amazon(amazon) => amazon.judge(status, head, document),
            Self::Google(google) => google.judge(status, head, document),
        }
    }

    async fn forget(&self) {
        match self {
            Self::Amazon(amazon) => amazon.forget().await,
            Self::Google(google) => google.forget().await,
        }
    }
}
