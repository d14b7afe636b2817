//! What stores have in common that are called over HTTP: calls that are tried again, XML, credentials, a mark of whose
//! they are, memory for what is on its way, and reading by ranges. How a store is spoken to is its own folder's.

mod adapters;
mod call;
mod credentials;
mod gather;
#[cfg(test)]
pub(super) mod harmed;
mod held;
mod owner;
mod reader;
mod usable;
mod xml;

pub(super) use adapters::Adapters;
pub(super) use call::{Ask, Body, Caller, Fault, Kind, Protocol, STALL, Signed, split};
pub(super) use credentials::{Current, nobody, not_told};
pub(super) use gather::{Gathered, Sending};
pub(super) use held::{Held, Memory};
pub(super) use owner::{Marked, OWNER, claim, unusable};
pub(super) use reader::{Ranges, Reader, Stream};
pub use usable::{Unusable, Wanted};
pub(super) use usable::{is_probe, probe};
pub(super) use xml::Element;

use crc_fast::CrcAlgorithm;

pub(super) fn crc32c(bytes: &[u8]) -> u32 {
    u32::try_from(crc_fast::checksum(CrcAlgorithm::Crc32Iscsi, bytes)).unwrap_or(0)
}

/// The checksum of bytes that are followed by others.
pub(super) fn followed(first: u32, second: u32, length: u64) -> u32 {
    let whole = crc_fast::checksum_combine(CrcAlgorithm::Crc32Iscsi, first.into(), second.into(), length);
    u32::try_from(whole).unwrap_or(0)
}
