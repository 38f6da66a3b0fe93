//! Processes of a test: started by their command lines, ended by their ids, with a log each.

use crate::dirs;
use crate::wait::until;
use anyhow::{Context, Result, anyhow, bail};
use rustix::process::{Pid, Signal, kill_process};
use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, ExitStatus, Output, Stdio};
use std::sync::OnceLock;
use std::sync::mpsc::{Sender, SyncSender, channel, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

/// After SIGTERM, before SIGKILL.
const GRACE: Duration = Duration::from_secs(10);
/// It takes a moment; this is for a machine that is busy with something else.
const ONCE: Duration = Duration::from_secs(60);
/// Before a command line: the program ends with this one, where the system has a tool for that.
pub(crate) const DYING: [&str; 4] = ["setpriv", "--pdeathsig", "TERM", "--"];
/// Lines of a log that are shown when something went wrong.
const TAIL: usize = 12;

pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
    grace: Duration,
}

impl Process {
    /// Starts it; what it says goes to `<logs>/<name>.log`, after what is there.
    pub fn start(name: &str, mut command: Command, logs: &Path) -> Result<Self> {
        let (log, file) = open_log(name, logs)?;
        command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
        Self::spawned(name, command, log)
    }

    /// Starts it; only its errors go to the log.
    pub fn piped(name: &str, command: Command, logs: &Path) -> Result<(Self, ChildStdout)> {
        Self::piped_from(name, command, Stdio::null(), logs)
    }

    /// The same, with something at its standard input.
    pub fn piped_from(name: &str, mut command: Command, stdin: Stdio, logs: &Path) -> Result<(Self, ChildStdout)> {
        let (log, file) = open_log(name, logs)?;
        command.stdin(stdin).stdout(Stdio::piped()).stderr(file);
        let mut p = Self::spawned(name, command, log)?;
        let out = p.child.stdout.take().context("no pipe")?;
        Ok((p, out))
    }

    fn spawned(name: &str, command: Command, log: PathBuf) -> Result<Self> {
        let child = spawn(command).with_context(|| format!("{name} cannot be started"))?;
        Ok(Process { name: name.to_owned(), child, log, grace: GRACE })
    }

    /// For processes whose data nobody wants: they get less time to end.
    pub fn with_grace(mut self, grace: Duration) -> Self {
        self.grace = grace;
        self
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }

    /// Fails with the end of the log if it has ended.
    pub fn check(&mut self) -> Result<()> {
        match self.ended()? {
            None => Ok(()),
            Some(status) => bail!("{} ended ({status}); {}", self.name, self.tail()),
        }
    }

    /// The end of its log, and where the rest is.
    pub fn tail(&self) -> String {
        let text = self.said();
        let lines: Vec<&str> = text.lines().collect();
        let last = lines[lines.len().saturating_sub(TAIL)..].join("\n  ");
        format!("{}:\n  {last}", self.log.display())
    }

    /// All that it has said so far, in this run and those before it.
    pub fn said(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    pub fn signal(&self, s: Signal) -> Result<()> {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).context("no process")?;
        Ok(kill_process(pid, s)?)
    }

    /// SIGTERM, and SIGKILL if that does not help.
    pub fn stop(&mut self) {
        if matches!(self.child.try_wait(), Ok(Some(_))) {
            return;
        }
        let _ = self.signal(Signal::TERM);
        if until(&self.name, self.grace, || Ok(self.child.try_wait()?)).is_err() {
            self.kill();
        }
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.stop();
    }
}

fn open_log(name: &str, logs: &Path) -> Result<(PathBuf, File)> {
    let log = logs.join(format!("{name}.log"));
    let file = OpenOptions::new().create(true).append(true).open(&log).with_context(|| log.display().to_string())?;
    Ok((log, file))
}

type Job = (Command, SyncSender<std::io::Result<Child>>);

/// Starts a process from a thread that lives as long as the program: "die with the parent" means the *thread* that
/// started it, and the threads of single tests end early.
fn spawn(command: Command) -> Result<Child> {
    static SPAWNER: OnceLock<Sender<Job>> = OnceLock::new();
    let spawner = SPAWNER.get_or_init(|| {
        let (tx, rx) = channel::<Job>();
        thread::spawn(move || {
            for (mut command, answer) in rx {
                let _ = answer.send(command.spawn());
            }
        });
        tx
    });
    let (tx, rx) = sync_channel(1);
    spawner.send((command, tx)).map_err(|_| anyhow!("the spawner has ended"))?;
    Ok(rx.recv()??)
}

/// A command for a foreign program that ends with this one, however this one ends, where the system has a tool for that.
pub fn dying_with_us(program: &Path) -> Command {
    static SETPRIV: OnceLock<bool> = OnceLock::new();
    let has = *SETPRIV.get_or_init(|| {
        let mut c = Command::new(DYING[0]);
        c.args(&DYING[1..]).arg("true").stdout(Stdio::null()).stderr(Stdio::null());
        c.status().is_ok_and(|s| s.success())
    });
    if !has {
        return Command::new(program);
    }
    let mut c = Command::new(DYING[0]);
    c.args(&DYING[1..]).arg(program);
    c
}

