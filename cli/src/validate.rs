//! `mew validate`: everything that can be known about files without running anything.

use crate::out;
use anyhow::{Context, Result};
use clap::Args;
use mew_crds::manifest::{Object, read};
use mew_lang::{PatternText, Scope, check, parse_ontology, parse_script, render};
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

#[derive(Args)]
pub struct ValidateArgs {
    /// Manifests (.yaml), ontologies (.ontology) and statements (.mew)
    #[arg(required = true)]
    files: Vec<PathBuf>,
    /// Ontology that patterns and statements are checked against
    #[arg(long)]
    ontology: Option<PathBuf>,
}

pub fn run(a: &ValidateArgs) -> Result<ExitCode> {
    let colour = std::io::stderr().is_terminal();
    let ontology = match &a.ontology {
        None => None,
        Some(p) => {
            let text = text(p)?;
            match parse_ontology(&text) {
                Ok(o) => Some(o),
                Err(d) => {
                    eprintln!("{}", render(&p.display().to_string(), &text, &d, colour));
                    return Ok(ExitCode::FAILURE);
                }
            }
        }
    };
    let mut wrong = 0;
    for f in &a.files {
        let src = text(f)?;
        let name = f.display().to_string();
        let problems = match f.extension().and_then(|e| e.to_str()) {
            Some("ontology") => {
                parse_ontology(&src).err().map(|d| vec![render(&name, &src, &d, colour)]).unwrap_or_default()
            }
            Some("mew") => statements(&name, &src, ontology.as_ref(), colour),
            _ => manifests(&name, &src, ontology.as_ref(), colour),
        };
        if problems.is_empty() {
            out::line(format_args!("{name}: ok"));
        }
        for p in &problems {
            eprintln!("{p}");
        }
        wrong += problems.len();
    }
    Ok(if wrong == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn text(p: &Path) -> Result<String> {
    std::fs::read_to_string(p).with_context(|| p.display().to_string())
}

fn statements(name: &str, src: &str, o: Option<&mew_model::Ontology>, colour: bool) -> Vec<String> {
    let parsed = match parse_script(src) {
        Ok(s) => s,
        Err(d) => return vec![render(name, src, &d, colour)],
    };
    let Some(o) = o else { return Vec::new() };
    let mut scope = Scope::default();
    parsed.iter().filter_map(|s| check(o, &mut scope, s).err()).map(|d| render(name, src, &[d], colour)).collect()
}

fn manifests(name: &str, src: &str, o: Option<&mew_model::Ontology>, colour: bool) -> Vec<String> {
    let (objects, errors) = read(name, src);
    let mut out: Vec<String> = errors.iter().map(ToString::to_string).collect();
    for x in objects {
        let Object::Sync(s) = x else { continue };
        let at = format!("{name}: Sync {} spec.match", s.metadata.name.as_deref().unwrap_or("?"));
        match PatternText::parse(&s.spec.match_) {
            Err(d) => out.push(render(&at, &s.spec.match_, &d, colour)),
            Ok(p) => {
                if let Some(Err(d)) = o.map(|o| p.check(o)) {
                    out.push(render(&at, &s.spec.match_, &[d], colour));
                }
            }
        }
    }
    out
}
