//! The built-in types: what a kernel records about itself. They are read with MATCH like any node; nobody writes, links or
//! sends them.

use mew_model::ontology::{Attribute, Builder, Declared, Type};
use mew_model::value::Kind;
use mew_model::{Number, Ontology, name};
use std::sync::LazyLock;

/// Two versions that did not know of each other, and what became of them.
pub const CONFLICT: &str = "_SyncConflict";
/// An entity that arrived and cannot be applied yet.
pub const HELD: &str = "_Held";
/// A declared Remote as its link is now.
pub const REMOTE: &str = "_Remote";
/// A declared Sync as its flow is now.
pub const SYNC: &str = "_Sync";

static TYPES: [(&str, &[(&str, Kind)]); 4] = [
    (
        CONFLICT,
        &[
            ("sync_id", Kind::String),
            ("sync", Kind::String),
            ("remote", Kind::String),
            ("entity_type", Kind::String),
            ("local_version", Kind::String),
            ("remote_version", Kind::String),
            ("resolution", Kind::String),
            ("resolved_by", Kind::String),
            ("resolved_at", Kind::Timestamp),
        ],
    ),
    (
        HELD,
        &[
            ("sync_id", Kind::String),
            ("sync", Kind::String),
            ("source", Kind::String),
            ("entity_type", Kind::String),
            ("entity", Kind::String),
            ("reason", Kind::String),
            ("message", Kind::String),
            ("waits_for", Kind::String),
            ("since", Kind::Timestamp),
        ],
    ),
    (
        REMOTE,
        &[
            ("name", Kind::String),
            ("uri", Kind::String),
            ("trust_domain", Kind::String),
            ("status", Kind::String),
            ("reason", Kind::String),
            ("message", Kind::String),
            ("endpoint", Kind::String),
            ("incarnation", Kind::String),
            ("latency", Kind::Duration),
        ],
    ),
    (
        SYNC,
        &[
            ("name", Kind::String),
            ("remote", Kind::String),
            ("direction", Kind::String),
            ("pattern", Kind::String),
            ("status", Kind::String),
            ("reason", Kind::String),
            ("message", Kind::String),
            ("initial_percent", Kind::Int),
            ("lag", Kind::Duration),
            ("pending", Kind::Int),
            ("applied", Kind::Int),
            ("rejected", Kind::Int),
            ("held", Kind::Int),
            ("conflicts", Kind::Int),
        ],
    ),
];

static ONTOLOGY: LazyLock<Ontology> = LazyLock::new(|| {
    let declared = TYPES
        .iter()
        .map(|(ty, attrs)| Declared {
            name: (*ty).to_owned(),
            parents: Vec::new(),
            attrs: attrs.iter().map(|(n, kind)| attribute(n, *kind)).collect(),
            edge: None,
        })
        .collect();
    // The table has no problems; the language cases read every type of it.
    Builder { name: String::new(), declared }.build().unwrap_or_default()
});

/// Each may be unknown, and then it is null.
fn attribute(n: &str, kind: Kind) -> Attribute {
    Attribute {
        name: n.to_owned(),
        number: name::number(n),
        kind,
        nullable: true,
        required: false,
        unique_in: None,
        indexed_in: None,
        default: None,
        one_of: Vec::new(),
        min: None,
        max: None,
        length: None,
    }
}

pub fn get(name: &str) -> Option<&'static Type> {
    ONTOLOGY.get(name)
}

pub fn by_number(n: Number) -> Option<&'static Type> {
    ONTOLOGY.by_number(n)
}

pub fn types() -> impl Iterator<Item = &'static Type> {
    ONTOLOGY.types()
}

/// Whether only the kernel may give the name.
pub fn is_reserved(name: &str) -> bool {
    name.starts_with('_')
}
