//! A disk that a test can fill, under an agent's data: a tmpfs in a mount namespace of the agent's own. It is gone with the
//! agent, however that and the test end, so there is nothing to unmount.

use crate::process::behind;
use anyhow::{Context, Result, bail};
use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Much for a kernel of a test, and filled in a moment.
const BYTES: usize = 8 << 20;
const CHUNK: usize = 64 << 10;
/// Mounts a disk of so many bytes at a place, then becomes the rest of its arguments.
const SCRIPT: &str = r#"mount -t tmpfs -o "size=$1" tmpfs "$2" && shift 2 && exec "$@""#;
/// For the failure.
pub const NEEDS: &str =
    "a disk of its own for an agent needs `unshare` and `mount`, and the right to mount: root's, or user namespaces";

/// The same command, for which `dir` is a small and empty disk.
pub fn with_small_disk(command: &Command, dir: &Path) -> Result<Command> {
    fs::create_dir_all(dir).with_context(|| dir.display().to_string())?;
    let mut c = Command::new("unshare");
    c.arg("--mount");
    if !rustix::process::geteuid().is_root() {
        c.args(["--user", "--map-root-user"]);
    }
    c.args(["--", "sh", "-c", SCRIPT, "sh", &BYTES.to_string()]).arg(dir);
    Ok(behind(c, command))
}

/// The disk of a process that was started with one.
pub struct SmallDisk {
    filler: PathBuf,
}

impl SmallDisk {
    /// As that process sees it.
    pub fn of(pid: u32, dir: &Path) -> Self {
        let root = PathBuf::from(format!("/proc/{pid}/root"));
        SmallDisk { filler: root.join(dir.strip_prefix("/").unwrap_or(dir)).join("filler") }
    }

    /// Writes until nothing more fits.
    pub fn fill(&self) -> Result<()> {
        let at = || self.filler.display().to_string();
        let mut f = File::create(&self.filler).with_context(at)?;
        // No more than the disk can hold: another one must not be filled by mistake.
        for _ in 0..=BYTES / CHUNK {
            match f.write_all(&[0; CHUNK]) {
                Ok(()) => {}
                Err(e) if e.kind() == ErrorKind::StorageFull => return Ok(()),
                Err(e) => return Err(e).with_context(at),
            }
        }
        self.make_room()?;
        bail!("{} is on a larger disk than it should be", at())
    }

    pub fn make_room(&self) -> Result<()> {
        fs::remove_file(&self.filler).with_context(|| self.filler.display().to_string())
    }
}
