//! The ontology file: read at the start and held against what the store was written under, followed afterwards.

use crate::health::Health;
use anyhow::{Context, Result, bail};
use mew_kernel::{Kernel, Unfit};
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
    /// What it said at the start, if the data does not fit that, and why: only another start looks at the data again.
    unfit: Option<(String, String)>,
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

/// Opens a kernel under the ontology of the file, or under the one that it had before if what it holds does not fit the file's.
pub fn open(
    path: &Path,
    (text, ontology): (String, Ontology),
    kernel: impl Fn(Ontology) -> Result<Kernel>,
) -> Result<(Kernel, File)> {
    let opened = kernel(ontology)?;
    let Some(Unfit { before, why, by_data }) = opened.adopt(&text)? else {
        return Ok((opened, File { path: path.to_owned(), text, unfit: None }));
    };
    let Some((before, ontology)) = before else {
        bail!("the ontology {} cannot be taken: {}", path.display(), why.join("; "));
    };
    // Two cannot have one store.
    drop(opened);
    let unfit = by_data.then(|| (text, refusal(&why)));
    Ok((kernel(ontology)?, File { path: path.to_owned(), text: before, unfit }))
}

fn refusal(why: &[String]) -> String {
    format!("the new ontology is refused and the old one stays: {}", why.join("; "))
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
            Ok(text) => match file.unfit.as_ref().filter(|(unfit, _)| *unfit == text) {
                Some((_, why)) => Some(why.clone()),
                None => match take(&file.path, &text, &kernel) {
                    Ok(()) => {
                        tracing::info!("the ontology was updated");
                        (file.text, file.unfit) = (text, None);
                        tokio::task::block_in_place(|| hub.refresh());
                        None
                    }
                    Err(e) => Some(format!("{e:#}")),
                },
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
    tokio::task::block_in_place(|| kernel.set_ontology(text, ontology)).map_err(|why| anyhow::anyhow!(refusal(&why)))
}

#[cfg(test)]
mod tests {
    use super::{File, open, parse, watch};
    use crate::health::Health;
    use anyhow::Result;
    use mew_kernel::{Kernel, Params};
    use mew_model::Ontology;
    use mew_net::{Hub, HubConfig};
    use mew_store::{MemDisk, Options, Store};
    use std::fs;
    use std::path::Path;
    use std::sync::Arc;
    use std::time::{Duration, Instant};
    use tokio_util::sync::CancellationToken;

    const WIDE: &str = "node Task { n: Int? [1..9] }";
    const NARROW: &str = "node Task { n: Int? [1..4] }";
    const MORE: &str = "node Task { n: Int? [1..9] more: Int? }";
    const NOW_MS: u64 = 1_700_000_000_000;
    /// The file is looked at every two seconds; this is for a machine that is busy with something else.
    const PATIENCE: Duration = Duration::from_secs(60);

    fn kernel(disk: &MemDisk, o: Ontology) -> Result<Kernel> {
        let options =
            Options { kernel_id: "plant.here".into(), new_incarnation: "here-1".into(), segment_bytes: 1 << 20 };
        Ok(Kernel::new(Store::open(Arc::new(disk.clone()), Arc::new(o), options)?.0))
    }

    /// As an agent starts, with this in the file.
    fn start(disk: &MemDisk, path: &Path, text: &str) -> Result<(Arc<Kernel>, File)> {
        fs::write(path, text)?;
        let given = (text.to_owned(), parse(path, text)?);
        open(path, given, |o| kernel(disk, o)).map(|(k, file)| (Arc::new(k), file))
    }

    fn is_refused(k: &Kernel, n: u32) -> bool {
        k.execute(NOW_MS, &format!("SPAWN Task {{n = {n}}}"), &Params::new()).is_err()
    }

    async fn until(what: &str, mut look: impl FnMut() -> bool) {
        let end = Instant::now() + PATIENCE;
        while !look() {
            assert!(Instant::now() < end, "{what}: not after {PATIENCE:?}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_start_with_an_ontology_that_the_data_does_not_fit_goes_on_with_the_old_one() -> Result<()> {
        let (tmp, disk) = (tempfile::tempdir()?, MemDisk::new());
        let path = tmp.path().join("shop.ontology");
        {
            let (k, _) = start(&disk, &path, WIDE)?;
            assert!(!is_refused(&k, 5) && is_refused(&k, 10));
        }
        let (k, file) = start(&disk, &path, NARROW)?;
        assert!(!is_refused(&k, 9), "the old one is in force");
        let hub = Hub::new(k.clone(), HubConfig { agent_version: "test".into(), observer: None, clock_offset_ms: 0 });
        let (health, stop) = (Health::new(), CancellationToken::new());
        tokio::spawn(watch(file, k.clone(), hub.clone(), health.clone(), stop.clone()));
        until("it is said", || health.ontology_problem().is_some()).await;
        let why = health.ontology_problem().unwrap_or_default();
        for word in ["is refused and the old one stays", "attribute Task.n changed", "5 is above the range"] {
            assert!(why.contains(word), "{word:?} is not in {why:?}");
        }
        // Another file is followed as ever.
        fs::write(&path, MORE)?;
        until("what only adds is taken", || health.ontology_problem().is_none()).await;
        assert!(k.execute(NOW_MS, "MATCH t: Task RETURN t.more", &Params::new()).is_ok());
        stop.cancel();
        hub.shutdown();
        Ok(())
    }

    /// There is nothing to go back to: of what is in the store nobody knows what it was written under.
    #[test]
    fn an_unknown_store_is_not_opened_under_what_it_does_not_fit() -> Result<()> {
        let (tmp, disk) = (tempfile::tempdir()?, MemDisk::new());
        let path = tmp.path().join("shop.ontology");
        let k = kernel(&disk, parse(&path, WIDE)?)?;
        assert!(!is_refused(&k, 5));
        drop(k);
        let why = start(&disk, &path, NARROW).err().map(|e| format!("{e:#}")).unwrap_or_default();
        assert!(why.contains("cannot be taken") && why.contains("5 is above the range"), "{why:?}");
        assert!(start(&disk, &path, WIDE).is_ok(), "the data fits this one");
        Ok(())
    }
}
