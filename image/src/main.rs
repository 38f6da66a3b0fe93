//! `cargo run -p mew-image`: the container image of `mew`, without an engine.

use anyhow::{Context, Result};
use clap::Parser;
use mew_image::{archive, compile, digest, sbom, single_binary};
use std::path::PathBuf;

#[derive(Parser)]
#[command(about = "Writes the container image of mew: an archive for `podman load`, `docker load` and `kind load`")]
struct Args {
    /// The archive
    #[arg(long, default_value = "mew.tar")]
    out: PathBuf,
    /// Name and version; without a host it is `localhost`
    #[arg(long, default_value = "mew:dev")]
    tag: String,
    /// What is in the image, as CycloneDX; beside the archive if absent
    #[arg(long)]
    sbom: Option<PathBuf>,
    /// A static binary that is there already, instead of building one
    #[arg(long)]
    binary: Option<PathBuf>,
}

fn main() -> Result<()> {
    let a = Args::parse();
    let binary = match &a.binary {
        Some(given) => given.clone(),
        None => compile::build("mew-cli", "mew")?,
    };
    let image = single_binary(&binary, "mew", &a.tag)?;
    let written = archive::write(&image, &a.out)?;
    let contents = sbom::of("mew-cli", &digest(&std::fs::read(&binary)?), a.binary.is_none())?;
    let beside = a.sbom.unwrap_or_else(|| a.out.with_extension("cdx.json"));
    let text = serde_json::to_string_pretty(&contents)? + "\n";
    std::fs::write(&beside, text).with_context(|| beside.display().to_string())?;
    println!("{} {}", image.name, written.manifest);
    println!(
        "{}: {:.1} MB, unpacked {:.1} MB; contents: {}",
        a.out.display(),
        written.archive_bytes as f64 / 1e6,
        image.layer.len() as f64 / 1e6,
        beside.display()
    );
    Ok(())
}
