//! `mew store`: what is kept on disk, as a whole: copied, looked at, made smaller.

mod backup;
mod dump;

use crate::out;
use anyhow::{Context, Result};
use clap::{Args, Subcommand};
use mew_agent::descriptors;
use mew_agent::offline::{self, explain_busy, log_of};
use mew_store::ReadOnlyDir;
use mew_store::inspect::{Report, check};
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

#[derive(Subcommand)]
pub enum StoreCommand {
    /// Read every byte of a stopped agent's log, and list what is damaged
    Check(DataArgs),
    /// Print what a stopped agent's log holds as JSON, one record a line, also if it is damaged
    Dump(dump::DumpArgs),
    /// Rewrite a stopped agent's log without what is replaced
    Compact(CompactArgs),
    /// Copy a running agent's log as it is now into a tar archive
    Backup(backup::BackupArgs),
    /// Make a data directory of a backup
    Restore(RestoreArgs),
}

#[derive(Args)]
pub struct DataArgs {
    /// Data directory
    #[arg(long, env = "MEW_DATA")]
    data: PathBuf,
}

#[derive(Args)]
pub struct CompactArgs {
    /// Data directory
    #[arg(long, env = "MEW_DATA")]
    data: PathBuf,
    /// The ontology, a file
    #[arg(long, env = "MEW_ONTOLOGY")]
    ontology: PathBuf,
}

#[derive(Args)]
pub struct RestoreArgs {
    /// The backup, or `-` for standard input
    file: PathBuf,
    /// Data directory to make; nothing may be in its log
    #[arg(long, env = "MEW_DATA")]
    data: PathBuf,
    /// Keep a log that is there beside the new one, as `log.old-1`, instead of refusing
    #[arg(long)]
    set_aside: bool,
}

pub async fn run(c: StoreCommand) -> Result<ExitCode> {
    descriptors::raise_limit();
    // All but one read and write files, and nothing else goes on.
    let work: Box<dyn FnOnce() -> Result<ExitCode> + Send> = match c {
        StoreCommand::Backup(a) => return backup::run(a).await.map(|()| ExitCode::SUCCESS),
        StoreCommand::Check(a) => Box::new(move || check_log(&a.data)),
        StoreCommand::Dump(a) => Box::new(move || dump::run(&a)),
        StoreCommand::Compact(a) => Box::new(move || compact(&a)),
        StoreCommand::Restore(a) => Box::new(move || restore(&a)),
    };
    tokio::task::spawn_blocking(work).await?.map_err(explain_busy)
}

fn check_log(data: &Path) -> Result<ExitCode> {
    let r = check(&ReadOnlyDir::new(log_of(data)?))?;
    out::line(describe(&r));
    r.damages.iter().for_each(out::line);
    if let Some(t) = &r.torn {
        out::line(format_args!("{t} (a crash leaves this, and the next start cuts it off)"));
    }
    match r.damages.len() {
        0 => Ok(ExitCode::SUCCESS),
        n => {
            eprintln!("{n} damaged; `mew store dump` prints what can be read, a backup or another kernel has the rest");
            Ok(ExitCode::FAILURE)
        }
    }
}

fn describe(r: &Report) -> String {
    let whose = match (&r.kernel_id, &r.incarnation) {
        (Some(k), Some(i)) => format!("kernel {k}, incarnation {i}"),
        _ => "no kernel yet".to_owned(),
    };
    format!(
        "{whose}: {} segments with {} bytes, {} commits, {} records, {} entities, up to seq {}",
        r.segments, r.bytes, r.commits, r.records, r.entities, r.last_seq
    )
}

fn compact(a: &CompactArgs) -> Result<ExitCode> {
    let c = offline::compact(&a.data, &a.ontology)?;
    let k = c.kept;
    eprintln!(
        "{} segments rewritten, {} tombstones forgotten: {} bytes, and {} before",
        k.rewritten, k.forgotten, c.after, c.before
    );
    Ok(ExitCode::SUCCESS)
}

fn restore(a: &RestoreArgs) -> Result<ExitCode> {
    let from: Box<dyn Read> = match a.file.to_str() {
        Some("-") => Box::new(io::stdin().lock()),
        _ => Box::new(File::open(&a.file).with_context(|| a.file.display().to_string())?),
    };
    let r = offline::restore(from, &a.data, a.set_aside)?;
    let m = &r.manifest;
    eprintln!(
        "kernel {} up to seq {} is in {}, as incarnation {} (the backup is of {})",
        m.kernel_id,
        m.head,
        a.data.display(),
        r.incarnation,
        m.incarnation
    );
    if let Some(old) = &r.set_aside {
        eprintln!("the log that was there is {} now; nothing removes it", old.display());
    }
    eprintln!("peers that it sends to will say SourceReset until a reset is requested: see docs/operations.md");
    Ok(ExitCode::SUCCESS)
}
