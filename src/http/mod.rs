//! What the doors share: connections, credentials, bodies in and bodies out.

pub mod auth;
pub mod body;
mod budget;
pub mod call;
pub mod doors;
pub mod download;
pub mod multipart;
pub mod server;
mod unread;
