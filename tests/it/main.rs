//! A real server on a random port, asked over the wire. One module per subject; the names `check_01_…` to
//! `check_50_…` are the numbered acceptance checks of the API they stand in.
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::as_conversions,
    reason = "a test that can't go on has failed; the bans are the server's"
)]

mod acme;
mod aitronos;
mod azure;
#[path = "../support/azurite.rs"]
mod azurite;
mod backups;
mod bodies;
#[path = "../support/bucket.rs"]
mod bucket;
mod client;
mod cognite;
mod coveo;
mod deploy;
mod direct;
mod doctor;
mod emulators;
mod files;
mod first_start;
#[path = "../support/front.rs"]
mod front;
mod google;
mod google_alone;
#[path = "../support/harm.rs"]
mod harm;
mod harness;
mod hostile;
mod issuer;
mod knowledge;
mod limits;
mod moves;
mod native;
#[path = "../support/nginx.rs"]
mod nginx;
mod oidc;
mod parts;
mod pebble;
mod places;
#[path = "../../src/postgres/testing.rs"]
mod postgres;
mod postgres_tls;
mod process;
mod replicas;
mod seed_pages;
mod storage;
mod supervised;
mod uploads;
