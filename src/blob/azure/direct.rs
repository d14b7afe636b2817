//! Blobs that clients make themselves: signed for them, looked for, and pinned. They lie under one name of their session,
//! which takes one blob: what is signed permits to make one and not to write over it. Blocks are not for clients: their
//! parts, and uploads that go on where they were interrupted, pass through this server.

use std::fmt;
use std::str::FromStr;

use async_trait::async_trait;
use bytes::Bytes;
use http::HeaderName;

use super::Azure;
use super::blobs::{BLOB_TYPE, Stat};
use crate::blob::remote::Fault;
use crate::blob::{Arrived, ArrivedPart, BlobError, Direct, Forms, PutAsk, Ticket, Wanted};
use crate::model::file::Digests;
use crate::model::ids::{SegmentId, SessionId};

/// How long the check at the start may take.
const CHECK_SECONDS: u32 = 900;
/// The longest body that makes a blob by itself.
const PUT_BYTES: u64 = 5_000 * 1024 * 1024;
const PINNED: &str = "pin1";

/// The blob that lies, or lay, under a session's own name.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Pin {
    etag: String,
}

impl fmt::Display for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PINNED} {}", self.etag)
    }
}

impl FromStr for Pin {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        match text.split_once(' ') {
            Some((PINNED, etag)) if !etag.is_empty() => Ok(Self { etag: etag.to_owned() }),
            _ => Err(()),
        }
    }
}

impl Azure {
    /// Where what a client sends for a session lies.
    pub(super) fn direct_key(&self, session: SessionId) -> String {
        self.key(SegmentId::direct(session), 0)
    }

    /// What a pin names, if it is there and still what it was.
    pub(super) async fn pinned(&self, segment: SegmentId, pin: &Pin) -> Result<Option<Stat>, Fault> {
        let found = self.head(&self.direct_key(segment.session)).await?;
        Ok(found.filter(|found| found.etag.as_ref() == Some(&pin.etag)))
    }

    /// Does the service do what clients' own requests rely on?
    pub(super) async fn check_direct(&self, key: &str, wanted: Wanted) -> Result<(), Fault> {
        if wanted.versions {
            return Err(Fault::lasting(
                "what clients sent one after the other is not kept apart in Azure, which an API in `direct` needs: leave that \
                 API out of it",
            ));
        }
        // Under a name of its own: the probe is there.
        let key = format!("{key}-sent");
        let url = self.shared.caller.protocol.own(&key, CHECK_SECONDS).await?;
        let checked = self.takes_once(&url).await;
        let removed = self.remove(&key).await.map(drop);
        checked.and(removed)
    }

    /// Does a location take one body, and not another one?
    async fn takes_once(&self, url: &str) -> Result<(), Fault> {
        let sent = async |body: &'static [u8]| {
            let headers = vec![(HeaderName::from_static(BLOB_TYPE.0), BLOB_TYPE.1.to_owned())];
            self.shared.caller.sent_to(url, headers, Bytes::from_static(body)).await
        };
        let head = sent(b"once").await?;
        if !(200..300).contains(&head.status) {
            return Err(Fault::lasting(format!(
                "it refuses what comes to a location that was signed for a client, {} {}: the account may forbid such \
                 locations, or not so long ones, or this machine's clock is wrong. Else leave `direct` out",
                head.status,
                head.header("x-ms-error-code").unwrap_or_default()
            )));
        }
        if (200..300).contains(&sent(b"again").await?.status) {
            return Err(Fault::lasting(
                "it lets a client write over a blob who may only make one, so that what was checked could be replaced: leave \
                 `direct` out",
            ));
        }
        Ok(())
    }

    fn unserved<T>() -> Result<T, BlobError> {
        Err(Fault::lasting("clients send no parts to Azure themselves").into())
    }
}

#[async_trait]
impl Direct for Azure {
    fn forms(&self) -> Forms {
        Forms { parts: false, sessions: false, put_bytes: PUT_BYTES }
    }

    async fn ticket(&self, ask: PutAsk<'_>) -> Result<Ticket, BlobError> {
        if !ask.create_only {
            let what = "what clients sent one after the other is not kept apart in Azure";
            return Err(Fault::lasting(what).into());
        }
        // No signature covers headers, nor what was declared: both is looked at when the blob is used.
        let url = self.shared.caller.protocol.public(&self.direct_key(ask.session), ask.life_seconds).await?;
        let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        Ok(Ticket { url, headers: ask.headers.iter().chain([&BLOB_TYPE]).map(owned).collect() })
    }

    async fn begin_parts(&self, _session: SessionId) -> Result<String, BlobError> {
        Self::unserved()
    }

    async fn part_tickets(
        &self,
        _session: SessionId,
        _upload: &str,
        _numbers: &[u32],
        _life_seconds: u32,
    ) -> Result<Vec<String>, BlobError> {
        Self::unserved()
    }

    /// No digests: a blob's MD5 is whatever its maker said, unless it was made of one body, which nobody tells.
    async fn arrived(&self, session: SessionId, _create_only: bool) -> Result<Option<Arrived>, BlobError> {
        let found = self.head(&self.direct_key(session)).await?;
        let Some(found) = found.filter(|found| found.is_sent) else { return Ok(None) };
        let Some(etag) = found.etag else { return Err(Fault::lasting("the store gave a blob no ETag").into()) };
        Ok(Some(Arrived {
            segment: SegmentId::direct(session),
            backend: Pin { etag: etag.clone() }.to_string(),
            length: found.size,
            digests: Digests::default(),
            etag: Some(etag.trim_matches('"').to_owned()),
        }))
    }

    async fn arrived_parts(&self, _session: SessionId, _upload: &str) -> Result<Option<Vec<ArrivedPart>>, BlobError> {
        Self::unserved()
    }

    async fn join(
        &self,
        _session: SessionId,
        _upload: &str,
        _parts: &[ArrivedPart],
    ) -> Result<Option<Arrived>, BlobError> {
        Self::unserved()
    }

    async fn abandon(&self, _session: SessionId, _upload: &str) -> Result<(), BlobError> {
        Self::unserved()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pin_reads_back() {
        let pin = Pin { etag: "\"0x8DE2F0A1B2C3D4E\"".into() };
        assert_eq!(pin.to_string().parse(), Ok(pin));
        for bad in ["", "whole", "blocks1", "pin1", "pin1 ", "pin2 x"] {
            assert_eq!(bad.parse::<Pin>(), Err(()), "{bad}");
        }
    }
}
