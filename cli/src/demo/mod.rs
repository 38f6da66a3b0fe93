//! `mew demo`: two kernels in two trust domains on this machine, as real processes, with real data.

mod check;
mod children;
mod story;

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use std::path::PathBuf;
use std::process::ExitCode;

#[derive(Args)]
pub struct DemoArgs {
    /// End by itself; the exit code says whether everything arrived
    #[arg(long)]
    once: bool,
    /// An empty directory where data, state and logs go, and stay; absent, a temporary one that goes if all was well
    #[arg(long)]
    dir: Option<PathBuf>,
    /// The folder with manifests, ontology and data
    #[arg(long, default_value = "examples/airports")]
    examples: PathBuf,
    #[arg(long, hide = true)]
    die_with: Option<u32>,
}

pub async fn run(a: DemoArgs) -> Result<ExitCode> {
    crate::process::die_with(a.die_with)?;
    if !a.examples.join("us-east").is_dir() {
        bail!(
            "{} has no manifests; run this from the repository, or name the folder with --examples",
            a.examples.display()
        );
    }
    let (dir, is_temporary) = match a.dir {
        Some(d) => (d, false),
        None => (std::env::temp_dir().join(format!("mew-demo-{}", std::process::id())), true),
    };
    let named = || dir.display().to_string();
    std::fs::create_dir_all(&dir).with_context(named)?;
    // It begins with nothing: what another demo left would be in its way.
    let is_empty = std::fs::read_dir(&dir).with_context(named)?.next().is_none();
    ensure!(is_empty, "{} is not empty; name another directory by --dir, or leave it out", dir.display());
    let mut demo = story::Demo::new(dir.clone(), a.examples);
    let r = tokio::select! {
        r = demo.tell(a.once) => r,
        () = crate::process::terminated() => Ok(true),
    };
    demo.children.stop().await;
    match r {
        Ok(true) => {
            if is_temporary {
                let _ = std::fs::remove_dir_all(&dir);
            }
            Ok(ExitCode::SUCCESS)
        }
        Ok(false) => {
            eprintln!("logs are kept in {}", dir.display());
            Ok(ExitCode::FAILURE)
        }
        Err(e) => {
            // An empty one goes: nothing was started.
            if std::fs::remove_dir(&dir).is_err() {
                eprintln!("logs are kept in {}", dir.display());
            }
            Err(e)
        }
    }
}
