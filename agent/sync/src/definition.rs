//! What a flow sends: its pattern, the types that both ends allow, and whether edges come along.

use mew_contract::{Problem, Reason};
use mew_lang::pattern::{Pattern, PatternText};
use mew_model::{EntityRef, Number, Ontology, name};
use mew_wire as wire;
use std::collections::BTreeSet;

#[derive(Clone, Debug, PartialEq)]
pub struct Definition {
    pub text: String,
    pub pattern: Pattern,
    /// Types that may travel, and those of the other ends of edges: an edge goes only if the peer may know both ends.
    pub types: BTreeSet<Number>,
    pub edges: bool,
    /// Another one makes a new revision of the same definition: everything is gone through again.
    pub generation: u64,
}

impl Definition {
    /// Parses and checks a pattern against this kernel's ontology; the types are narrowed afterwards.
    pub fn new(text: &str, edges: bool, o: &Ontology) -> Result<Self, Problem> {
        let parsed = PatternText::parse(text).map_err(|d| {
            let all: Vec<String> = d.iter().map(|d| d.message.clone()).collect();
            Problem::new(Reason::InvalidPattern, format!("{text:?}: {}", all.join("; ")))
        })?;
        let pattern = parsed.check(o).map_err(|d| {
            let hint = d.suggestion.as_deref().map(|s| format!("; did you mean {s}?")).unwrap_or_default();
            Problem::new(Reason::TypeUnknown, format!("{text:?}: {}{hint}", d.message))
        })?;
        let mut types: BTreeSet<Number> = match &pattern.types {
            Some(t) => t.clone(),
            None => o.types().filter(|t| t.edge.is_none()).map(|t| t.number).collect(),
        };
        if edges {
            let own = types.clone();
            for t in o.types() {
                let Some(e) = &t.edge else { continue };
                let ends: Vec<BTreeSet<Number>> = e.params.iter().map(|p| end_types(o, p.ty.as_deref())).collect();
                if ends.iter().any(|e| !e.is_disjoint(&own)) {
                    types.insert(t.number);
                    types.extend(ends.into_iter().flatten());
                }
            }
        }
        Ok(Definition { text: text.to_owned(), types, pattern, edges, generation: 0 })
    }

    /// Leaves only types that are also in `allowed`.
    pub fn narrow(&mut self, allowed: &BTreeSet<Number>) {
        self.types.retain(|t| allowed.contains(t));
    }

    /// Node types that can match; the others in `types` come along by edges.
    pub fn matching_types(&self, o: &Ontology) -> BTreeSet<Number> {
        let node = |t: &Number| o.by_number(*t).is_some_and(|t| t.edge.is_none());
        self.types
            .iter()
            .copied()
            .filter(|t| node(t) && self.pattern.types.as_ref().is_none_or(|p| p.contains(t)))
            .collect()
    }

    pub fn type_names(&self, o: &Ontology) -> Vec<String> {
        let mut all: Vec<String> = self.types.iter().map(|t| o.type_name(*t)).collect();
        all.sort();
        all
    }

    /// Identifies what is sent: two flows with the same revision send the same entities.
    pub fn revision(&self) -> String {
        let types: Vec<String> = self.types.iter().map(|t| format!("{t:08x}")).collect();
        let all = format!("{}\n{}\n{}\n{}", self.text, self.edges, types.join(" "), self.generation);
        name::hex_digest(all.as_bytes())[..16].to_owned()
    }

    pub fn matches(&self, e: &EntityRef<'_>, o: &Ontology) -> bool {
        self.types.contains(&e.ty) && self.pattern.matches(e, o)
    }

    pub fn to_wire(&self, o: &Ontology) -> wire::FlowDefinition {
        let (types, generation) = (self.type_names(o), self.generation);
        wire::FlowDefinition { r#match: self.text.clone(), edges: self.edges, types, generation }
    }

    pub fn from_wire(d: &wire::FlowDefinition, o: &Ontology) -> Option<Self> {
        let mut out = Definition::new(&d.r#match, d.edges, o).ok()?;
        out.narrow(&d.types.iter().map(|t| name::number(t)).collect());
        out.generation = d.generation;
        Some(out)
    }
}

fn end_types(o: &Ontology, ty: Option<&str>) -> BTreeSet<Number> {
    match ty {
        Some(t) => o.with_subtypes(name::number(t)),
        None => o.types().filter(|t| t.edge.is_none()).map(|t| t.number).collect(),
    }
}
