//! Child processes that end by themselves.

use anyhow::{Result, bail};
use mew_tests::process::run;
use std::ffi::OsStr;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// For a call of kubectl and the like: seconds, on a busy machine minutes.
pub const CALL: Duration = Duration::from_secs(240);
/// Shown of a command line: statements and manifests are long.
const SHOWN: usize = 300;

/// What it prints; an error with what it complains of if it fails.
pub fn output(c: Command, stdin: &str) -> Result<String> {
    output_within(c, stdin, CALL)
}

pub fn output_within(c: Command, stdin: &str, limit: Duration) -> Result<String> {
    both(c, stdin, limit).map(|(out, _)| out)
}

/// What it prints, and what it says beside.
pub fn both(c: Command, stdin: &str, limit: Duration) -> Result<(String, String)> {
    let what = shown(&c);
    let out = run(c, stdin, limit)?;
    let text = |b: Vec<u8>| String::from_utf8_lossy(&b).into_owned();
    let (stdout, stderr) = (text(out.stdout), text(out.stderr));
    if !out.status.success() {
        // Some complain there, some here.
        let why = if stderr.trim().is_empty() { stdout.trim() } else { stderr.trim() };
        bail!("{what}: {why}");
    }
    Ok((stdout, stderr))
}

fn shown(c: &Command) -> String {
    let words = std::iter::once(c.get_program()).chain(c.get_args()).map(OsStr::to_string_lossy);
    let all = words.collect::<Vec<_>>().join(" ");
    let name = Path::new(c.get_program()).file_name().unwrap_or_default().to_string_lossy().into_owned();
    let rest = all.split_once(' ').map_or("", |(_, r)| r);
    let cut: String = rest.chars().take(SHOWN).collect();
    format!("{name} {cut}")
}

/// A program in PATH.
pub fn in_path(name: &str) -> Option<std::path::PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|d| d.join(name)).find(|p| p.is_file())
}
