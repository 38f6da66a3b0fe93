//! A machine whose power can go: a program with an ext4 on a disk of its own. The disk is a file in user space (FUSE) below a
//! loop device, so that it knows what was written and what was flushed, and decides what a power loss leaves.
//!
//! All of it is mounted in a mount namespace that only the program is in: it is gone with the program, however that ends, and
//! the loop device with it. The disk is served from here, outside of that namespace: a process must not be the last one in a
//! namespace whose file systems it serves itself, or its end waits for itself.

mod disk;
mod fuse;

use crate::process::{Process, behind, dying_with_us, progress, run};
use crate::sim::rng::Rng;
use crate::wait::until;
use anyhow::{Context, Result, anyhow, bail, ensure};
use disk::Disk;
pub use disk::Loss;
use fuse::{NAME, Power};
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// Room for a journal and for some hundred small commits.
const BYTES: u64 = 32 << 20;
/// Blocks as larger disks have them: several sectors each, so that they can be torn. No checksums of metadata: a superblock is
/// two sectors, and with a checksum a torn one is refused before the journal could mend it. Nothing is left to be done later.
const FILE_SYSTEM: [&str; 8] = [
    "-q",
    "-F",
    "-b",
    "4096",
    "-O",
    "has_journal,^metadata_csum,^metadata_csum_seed",
    "-E",
    "lazy_itable_init=0,lazy_journal_init=0",
];
/// With /dev/fuse at its standard input: mounts the disk and then what is on it, and becomes the rest of its arguments. Nobody
/// answers before it said that the disk is mounted, and nothing is at its standard input from then on: the disk must have
/// nobody who keeps it open but who serves it.
const SCRIPT: &str = r#"mount -n -i -t fuse -o fd=0,rootmode=40000,user_id=0,group_id=0 disk "$1" && exec </dev/null &&
echo mounted && mount -n -t ext4 -o "loop,errors=remount-ro,barrier=$4" "$1/$2" "$3" && shift 4 && exec "$@""#;
const MOUNTED: &str = "mounted";
/// Everything here takes a moment; this is for a machine that is busy with something else.
const LIMIT: Duration = Duration::from_secs(120);
/// Lines that a program may say before anybody listens. Then it has to wait: more than one line for each write would be odd.
const LINES: usize = 1024;

/// Why there can be no such disk here, if so. Nothing of what is tested takes part in finding out.
pub fn missing(dir: &Path) -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        return Some("it needs root's right to mount".to_owned());
    }
    let opened = ["/dev/fuse", "/dev/loop-control"].into_iter().try_for_each(|name| open(Path::new(name)).map(drop));
    opened.and_then(|()| mount_a_file(dir)).err().map(|e| format!("{e:#}"))
}

fn open(device: &Path) -> Result<File> {
    OpenOptions::new().read(true).write(true).open(device).with_context(|| device.display().to_string())
}

/// Mounts a plain file, for a moment and for nobody.
fn mount_a_file(dir: &Path) -> Result<()> {
    let (image, at) = (dir.join("plain.img"), dir.join("plain"));
    make_file_system(&image)?;
    fs::create_dir_all(&at)?;
    let mut c = Command::new("unshare");
    c.args(["--mount", "--", "mount", "-n", "-t", "ext4", "-o", "loop"]).arg(&image).arg(&at);
    succeed(c)?;
    Ok(fs::remove_file(&image)?)
}

fn make_file_system(image: &Path) -> Result<()> {
    File::create(image).and_then(|f| f.set_len(BYTES)).with_context(|| image.display().to_string())?;
    let mut c = Command::new("mkfs.ext4");
    c.args(FILE_SYSTEM).arg(image);
    succeed(c)
}

fn succeed(command: Command) -> Result<()> {
    let what = format!("{command:?}");
    let out = run(command, "", LIMIT)?;
    ensure!(out.status.success(), "{what}: {}", String::from_utf8_lossy(&out.stderr).trim());
    Ok(())
}

/// When the file system tells the disk to flush.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flushes {
    /// For whoever syncs, and for its own journal.
    AsNeeded,
    /// A file system that promises what it does not keep: what is synced is written to the disk, and no more.
    Never,
}

