//! The cases, in the order in which they run. Those that break something mend it; what they share is made anew if one
//! could not.

mod ca_deleted;
mod columns;
mod crd_deleted;
mod denial;
mod dialled_from_west;
mod inject;
mod install;
mod leader_lost;
mod namespace_deleted;
mod operators_gone;
mod peer_deleted;
mod people;
mod pvc_kept;
mod pvc_wiped;
mod revoked;
mod rollout;
mod sync;
mod tutorial;
mod upgrade;

use crate::world::World;
use anyhow::{Context, Result};

pub struct Case {
    pub name: &'static str,
    /// Part of what CI runs.
    pub core: bool,
    pub proves: &'static str,
    pub run: fn(&mut World) -> Result<()>,
}

pub const CASES: &[Case] = &[
    // It begins with clusters in which nothing is installed.
    tutorial::CASE,
    install::CASE,
    people::CASE,
    inject::CASE,
    sync::CASE,
    columns::CASE,
    denial::CASE,
    peer_deleted::CASE,
    leader_lost::CASE,
    operators_gone::CASE,
    pvc_kept::CASE,
    rollout::CASE,
    revoked::CASE,
    pvc_wiped::CASE,
    upgrade::CASE,
    crd_deleted::CASE,
    ca_deleted::CASE,
    namespace_deleted::CASE,
    dialled_from_west::CASE,
];

/// Mends what the body breaks, also if it fails; the next case needs it whole.
fn mending<T>(body: impl FnOnce() -> Result<T>, mend: impl FnOnce() -> Result<()>) -> Result<T> {
    let r = body();
    let mended = mend().context("mending it");
    let t = r?;
    mended?;
    Ok(t)
}

#[cfg(test)]
mod tests {
    use super::CASES;
    use std::collections::BTreeSet;

    /// A name is an argument, and a directory of logs.
    #[test]
    fn names_are_plain_and_differ() {
        let names: BTreeSet<&str> = CASES.iter().map(|c| c.name).collect();
        assert_eq!(names.len(), CASES.len());
        for n in names {
            assert!(n.chars().all(|c| c.is_ascii_lowercase() || c == '-'), "{n}");
        }
    }
}
