//! How many files this process may have open.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Raises the limit to what the system allows. Each segment of a log is a file that stays open, and the limit that processes
/// begin with is low for the sake of programs that wait with `select`, which this is not. Where it cannot be raised, less fits.
pub fn raise_limit() {
    let limit = getrlimit(Resource::Nofile);
    if limit.current == limit.maximum {
        return;
    }
    match setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }) {
        Ok(()) => tracing::debug!(from = ?limit.current, to = ?limit.maximum, "the limit of open files is raised"),
        Err(e) => tracing::debug!(error = %e, limit = ?limit.current, "the limit of open files cannot be raised"),
    }
}
