//! The door the clock opens: what must happen after a registration, done by jobs.

mod apply;
pub mod extract;
mod text;
pub mod worker;
