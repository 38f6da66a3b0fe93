//! `mew validate`: everything that can be known about files without running anything.

use crate::out;
use anyhow::{Context, Result, ensure};
use clap::Args;
use mew_crds::manifest::{Object, read};
use mew_lang::{PatternText, Scope, check, parse_ontology, parse_script, render};
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

#[derive(Args)]
pub struct ValidateArgs {
    /// Manifests (.yaml), ontologies (.ontology) and statements (.mew), or directories of them
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
    for f in &files(&a.files)? {
        let src = text(f)?;
        let name = f.display().to_string();
        let mut good = "ok";
        let problems = match f.extension().and_then(|e| e.to_str()) {
            Some("ontology") => {
                parse_ontology(&src).err().map(|d| vec![render(&name, &src, &d, colour)]).unwrap_or_default()
            }
            Some("mew") => statements(&name, &src, ontology.as_ref(), colour),
            _ => {
                let (problems, objects) = manifests(&name, &src, ontology.as_ref(), colour);
                if objects == 0 {
                    // A kind or an apiVersion that is misspelt is nobody's here.
                    good = "no Remote, Sync, FederationPolicy or ConfigMap is in it";
                }
                problems
            }
        };
        if problems.is_empty() {
            out::line(format_args!("{name}: {good}"));
        }
        for p in &problems {
            eprintln!("{p}");
        }
        wrong += problems.len();
    }
    Ok(if wrong == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// What can be checked: of a directory, its files that are not hidden.
fn files(given: &[PathBuf]) -> Result<Vec<PathBuf>> {
    let mut all = Vec::new();
    for g in given {
        if !g.is_dir() {
            all.push(g.clone());
            continue;
        }
        let mut found = Vec::new();
        for entry in std::fs::read_dir(g).with_context(|| g.display().to_string())? {
            let path = entry.with_context(|| g.display().to_string())?.path();
            if is_checked(&path) {
                found.push(path);
            }
        }
        ensure!(!found.is_empty(), "{} has no file in it that ends with .yaml, .yml, .ontology or .mew", g.display());
        found.sort();
        all.extend(found);
    }
    Ok(all)
}

fn is_checked(p: &Path) -> bool {
    let is_hidden = p.file_name().and_then(|n| n.to_str()).is_none_or(|n| n.starts_with('.'));
    let end = p.extension().and_then(|e| e.to_str()).unwrap_or("");
    !is_hidden && ["yaml", "yml", "ontology", "mew"].contains(&end)
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

/// What is wrong, and how many objects could be read.
fn manifests(name: &str, src: &str, o: Option<&mew_model::Ontology>, colour: bool) -> (Vec<String>, usize) {
    let (objects, errors) = read(name, src);
    let mut out: Vec<String> = errors.iter().map(ToString::to_string).collect();
    let n = objects.len();
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
    (out, n)
}
