//! What a disk that refuses means: to whom it happens, and what there is to do.

use crate::types::StoreError;
use std::io::{self, ErrorKind};

pub fn is_full(e: &io::Error) -> bool {
    matches!(e.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge)
}

pub fn is_lost(e: &io::Error) -> bool {
    matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory)
}

/// Why nothing was written, and what there is to do.
pub fn unwritten(e: io::Error) -> StoreError {
    let what = match e.kind() {
        ErrorKind::ReadOnlyFilesystem => "the disk is read-only: writes go on when it can be written to again",
        _ if is_lost(&e) => "the data directory is gone: writes go on when it is back",
        _ => "the log cannot be written: look at the disk, each write tries again",
    };
    full_or(because(e, what))
}

/// Why nothing may follow. No later sync would tell: systems take for written what they could not write.
pub fn unsynced(e: &io::Error) -> String {
    format!(
        "a sync of the log failed ({e}), so it is not known what of it is on the disk, and reading it anew is the only way to find out"
    )
}

pub fn unreadable(e: StoreError) -> StoreError {
    match e {
        StoreError::Io(e) => because(e, "what is to be replaced cannot be read, so it stays: look at the disk"),
        e => e,
    }
}

pub fn because(e: io::Error, what: &str) -> StoreError {
    StoreError::Io(io::Error::new(e.kind(), format!("{what} ({e})")))
}

pub fn full_or_io(e: io::Error) -> StoreError {
    if is_full(&e) { StoreError::Full } else { StoreError::Io(e) }
}

pub fn full_or(e: StoreError) -> StoreError {
    match e {
        StoreError::Io(e) => full_or_io(e),
        e => e,
    }
}
