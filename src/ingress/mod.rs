//! The doors for bytes sent to a ticket. A ticket names the wire that it came from; `app` gives each wire's answers.

pub mod part;
pub mod put;
pub mod resumable;
