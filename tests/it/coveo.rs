//! The acceptance checks of the Coveo dialect, in the order of their numbers.

mod batches;
mod clients;
mod containers;
mod errors;
mod items;
mod limits;
mod operation;
mod platform;
mod streams;
