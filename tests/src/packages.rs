//! Programs of the system's packages, installed where they are missing and that may be done.

use crate::process::{progress, run};
use anyhow::{Context, Result, ensure};
use std::env;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

/// To fetch and unpack, over a slow line.
const LIMIT: Duration = Duration::from_secs(300);
/// Another program may be installing too.
const LOCK: &str = "DPkg::Lock::Timeout=300";
/// Where servers are, which is not in everybody's PATH.
const SERVERS: [&str; 2] = ["/usr/sbin", "/sbin"];

/// A program of a package; the variable names another one.
pub fn program(name: &str, package: &str, variable: &str) -> Result<PathBuf> {
    if let Some(given) = env::var_os(variable).filter(|v| !v.is_empty()) {
        return Ok(given.into());
    }
    if let Some(there) = find(name) {
        return Ok(there);
    }
    install(package, variable)?;
    find(name).with_context(|| format!("{package} was installed, and {name} is not found; name it by {variable}"))
}

/// Installs a package, which only root may; the variable is what else can be done.
pub fn install(package: &str, variable: &str) -> Result<()> {
    let otherwise = format!("install it, or name what is to be used by {variable}");
    ensure!(rustix::process::geteuid().is_root(), "{package} is not here; {otherwise}");
    progress(&format!("installing the system's {package} (once) …"));
    let added = ["install", "-y", "--no-install-recommends", package];
    if apt(&added).is_ok() {
        return Ok(());
    }
    // A fresh machine knows of no packages, and an old one of versions that are gone.
    progress("apt-get update, and once more …");
    apt(&["update"]).and_then(|()| apt(&added)).with_context(|| format!("{package} cannot be installed; {otherwise}"))
}

fn apt(args: &[&str]) -> Result<()> {
    let mut c = Command::new("apt-get");
    c.env("DEBIAN_FRONTEND", "noninteractive").args(["-o", LOCK]).args(args);
    let out = run(c, "", LIMIT)?;
    ensure!(out.status.success(), "apt-get: {}", String::from_utf8_lossy(&out.stderr).trim());
    Ok(())
}

fn find(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let dirs = env::split_paths(&path).chain(SERVERS.iter().map(PathBuf::from));
    dirs.map(|d| d.join(name)).find(|p| p.is_file())
}
