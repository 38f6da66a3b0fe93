//! What this side allows a peer, worked out against this kernel's ontology.

use mew_contract::snapshot::{Grant, Overwrite};
use mew_contract::{RemoteItem, TypeRules};
use mew_model::{Number, Ontology, name};
use std::collections::{BTreeMap, BTreeSet};

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rules {
    /// Types that may go to the peer.
    pub export: BTreeSet<Number>,
    /// Types that may come from the peer.
    pub import: BTreeSet<Number>,
    grants: BTreeMap<Number, (Overwrite, Option<bool>)>,
}

impl Rules {
    pub fn new(r: &RemoteItem, o: &Ontology) -> Self {
        let allowed = |rules: &TypeRules| {
            let is_one_of = |n: Number| move |l: &[String]| o.is_one_of(n, l.iter().map(String::as_str));
            o.types().map(|t| t.number).filter(|n| rules.passes(is_one_of(*n))).collect::<BTreeSet<_>>()
        };
        let grants = o.types().filter_map(|t| Some((t.number, grant_for(&t.lineage, &t.name, &r.grants)?))).collect();
        Rules { export: allowed(&r.export), import: allowed(&r.import), grants }
    }

    /// What the peer may do to entities of the type that it did not introduce, and whether it may delete.
    pub fn grant(&self, ty: Number) -> (Overwrite, Option<bool>) {
        self.grants.get(&ty).copied().unwrap_or_default()
    }
}

/// The grant for the type itself, else for an ancestor, else for `*`.
fn grant_for(lineage: &BTreeSet<Number>, own: &str, grants: &[Grant]) -> Option<(Overwrite, Option<bool>)> {
    let pick = |g: &Grant| (g.overwrite_local, g.delete);
    let exact = grants.iter().find(|g| g.ty == own);
    let inherited = || grants.iter().find(|g| lineage.contains(&name::number(&g.ty)));
    let any = || grants.iter().find(|g| g.ty == "*");
    exact.or_else(inherited).or_else(any).map(pick)
}
