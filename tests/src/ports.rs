//! Ports that nobody else takes between the choice and the use.

use crate::dirs::cache;
use anyhow::{Result, bail};
use std::fs::{self, File};
use std::net::TcpListener;
use std::sync::{Mutex, PoisonError};

/// Below the range from which the system takes ports for outgoing connections: one of those could have been given to a
/// kubectl meanwhile.
const FIRST: u16 = 20_000;
const COUNT: u16 = 10_000;

struct Taken {
    next: u16,
    /// A locked file for each port, as long as this process lives: other test processes pass it over.
    locks: Vec<File>,
}

static TAKEN: Mutex<Option<Taken>> = Mutex::new(None);

/// A port of loopback that is free, and is given out once.
pub fn free_port() -> Result<u16> {
    let dir = cache()?.join("ports");
    fs::create_dir_all(&dir)?;
    let mut guard = TAKEN.lock().unwrap_or_else(PoisonError::into_inner);
    let start = (std::process::id() % u32::from(COUNT)) as u16;
    let taken = guard.get_or_insert_with(|| Taken { next: start, locks: Vec::new() });
    for _ in 0..COUNT {
        let port = FIRST + taken.next % COUNT;
        taken.next = (taken.next + 1) % COUNT;
        let lock = File::create(dir.join(port.to_string()))?;
        if lock.try_lock().is_ok() && TcpListener::bind(("127.0.0.1", port)).is_ok() {
            taken.locks.push(lock);
            return Ok(port);
        }
    }
    bail!("no port from {FIRST} on is free")
}
