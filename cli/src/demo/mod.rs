//! `mew demo`: two kernels in two trust domains on this machine, as real processes, with real data.

mod check;
mod children;
mod story;

use anyhow::{Result, bail};
use clap::Args;
use std::path::PathBuf;
use std::process::ExitCode;

#[derive(Args)]
pub struct DemoArgs {
    /// End by itself; the exit code says whether everything arrived
    #[arg(long)]
    once: bool,
    /// Where data, state and logs go; a new temporary directory if absent
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
    let dir = match a.dir {
        Some(d) => d,
        None => std::env::temp_dir().join(format!("mew-demo-{}", std::process::id())),
    };
    std::fs::create_dir_all(&dir)?;
    let mut demo = story::Demo::new(dir.clone(), a.examples);
    let r = tokio::select! {
        r = demo.tell(a.once) => r,
        () = crate::process::terminated() => Ok(true),
    };
    demo.children.stop().await;
    match r {
        Ok(true) => {
            let _ = std::fs::remove_dir_all(&dir);
            Ok(ExitCode::SUCCESS)
        }
        Ok(false) => {
            eprintln!("logs are kept in {}", dir.display());
            Ok(ExitCode::FAILURE)
        }
        Err(e) => {
            eprintln!("logs are kept in {}", dir.display());
            Err(e)
        }
    }
}
