//! The cases, in the order in which they run. Those that break something mend it; what they share is made anew if one
//! could not.

mod backup_restored;
mod ca_deleted;
mod ca_rotated;
mod certificate_ref;
mod certificates_rotated;
mod chart_upgrade;
mod columns;
mod crd_deleted;
mod denial;
mod dialled_from_west;
mod foreign_ca;
mod helm_test;
mod hub_and_spoke;
mod inject;
mod install;
mod kernel_claimed;
mod leader_lost;
mod namespace_deleted;
mod network_cut;
mod node_stopped;
mod older_agent;
mod operators_gone;
mod peer_deleted;
mod people;
mod pvc_kept;
mod pvc_wiped;
mod revoked;
mod rollout;
mod soak;
mod start_times;
mod sync;
mod tutorial;
mod unreadable_secret;
mod upgrade;

use crate::dump;
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
    // These begin with clusters in which nothing is installed.
    tutorial::CASE,
    start_times::CASE,
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
    foreign_ca::CASE,
    pvc_wiped::CASE,
    upgrade::CASE,
    older_agent::CASE,
    chart_upgrade::CASE,
    helm_test::CASE,
    certificates_rotated::CASE,
    crd_deleted::CASE,
    ca_rotated::CASE,
    ca_deleted::CASE,
    namespace_deleted::CASE,
    dialled_from_west::CASE,
    certificate_ref::CASE,
    unreadable_secret::CASE,
    kernel_claimed::CASE,
    network_cut::CASE,
    backup_restored::CASE,
    node_stopped::CASE,
    hub_and_spoke::CASE,
    soak::CASE,
];

/// Mends what the body breaks, also if it fails; the next case needs it whole.
fn mending<T>(body: impl FnOnce() -> Result<T>, mend: impl FnOnce() -> Result<()>) -> Result<T> {
    let r = body();
    if r.is_err() {
        dump::before_mending();
    }
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
