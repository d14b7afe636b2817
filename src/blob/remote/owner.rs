//! Whose a place is: the sweeper removes what no row names, and another installation's rows name nothing of this one's.

use async_trait::async_trait;
use bytes::Bytes;

use super::{Fault, Kind, Unusable};

/// The name of the mark, behind the prefix.
pub(in crate::blob) const OWNER: &str = "owner";

/// A place that can be marked.
#[async_trait]
pub(in crate::blob) trait Marked: Sync {
    /// Where it is, for people.
    fn place(&self) -> String;

    /// What all names in it begin with.
    fn prefix(&self) -> &str;

    /// Is there something of this name?
    async fn is_there(&self, key: &str) -> Result<bool, Fault>;

    /// Puts a text under this name. One that is there already may stay or be replaced: it is read afterwards.
    async fn mark(&self, key: &str, text: Bytes) -> Result<(), Fault>;

    /// What is there, if it is as long.
    async fn text(&self, key: &str, length: usize) -> Result<Bytes, Fault>;
}

/// Why a place can't be used.
pub(in crate::blob) fn unusable(place: &impl Marked, fault: &Fault) -> Unusable {
    Unusable::new(place.place(), fault.what.clone())
}

/// Does the place belong to this installation? One that is nobody's does from now on, if it may be taken.
///
/// # Errors
/// That it is another installation's, or can't be asked.
pub(in crate::blob) async fn claim(
    place: &impl Marked,
    installation: &str,
    may_be_taken: bool,
) -> Result<bool, Unusable> {
    claimed(place, installation, may_be_taken).await.map_err(|fault| unusable(place, &fault))
}

async fn claimed(place: &impl Marked, installation: &str, may_be_taken: bool) -> Result<bool, Fault> {
    let key = format!("{}{OWNER}", place.prefix());
    if !place.is_there(&key).await? {
        if !may_be_taken {
            return Ok(false);
        }
        place.mark(&key, Bytes::copy_from_slice(installation.as_bytes())).await?;
    }
    match place.text(&key, installation.len()).await {
        Ok(owner) if owner == installation.as_bytes() => Ok(true),
        Err(fault) if fault.kind != Kind::Lasting => Err(fault),
        _ => Err(Fault::lasting(format!(
            "`{key}` says that it belongs to another installation, or to a later state of this database: give each a prefix of \
             its own"
        ))),
    }
}
