//! The door the clock opens: what must happen after a registration, done by jobs.

mod apply;
pub mod certificate;
mod chunk;
pub mod extract;
mod stored;
mod text;
pub mod worker;
