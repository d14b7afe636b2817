//! Ports for servers that are started again on the port they had.

use std::collections::BTreeSet;
use std::hash::{BuildHasher, Hasher};
use std::sync::{Mutex, PoisonError};

/// A port that is free now, and stays so while nobody listens on it: none that the system gives to outgoing connections
/// or to whoever asks for any, and none that was given before in this process.
pub(crate) fn free() -> u16 {
    static GIVEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());
    let mut given = GIVEN.lock().unwrap_or_else(PoisonError::into_inner);
    let port = (0..10_000)
        .map(|_| std::collections::hash_map::RandomState::new().build_hasher().finish() % 20_000)
        .filter_map(|number| u16::try_from(10_000 + number).ok())
        // Asked and not bound: a program that is being started could hold what was bound for a moment longer.
        .find(|port| !given.contains(port) && std::net::TcpStream::connect(("127.0.0.1", *port)).is_err())
        .expect("a free port on loopback");
    given.insert(port);
    port
}
