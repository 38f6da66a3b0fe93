//! `mew crds`

use crate::out;
use anyhow::{Context, Result};
use clap::Args;
use std::path::PathBuf;

#[derive(Args)]
pub struct CrdArgs {
    /// Write one file per kind into this directory instead of printing
    #[arg(long)]
    write: Option<PathBuf>,
}

pub fn run(a: &CrdArgs) -> Result<()> {
    let all: Vec<_> =
        mew_crds::generate::definitions().into_iter().map(|(n, c)| (n, mew_crds::generate::yaml(&c))).collect();
    match &a.write {
        None => out::text(all.into_iter().map(|(_, y)| y).collect::<Vec<_>>().join("---\n")),
        Some(dir) => {
            std::fs::create_dir_all(dir).with_context(|| dir.display().to_string())?;
            for (name, yaml) in all {
                let path = dir.join(name);
                std::fs::write(&path, yaml).with_context(|| path.display().to_string())?;
            }
        }
    }
    Ok(())
}