/// A command as the last arguments of another one, with its variables.
pub fn behind(mut outer: Command, command: &Command) -> Command {
    outer.arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(v) => outer.env(name, v),
            None => outer.env_remove(name),
        };
    }
    outer
}

/// Runs a command to its end.
pub fn run(mut command: Command, stdin: &str, limit: Duration) -> Result<Output> {
    let what = format!("{command:?}");
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().with_context(|| what.clone())?;
    let (out, err) = (reader(child.stdout.take()), reader(child.stderr.take()));
    if let Some(mut pipe) = child.stdin.take() {
        let _ = pipe.write_all(stdin.as_bytes()); // one that ends early need not read
    }
    let end = Instant::now() + limit;
    let status = loop {
        if let Some(s) = child.try_wait()? {
            break s;
        }
        if Instant::now() >= end {
            child.kill()?;
            child.wait()?;
            bail!("{what}: not done after {} s", limit.as_secs());
        }
        thread::sleep(Duration::from_millis(2));
    };
    let text = |t: thread::JoinHandle<Vec<u8>>| t.join().unwrap_or_default();
    Ok(Output { status, stdout: text(out), stderr: text(err) })
}

fn reader(from: Option<impl Read + Send + 'static>) -> thread::JoinHandle<Vec<u8>> {
    thread::spawn(move || {
        let mut all = Vec::new();
        if let Some(mut r) = from {
            let _ = r.read_to_end(&mut all);
        }
        all
    })
}

/// Says something at once: libtest does not keep back what is not printed by its macros.
pub fn progress(text: &str) {
    let _ = std::io::stderr().write_all(format!("{text}\n").as_bytes());
}

/// A command of `mew` that ends with this program.
pub fn mew<S: AsRef<OsStr>>(args: impl IntoIterator<Item = S>) -> Result<Command> {
    static MEW: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let exe = MEW.get_or_init(|| find_mew().map_err(|e| format!("{e:#}"))).as_ref().map_err(|e| anyhow!("{e}"))?;
    let mut c = Command::new(exe);
    c.args(args).args(["--die-with", &std::process::id().to_string()]);
    Ok(c)
}

/// Runs a command of `mew` that ends by itself, with these variables; an error if it fails.
pub fn mew_once<S: AsRef<OsStr>>(args: impl IntoIterator<Item = S>, variables: &[(&str, &Path)]) -> Result<Output> {
    // Without the flag that only servers have.
    let mut c = Command::new(mew::<&str>([])?.get_program());
    c.args(args).envs(variables.iter().copied());
    let what = format!("{c:?}");
    let out = run(c, "", ONCE)?;
    if !out.status.success() {
        bail!("{what}: {}", String::from_utf8_lossy(&out.stderr).trim());
    }
    Ok(out)
}

/// `MEW_BIN`, or the binary beside the test, built if it is missing or older than its sources.
fn find_mew() -> Result<PathBuf> {
    if let Some(given) = std::env::var_os("MEW_BIN") {
        return Ok(given.into());
    }
    let dir = dirs::build()?;
    let exe = dir.join("mew");
    let lock = File::create(dir.join("mew-tests.lock"))?;
    lock.lock()?;
    if fresh(&exe) {
        return Ok(exe);
    }
    progress("building mew …");
    let mut c = Command::new(env!("CARGO"));
    c.current_dir(dirs::root()).args(["build", "--quiet", "-p", "mew-cli", "--bin", "mew"]);
    if let Some(profile) = dir.file_name().and_then(|n| n.to_str()).filter(|n| *n != "debug") {
        c.args(["--profile", profile]);
    }
    if let Some(target) = dir.parent() {
        c.arg("--target-dir").arg(target);
    }
    let out = run(c, "", Duration::from_secs(1800))?;
    if !out.status.success() {
        bail!("mew cannot be built:\n{}", String::from_utf8_lossy(&out.stderr));
    }
    if !exe.exists() {
        bail!("cargo built no {}; name the binary by MEW_BIN", exe.display());
    }
    Ok(exe)
}

/// Whether no source that cargo lists for the binary is newer.
fn fresh(exe: &Path) -> bool {
    let time = |p: &Path| fs::metadata(p).and_then(|m| m.modified()).ok();
    let (Some(built), Ok(text)) = (time(exe), fs::read_to_string(exe.with_extension("d"))) else { return false };
    let Some((_, sources)) = text.split_once(": ") else { return false };
    let sources = sources.replace("\\ ", "\0"); // spaces inside names
    let mut all = sources.split_whitespace().map(|s| PathBuf::from(s.replace('\0', " ")));
    all.all(|p| time(&p).is_some_and(|t| t <= built)) && time(&dirs::root().join("Cargo.lock")) <= Some(built)
}
