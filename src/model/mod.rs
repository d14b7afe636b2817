//! The words of the domain: plain data and its rules, without I/O. Where a type is serialized here, that is its
//! stored form; what a vendor's wire looks like is known only in `dialect`.

pub mod access;
pub mod change;
pub mod document;
pub mod entry;
pub mod file;
pub mod ids;
pub mod issuer;
pub mod job;
pub mod pairs;
pub mod place;
pub mod refusal;
pub mod session;
pub mod source;
pub mod store;
