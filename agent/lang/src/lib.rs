//! MEW text → syntax tree → checked plan, with diagnostics that point at the source.
//!
//! Pure: nothing is opened and no clock is read. `parse` knows only the text, `check` also the ontology; `eval` computes
//! checked expressions over whatever the caller binds to the variables.

pub mod ast;
pub mod check;
pub mod diagnostic;
pub mod eval;
mod keywords;
pub mod lexer;
pub mod ontology;
pub mod parser;
pub mod pattern;
pub mod plan;
pub mod system;

pub use check::{Scope, check};
pub use diagnostic::{Diagnostic, render};
pub use ontology::parse_ontology;
pub use parser::parse_script;
pub use pattern::{Pattern, PatternText};
