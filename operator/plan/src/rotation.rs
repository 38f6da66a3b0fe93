//! Whether the next step of replacing the trust domain's CA would cut anybody off, judged by what Remotes' statuses say: which
//! roots peers accept, by which ones they have verified this side, and which one each agent's certificate comes from.
//!
//! What is not known is no consent. A peer that is away is named and does not hold up: it would do so for ever.

use crate::remote::certificate;
use crate::{Name, namespace_of};
use mew_crds::Remote;
use mew_crds::common::KernelUri;
use mew_crds::remote::Certificates;
use std::collections::BTreeMap;

/// How a Remote stands to a step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It goes on as before.
    Fits,
    /// Nobody knows now; what it said last, if anything.
    Away(String),
    /// It would break, or nobody knows whether it would.
    Hinders(String),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// `namespace/name` of the Remote.
    pub remote: Name,
    /// This side's kernel.
    pub kernel: String,
    /// Trust domain and kernel_id of the peer.
    pub peer: String,
    pub standing: Standing,
}

/// Of every Remote, if `new` signs from now on.
pub fn before_signing(remotes: &BTreeMap<Name, Remote>, new: &str) -> Vec<Finding> {
    findings(remotes, |r, c| {
        let accepts = c.peer_accepts_roots.iter().any(|r| r == new);
        // Another issuer's certificate is shown there: no matter who signs here.
        if certificate(&r.spec).is_some() {
            return Standing::Fits;
        }
        if !is_connected(r) {
            return Standing::Away(match (c.peer_accepts_roots.is_empty(), accepts) {
                (true, _) => "nobody knows which roots it accepts".into(),
                (false, true) => "it accepted the new root when it was seen last".into(),
                (false, false) => "it did not accept the new root when it was seen last".into(),
            });
        }
        if accepts {
            Standing::Fits
        } else if c.peer_accepts_roots.is_empty() {
            Standing::Hinders("the peer has not said which roots it accepts".into())
        } else {
            Standing::Hinders("the peer does not accept the new root".into())
        }
    })
}

/// Of every Remote, if `old` is trusted no longer: the one that has signed until now, or the new one after a step back.
pub fn before_retiring(remotes: &BTreeMap<Name, Remote>, old: &str) -> Vec<Finding> {
    findings(remotes, |r, c| {
        let is_old = |root: &Option<String>| root.as_deref() == Some(old);
        match (is_connected(r), &c.root_in_use) {
            _ if is_old(&c.root) => Standing::Hinders("the agent still has a certificate of the root that goes".into()),
            (true, used) if is_old(used) => Standing::Hinders("the connection was made by the root that goes".into()),
            _ if certificate(&r.spec).is_some() => Standing::Fits,
            (false, _) => Standing::Away("its connection will need the root that stays".into()),
            (true, None) => Standing::Hinders("the peer has not said by which root the connection was made".into()),
            (true, Some(_)) => Standing::Fits,
        }
    })
}

fn findings(remotes: &BTreeMap<Name, Remote>, judge: impl Fn(&Remote, &Certificates) -> Standing) -> Vec<Finding> {
    let one = |(name, r): (&Name, &Remote)| {
        let id = KernelUri::parse(&r.spec.uri).map_or_else(|| r.spec.uri.clone(), |u| u.kernel_id);
        let certificates = r.status.as_ref().and_then(|s| s.certificates.clone()).unwrap_or_default();
        Finding {
            remote: name.clone(),
            kernel: format!("{}.{}", namespace_of(name), r.spec.kernel_ref.name),
            peer: format!("{id} of {}", r.spec.peer.trust_domain),
            standing: judge(r, &certificates),
        }
    };
    remotes.iter().map(one).collect()
}

fn is_connected(r: &Remote) -> bool {
    let mut conditions = r.status.iter().flat_map(|s| &s.conditions);
    conditions.any(|c| c.type_ == "Connected" && c.status == "True")
}
