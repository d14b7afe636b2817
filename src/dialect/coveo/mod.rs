//! The Coveo Push and Stream APIs.
//!
//! `api` has the calls. The rest is pure: bytes and query strings in, the domain's records out, and the domain's answers and refusals
//! turned into the vendor's shapes.

pub mod api;
pub mod batch;
pub mod envelope;
pub mod identity;
mod json;
pub mod permissions;
pub mod platform;
pub mod query;
pub mod replies;
pub mod wire;
