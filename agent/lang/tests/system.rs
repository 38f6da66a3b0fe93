//! Names that begin with `_` are the kernel's: no ontology declares them, and no Sync sends what they name.

use mew_lang::{PatternText, parse_ontology, system};

fn refused(ontology: &str) -> String {
    match parse_ontology(ontology) {
        Ok(_) => panic!("accepted: {ontology}"),
        Err(d) => d.iter().map(|d| d.message.as_str()).collect::<Vec<_>>().join("; "),
    }
}

#[test]
fn an_ontology_cannot_declare_reserved_names() {
    for ontology in ["node _Held {}", "node _Mine {}", "node T { _id: String }"] {
        let why = refused(ontology);
        assert!(why.contains("names that begin with _ are reserved"), "{ontology}: {why}");
    }
    for ontology in ["node T: _Held {}", "node T {} edge e(a: T, b: _Held)"] {
        let why = refused(ontology);
        assert!(why.contains("unknown"), "{ontology}: {why}");
    }
}

#[test]
fn a_sync_cannot_name_a_system_type() {
    for ty in system::types() {
        for pattern in [format!("r: {}", ty.name), format!("x: any WHERE x: {}", ty.name)] {
            let why = PatternText::parse(&pattern).expect_err("system records never sync");
            assert!(why.iter().any(|d| d.message.contains("system records never sync")), "{pattern}: {why:?}");
        }
    }
    assert!(PatternText::parse("_: any").is_ok());
}

#[test]
fn every_system_type_is_there_and_has_attributes() {
    for name in [system::CONFLICT, system::HELD, system::REMOTE, system::SYNC] {
        let t = system::get(name).expect("it is built in");
        assert!(t.edge.is_none() && !t.attrs.is_empty() && system::by_number(t.number).is_some(), "{t:?}");
    }
}
