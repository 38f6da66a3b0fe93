//! Programs that end by themselves: what they print, or what they complain of.

use crate::process::{DYING, run};
use anyhow::{Result, bail};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// Shown of a command line: statements and manifests are long.
const SHOWN: usize = 300;

/// What it prints; an error with what it complains of if it fails.
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

/// The program by its name alone, and the beginning of its arguments.
fn shown(c: &Command) -> String {
    let words: Vec<String> =
        std::iter::once(c.get_program()).chain(c.get_args()).map(|w| w.to_string_lossy().into_owned()).collect();
    let rest = if words.starts_with(&DYING.map(str::to_owned)) { &words[DYING.len()..] } else { &words[..] };
    let Some((program, args)) = rest.split_first() else { return String::new() };
    let name = Path::new(program).file_name().unwrap_or_default().to_string_lossy().into_owned();
    let cut: String = args.join(" ").chars().take(SHOWN).collect();
    format!("{name} {cut}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_names_the_program_and_what_it_says() {
        let mut c = Command::new("/bin/sh");
        c.args(["-c", "echo no such thing >&2; exit 3"]);
        let e = output_within(c, "", Duration::from_secs(60)).unwrap_err().to_string();
        assert!(e.starts_with("sh -c ") && e.ends_with(": no such thing"), "{e}");
    }

    #[test]
    fn what_ends_a_program_with_us_is_not_shown() {
        let mut c = Command::new(DYING[0]);
        c.args(&DYING[1..]).args(["/opt/bin/kubectl", "get", "pods"]);
        assert_eq!(shown(&c), "kubectl get pods");
    }
}