/// A machine without power.
pub struct Machine {
    dir: PathBuf,
    image: Vec<u8>,
    flushes: Flushes,
}

impl Machine {
    /// With an empty file system. Its files and logs go to `dir`.
    pub fn new(dir: &Path, flushes: Flushes) -> Result<Self> {
        let m = Machine { dir: dir.to_owned(), image: Vec::new(), flushes };
        for at in [m.disk(), m.data()] {
            fs::create_dir_all(&at).with_context(|| at.display().to_string())?;
        }
        let image = dir.join(NAME);
        make_file_system(&image)?;
        Ok(Machine { image: fs::read(&image)?, ..m })
    }

    /// Where its programs find the file system.
    pub fn data(&self) -> PathBuf {
        self.dir.join("data")
    }

    fn disk(&self) -> PathBuf {
        self.dir.join("disk")
    }

    /// Mounts what the last power loss left and starts a program on it, which says what it does in lines.
    pub fn start(&mut self, program: &Command) -> Result<Running<'_>> {
        let kernel = open(Path::new("/dev/fuse"))?;
        let barrier = if self.flushes == Flushes::Never { "0" } else { "1" };
        let mut c = dying_with_us(Path::new("unshare"));
        c.args(["--mount", "--", "sh", "-c", SCRIPT, "sh"]).arg(self.disk()).arg(NAME).arg(self.data()).arg(barrier);
        let stdin = Stdio::from(kernel.try_clone()?);
        let (process, out) = Process::piped_from("machine", behind(c, program), stdin, &self.dir)?;
        let (tx, lines) = sync_channel(LINES);
        thread::spawn(move || {
            // Until nobody is left who could say anything, or who could listen.
            for line in BufReader::new(out).lines().map_while(io::Result::ok) {
                if tx.send(line).is_err() {
                    break;
                }
            }
        });
        match lines.recv_timeout(LIMIT) {
            Ok(line) if line == MOUNTED => {}
            _ => bail!("the disk cannot be mounted; {}", process.tail()),
        }
        let power = Arc::new(Power::on());
        let mut disk = Disk::new(std::mem::take(&mut self.image));
        let its = power.clone();
        let device = thread::spawn(move || {
            let served = fuse::serve(&kernel, &mut disk, &its);
            if let Err(e) = &served {
                progress(&format!("a disk in user space: {e}")); // whoever stands on it only sees that it is gone
            }
            (disk, served)
        });
        Ok(Running { process, lines, device, power, machine: self })
    }
}

/// A machine with power, and the program that runs on it.
pub struct Running<'m> {
    process: Process,
    lines: Receiver<String>,
    device: JoinHandle<(Disk, io::Result<()>)>,
    power: Arc<Power>,
    machine: &'m mut Machine,
}

impl Running<'_> {
    /// What the program says next.
    pub fn line(&self) -> Result<String> {
        match self.lines.recv_timeout(LIMIT) {
            Ok(line) => Ok(line),
            Err(RecvTimeoutError::Timeout) => bail!("it says nothing any more; {}", self.process.tail()),
            Err(RecvTimeoutError::Disconnected) => bail!("it ended; {}", self.process.tail()),
        }
    }

    /// The power goes after so many more writes and flushes of the disk, whatever they are for. Does not wait for it.
    pub fn lose_power_after(&self, requests: u64) {
        self.power.goes_after(requests);
    }

    /// If so, nothing that the program has said until now is for want of power.
    pub fn has_power(&self) -> bool {
        !self.power.is_gone()
    }

    /// Kills the program. If there is still power, it goes before anything else arrives at the disk. Also returns what the
    /// program has said until then.
    pub fn end(mut self, rng: &mut Rng) -> Result<(Vec<String>, Loss)> {
        self.power.goes_after(0);
        self.process.kill();
        // It was the last in its namespace, so all is unmounted, or about to be.
        until("nobody uses the disk", LIMIT, || Ok(self.device.is_finished().then_some(())))?;
        let (disk, served) = self.device.join().map_err(|_| anyhow!("the disk has panicked"))?;
        served.context("the disk")?;
        let (image, loss) = disk.after_loss(rng);
        self.machine.image = image;
        Ok((self.lines.iter().collect(), loss))
    }
}
