//! Where things are: the project, the build, the cache, and a directory for each test.

use anyhow::{Context, Result, bail};
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// The workspace.
pub fn root() -> &'static Path {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here)
}

/// `target/debug` or `target/release`, whichever the running test was built into.
pub fn build() -> Result<PathBuf> {
    let exe = std::env::current_exe()?;
    let dir = exe.parent().context("the test has no directory")?;
    let dir = if dir.ends_with("deps") { dir.parent().unwrap_or(dir) } else { dir };
    Ok(dir.to_owned())
}

/// What is kept between runs and between checkouts.
pub fn cache() -> Result<PathBuf> {
    let given = |v: &str| std::env::var_os(v).filter(|x| !x.is_empty()).map(PathBuf::from);
    let dir = given("MEW_CACHE")
        .or_else(|| Some(given("XDG_CACHE_HOME")?.join("mew-federation")))
        .or_else(|| Some(given("HOME")?.join(".cache/mew-federation")))
        .context("none of MEW_CACHE, XDG_CACHE_HOME and HOME is set")?;
    fs::create_dir_all(&dir).with_context(|| dir.display().to_string())?;
    Ok(dir)
}

/// `target/mew-tests/<program>/<name>`, empty. It stays after the test, so that its logs can be read.
pub fn scratch(name: &str) -> Result<PathBuf> {
    static TAKEN: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());
    if !TAKEN.lock().unwrap_or_else(PoisonError::into_inner).insert(name.to_owned()) {
        bail!("two tests of this program want a directory called {name:?}");
    }
    let exe = std::env::current_exe()?;
    let stem = exe.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let program = stem.rsplit_once('-').map_or(stem.as_str(), |(n, _)| n);
    let build = build()?;
    let dir = build.parent().unwrap_or(&build).join("mew-tests").join(program).join(name);
    if dir.exists() {
        fs::remove_dir_all(&dir).with_context(|| dir.display().to_string())?;
    }
    fs::create_dir_all(&dir).with_context(|| dir.display().to_string())?;
    Ok(dir)
}
