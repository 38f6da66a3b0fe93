//! The table of manifests against a real API server: the schemas and the CEL rules say what the pure validation says.

#[path = "../../crds/tests/common/mod.rs"]
mod common;

use anyhow::{Result, ensure};
use common::{Case, Verdict, cases};
use mew_tests::apiserver::ApiServer;
use mew_tests::cluster::install_crds;
use serde_json::Value;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;

/// kubectls at once; each takes a tenth of a second.
const WORKERS: usize = 4;

/// What a person does: create it, or replace what exists. The answer is the object as the server has it.
fn submit(api: &ApiServer, c: &Case) -> Result<Value> {
    let new = c.manifest.to_string();
    let text = match &c.before {
        // Nothing is kept, so that cases do not meet.
        None => {
            api.kubectl_with(&["create", "--dry-run=server", "--validate=strict", "-o", "json", "-f", "-"], &new)?
        }
        Some(before) => {
            let before = api.kubectl_with(&["create", "--validate=strict", "-f", "-"], &before.to_string());
            before.map_err(|e| e.context("the object before"))?;
            api.kubectl_with(&["replace", "--validate=strict", "-o", "json", "-f", "-"], &new)?
        }
    };
    Ok(serde_json::from_str(&text)?)
}

fn check(api: &ApiServer, c: &Case) -> Result<()> {
    match (&c.verdict, submit(api, c)) {
        // Nothing is added to a spec either: a tool that applies it again sees no difference.
        (Verdict::Good, Ok(o)) => {
            ensure!(o["spec"] == c.manifest["spec"], "it came back as {}", o["spec"]);
            Ok(())
        }
        (Verdict::Good, Err(e)) => Err(e.context("it is good and was refused")),
        (Verdict::Refused { server, .. }, Ok(_)) => anyhow::bail!("it was accepted; expected {server:?}"),
        (Verdict::Refused { server, .. }, Err(e)) => {
            let text = format!("{e:#}");
            ensure!(!text.contains("the object before"), "{text}");
            ensure!(text.contains(server.as_str()), "it was refused by {text:?}, without {server:?}");
            Ok(())
        }
    }
}

#[test]
fn a_real_api_server_judges_the_table_as_the_pure_validation_does() -> Result<()> {
    let api = ApiServer::start("manifests")?;
    install_crds(&api)?;
    let all = cases();
    let (next, failures) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    thread::scope(|s| {
        for _ in 0..WORKERS {
            s.spawn(|| {
                while let Some(c) = all.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if let Err(e) = check(&api, c) {
                        let line = format!("{} {}: {e:#}", c.kind(), c.title);
                        failures.lock().unwrap_or_else(PoisonError::into_inner).push(line);
                    }
                }
            });
        }
    });
    let failures = failures.into_inner().unwrap_or_else(PoisonError::into_inner);
    ensure!(failures.is_empty(), "{} of {} cases:\n{}", failures.len(), all.len(), failures.join("\n"));
    let refused = all.iter().filter(|c| matches!(c.verdict, Verdict::Refused { .. })).count();
    ensure!(refused > 50 && all.len() - refused > 10, "the table is nearly empty: {refused} of {} refused", all.len());
    Ok(())
}
