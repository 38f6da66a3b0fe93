//! Programs that Go builds, once, into the cache. What one was made from is beside it, as text: something else there means
//! to build again.

use crate::dirs::cache;
use crate::output::output_within;
use crate::process::progress;
use anyhow::{Context, Result};
use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// A slow machine with an empty module cache.
pub const BUILD: Duration = Duration::from_secs(3600);
/// The same sources give the same bytes.
pub const FLAGS: &str = "-trimpath -buildvcs=false";

/// A program that Go knows how to install by its name and version alone.
pub struct Module {
    pub name: &'static str,
    pub package: &'static str,
    pub version: &'static str,
    pub tags: &'static str,
    /// Besides those that leave out what only a debugger needs.
    pub ldflags: &'static str,
    /// On two cores with an empty cache.
    pub takes: &'static str,
}

impl Module {
    pub const fn new(name: &'static str, package: &'static str, version: &'static str, takes: &'static str) -> Self {
        Module { name, package, version, tags: "", ldflags: "", takes }
    }

    /// Everything that it is built from.
    pub fn recipe(&self) -> String {
        format!("{} {}@{} tags={} ldflags={} {FLAGS}", self.name, self.package, self.version, self.tags, self.ldflags)
    }

    /// The program in this directory, installed if it is not there.
    pub fn installed(&self, bin: &Path) -> Result<PathBuf> {
        built_once(bin, self.name, &self.recipe(), self.takes, |part| {
            // `go install` of a version knows no name for its result but the package's.
            let dir = part.with_extension("install");
            let mut c = go(bin, FLAGS);
            c.env("GOBIN", &dir).args(["install", "-tags", self.tags, "-ldflags", &format!("-s -w {}", self.ldflags)]);
            c.arg(format!("{}@{}", self.package, self.version));
            finish(c)?;
            let name = self.package.rsplit('/').next().unwrap_or(self.package);
            fs::rename(dir.join(name), part)?;
            Ok(fs::remove_dir(dir)?)
        })
    }
}

/// A program of a Go module of this repository, whose go.mod pins everything that it is built from. `program` is its name, its
/// package, and how long it takes on two cores with an empty cache.
pub fn built_of(module: &Path, bin: &Path, ldflags: &str, program: (&str, &str, &str)) -> Result<PathBuf> {
    let (name, package, takes) = program;
    let flags = format!("{FLAGS} -mod=readonly");
    let recipe = format!("{flags}\n{ldflags}\n{}", fs::read_to_string(module.join("go.mod"))?);
    built_once(bin, name, &recipe, takes, |part| {
        let mut c = go(module, &flags);
        c.args(["build", "-ldflags", ldflags, "-o"]).arg(part).arg(package);
        finish(c)
    })
}

/// A directory of the cache for programs.
pub fn directory(name: &str) -> Result<PathBuf> {
    let dir = cache()?.join(name);
    fs::create_dir_all(&dir).with_context(|| dir.display().to_string())?;
    Ok(dir)
}

/// Go without arguments, in a directory.
pub fn go(dir: &Path, flags: &str) -> Command {
    let mut c = Command::new("go");
    c.current_dir(dir).env("CGO_ENABLED", "0").env("GOFLAGS", flags).env("GOTOOLCHAIN", "local");
    c
}

/// Runs Go to its end.
pub fn finish(c: Command) -> Result<()> {
    let why = "Go is needed, or KUBEBUILDER_ASSETS and MEW_HELM must name what it would build";
    output_within(c, "", BUILD).map(drop).context(why)
}

/// Whether the program is there, and of this recipe.
pub fn is_built(bin: &Path, name: &str, recipe: &str) -> bool {
    bin.join(name).exists() && fs::read_to_string(stamp(bin, name)).is_ok_and(|r| r == recipe)
}

fn stamp(bin: &Path, name: &str) -> PathBuf {
    bin.join(format!("{name}.recipe"))
}

/// A program of this directory, made by `build` in the file that it is told, unless it is there already. Only one process
/// builds at a time.
pub fn built_once(
    bin: &Path,
    name: &str,
    recipe: &str,
    takes: &str,
    build: impl FnOnce(&Path) -> Result<()>,
) -> Result<PathBuf> {
    let exe = bin.join(name);
    if is_built(bin, name, recipe) {
        return Ok(exe);
    }
    let lock = File::create(bin.join("lock"))?;
    match lock.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            progress("waiting for programs that another process builds …");
            lock.lock()?;
        }
        Err(TryLockError::Error(e)) => return Err(e.into()),
    }
    // That one may have built it.
    if !is_built(bin, name, recipe) {
        progress(&format!("building {name} (once, about {takes}) …"));
        // A process that was killed while it built must leave no half a binary.
        let part = bin.join(format!("{name}.part"));
        build(&part).with_context(|| format!("{name} cannot be built"))?;
        fs::rename(&part, &exe).with_context(|| part.display().to_string())?;
        fs::write(stamp(bin, name), recipe)?;
    }
    Ok(exe)
}
