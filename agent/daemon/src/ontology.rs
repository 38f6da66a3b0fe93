//! The ontology file: read at the start, followed afterwards.

use crate::health::Health;
use anyhow::{Context, Result};
use mew_kernel::Kernel;
use mew_lang::{parse_ontology, render};
use mew_model::Ontology;
use mew_net::Hub;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// How often the file is looked at; mounted files change by a swapped link, which file events miss.
const POLL: Duration = Duration::from_secs(2);

/// The file, and what of it is in force.
pub struct File {
    pub path: PathBuf,
    pub text: String,
}

pub fn read(path: &Path) -> Result<(String, Ontology)> {
    let text = text(path)?;
    let ontology = parse(path, &text)?;
    Ok((text, ontology))
}

fn text(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).with_context(|| format!("the ontology {} cannot be read", path.display()))
}

fn parse(path: &Path, text: &str) -> Result<Ontology> {
    parse_ontology(text).map_err(|d| {
        anyhow::anyhow!("the ontology is wrong:\n{}", render(&path.display().to_string(), text, &d, false))
    })
}

/// Follows changes of the file: additive ones apply, others are refused by name and the old one stays. What is refused is
/// tried again, as it may be for the disk that it was.
pub async fn watch(
    mut file: File,
    kernel: Arc<Kernel>,
    hub: Arc<Hub>,
    health: Health,
    stop: CancellationToken,
) -> Result<()> {
    let mut tick = tokio::time::interval(POLL);
    loop {
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            _ = tick.tick() => {}
        }
        let was = health.ontology_problem();
        let problem = match text(&file.path) {
            // Also after something else that was refused.
            Ok(text) if text == file.text => None,
            Ok(text) => match take(&file.path, &text, &kernel) {
                Ok(()) => {
                    tracing::info!("the ontology was updated");
                    file.text = text;
                    tokio::task::block_in_place(|| hub.refresh());
                    None
                }
                Err(e) => Some(format!("{e:#}")),
            },
            // A mounted file is away for a moment while it is replaced.
            Err(_) if !file.path.exists() => was.clone(),
            Err(e) => Some(format!("{e:#}")),
        };
        // Once, not at every look.
        if let Some(why) = problem.as_ref().filter(|_| problem != was) {
            tracing::error!("{why}");
        }
        health.set_ontology_problem(problem);
    }
}

fn take(path: &Path, text: &str, kernel: &Kernel) -> Result<()> {
    let ontology = parse(path, text)?;
    // It may build indexes.
    tokio::task::block_in_place(|| kernel.set_ontology(ontology))
        .map_err(|why| anyhow::anyhow!("the new ontology is refused and the old one stays: {}", why.join("; ")))
}
