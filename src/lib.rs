#![doc = include_str!("../ARCHITECTURE.md")]
#![cfg_attr(
    test,
    allow(
        clippy::disallowed_methods,
        reason = "a test may make files and look at the clock; the build without tests is checked"
    )
)]

// In the order of their levels: a module uses only what stands above it.
pub mod clock;
pub mod config;
pub mod faults;
pub mod limits;
pub mod sigv4;
pub mod sql;
pub mod telemetry;
pub mod unpack;

pub mod credential;
pub mod model;
pub mod outbound;
pub mod postgres;
pub mod sqlite;

pub mod blob;
pub mod meta;
pub mod search;
pub mod ticket;
pub mod token;

pub mod engine;

pub mod catalogue;
pub mod source;
pub mod store;
pub mod tenant;
pub mod upload;

pub mod http;

pub mod dialect;
pub mod ingress;
pub mod process;

pub mod app;
pub mod cli;
