//! The demo's processes: started by their real command lines, ended by their ids.

use anyhow::{Context, Result, bail};
use std::fs::File;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tokio::process::{Child, Command};

/// After SIGTERM, before SIGKILL.
const GRACE: Duration = Duration::from_secs(5);

#[derive(Default)]
pub struct Children(Vec<(String, Child, PathBuf)>);

impl Children {
    /// Starts `mew <args>`; its output goes to a log file.
    pub fn start(&mut self, name: &str, args: &[String], logs: &Path) -> Result<()> {
        let log = logs.join(format!("{name}.log"));
        let out = File::create(&log).with_context(|| log.display().to_string())?;
        let child = Command::new(std::env::current_exe()?)
            .args(args)
            .args(["--die-with", &std::process::id().to_string()])
            .stdin(Stdio::null())
            .stdout(out.try_clone()?)
            .stderr(out)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("{name} cannot be started"))?;
        self.0.push((name.to_owned(), child, log));
        Ok(())
    }

    /// Fails with the end of the log if one has ended.
    pub fn check(&mut self) -> Result<()> {
        for (name, child, log) in &mut self.0 {
            if let Some(status) = child.try_wait()? {
                let text = std::fs::read_to_string(log).unwrap_or_default();
                let tail: Vec<&str> = text.lines().rev().take(5).collect();
                bail!("{name} ended ({status}):\n  {}", tail.into_iter().rev().collect::<Vec<_>>().join("\n  "));
            }
        }
        Ok(())
    }

    pub async fn stop(&mut self) {
        for (_, child, _) in &self.0 {
            if let Some(pid) = child.id().and_then(|p| rustix::process::Pid::from_raw(p as i32)) {
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
            }
        }
        for (_, child, _) in &mut self.0 {
            if tokio::time::timeout(GRACE, child.wait()).await.is_err() {
                let _ = child.kill().await;
            }
        }
        self.0.clear();
    }
}

/// Says which port is taken before anything is started.
pub fn ports_free(ports: &[(u16, &str)]) -> Result<()> {
    for (port, what) in ports {
        if TcpListener::bind(("127.0.0.1", *port)).is_err() {
            bail!(
                "port {port} ({what}) is used by another process; stop that one first (the demo's manifests name this port)"
            );
        }
    }
    Ok(())
}
