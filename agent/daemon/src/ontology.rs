//! The ontology file: read at the start and held against what the store was written under, followed afterwards.

use crate::health::Health;
use anyhow::{Context, Result};
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
    /// What it said when that was taken. `None` if it could not be, and is in force for want of another one.
    pub text: Option<String>,
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
/// Where nobody knows that one, the file's is in force whatever is wrong with it, and that is said: who does not open reads
/// nothing.
pub fn open(
    path: &Path,
    (text, ontology): (String, Ontology),
    kernel: impl Fn(Ontology) -> Result<Kernel>,
) -> Result<(Kernel, File)> {
    let opened = kernel(ontology)?;
    let Some(Unfit { before, why, by_data }) = opened.adopt(&text, |e| {
        tracing::error!("the ontology that the store was written under cannot be read: {e}");
    }) else {
        return Ok((opened, File { path: path.to_owned(), text: Some(text), unfit: None }));
    };
    let Some((before, ontology)) = before else {
        // What the disk refuses is tried again by who follows the file.
        let unfit = by_data.then(|| {
            let why = why.join("; ");
            (text, format!("what is stored does not fit the ontology, which is in force all the same: {why}"))
        });
        return Ok((opened, File { path: path.to_owned(), text: None, unfit }));
    };
    // Two cannot have one store.
    drop(opened);
    let unfit = by_data.then(|| (text, refusal(&why)));
    Ok((kernel(ontology)?, File { path: path.to_owned(), text: Some(before), unfit }))
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
            Ok(text) if file.text.as_ref() == Some(&text) => None,
            Ok(text) => match file.unfit.as_ref().filter(|(unfit, _)| *unfit == text) {
                Some((_, why)) => Some(why.clone()),
                None => match take(&file.path, &text, &kernel) {
                    Ok(()) => {
                        tracing::info!("the ontology was updated");
                        (file.text, file.unfit) = (Some(text), None);
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
    use mew_store::{Fault, MemDisk, Options, Store};
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

    /// Followed, as by an agent, until it is dropped.
    struct Watched {
        hub: Arc<Hub>,
        health: Health,
        stop: CancellationToken,
    }

    impl Watched {
        fn new(file: File, k: &Arc<Kernel>) -> Self {
            let hub =
                Hub::new(k.clone(), HubConfig { agent_version: "test".into(), observer: None, clock_offset_ms: 0 });
            let w = Watched { hub, health: Health::new(), stop: CancellationToken::new() };
            tokio::spawn(watch(file, k.clone(), w.hub.clone(), w.health.clone(), w.stop.clone()));
            w
        }
    }

    impl Drop for Watched {
        fn drop(&mut self) {
            self.stop.cancel();
            self.hub.shutdown();
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
        let w = Watched::new(file, &k);
        let health = &w.health;
        until("it is said", || health.ontology_problem().is_some()).await;
        let why = health.ontology_problem().unwrap_or_default();
        for word in ["is refused and the old one stays", "attribute Task.n changed", "5 is above the range"] {
            assert!(why.contains(word), "{word:?} is not in {why:?}");
        }
        // Another file is followed as ever.
        fs::write(&path, MORE)?;
        until("what only adds is taken", || health.ontology_problem().is_none()).await;
        assert!(k.execute(NOW_MS, "MATCH t: Task RETURN t.more", &Params::new()).is_ok());
        Ok(())
    }

    /// There is nothing to go back to: of what is in the store nobody knows what it was written under. It is read all the same.
    #[tokio::test(flavor = "multi_thread")]
    async fn an_unknown_store_is_opened_under_what_it_does_not_fit_and_that_is_said() -> Result<()> {
        let (tmp, disk) = (tempfile::tempdir()?, MemDisk::new());
        let path = tmp.path().join("shop.ontology");
        let k = kernel(&disk, parse(&path, WIDE)?)?;
        assert!(!is_refused(&k, 5));
        drop(k);
        let (k, file) = start(&disk, &path, NARROW)?;
        assert!(k.execute(NOW_MS, "MATCH t: Task RETURN t.n", &Params::new()).is_ok_and(|done| done.rows.len() == 1));
        let w = Watched::new(file, &k);
        until("it is said", || w.health.ontology_problem().is_some()).await;
        let why = w.health.ontology_problem().unwrap_or_default();
        assert!(why.contains("which is in force all the same") && why.contains("5 is above the range"), "{why:?}");
        Ok(())
    }

    /// A store of before there were texts in it, on a disk that takes nothing: it serves reads, and the text is kept when it can be.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_text_that_a_full_disk_does_not_take_is_kept_later() -> Result<()> {
        let (tmp, disk) = (tempfile::tempdir()?, MemDisk::new());
        let path = tmp.path().join("shop.ontology");
        let full = || disk.set_fault(Fault { room: Some(0), ..Fault::default() });
        let k = kernel(&disk, parse(&path, WIDE)?)?;
        assert!(!is_refused(&k, 5));
        drop(k);
        fs::write(&path, WIDE)?;
        let (k, file) = open(&path, (WIDE.to_owned(), parse(&path, WIDE)?), |o| {
            let k = kernel(&disk, o)?;
            full();
            Ok(k)
        })?;
        let k = Arc::new(k);
        assert!(k.execute(NOW_MS, "MATCH t: Task RETURN t.n", &Params::new()).is_ok_and(|done| done.rows.len() == 1));
        let w = Watched::new(file, &k);
        let is_said = || w.health.ontology_problem().is_some_and(|why| why.contains("the disk is full"));
        until("it is said", is_said).await;
        disk.set_fault(Fault::default());
        until("it is kept", || w.health.ontology_problem().is_none()).await;
        full();
        assert!(k.adopt(WIDE, |e| panic!("{e}")).is_none(), "there is nothing to write any more");
        Ok(())
    }
}
