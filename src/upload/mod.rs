//! The verbs on uploads, one file each: open → receive → commit → register → read, and the sweep behind them. They
//! know neither HTTP nor SQL. Rights are checked here, not at the doors: every verb wants a [`access::Grant`].

pub mod access;
pub mod check;
pub mod commit;
pub mod direct;
pub mod entry;
pub mod file;
pub mod open;
pub mod parts;
mod pour;
pub mod read;
pub mod receive;
pub mod register;
pub mod relocate;
pub mod resume;
pub mod sweep;
pub mod track;

#[cfg(test)]
mod tests;
