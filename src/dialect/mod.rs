//! The vendors' APIs, each translated to the words of `model`. A vendor's word occurs only in its own folder.

pub mod aitronos;
pub mod cognite;
pub mod coveo;
pub mod native;
