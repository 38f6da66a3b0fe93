//! Where the nodes run.

use crate::run::output;
use anyhow::{Result, bail};
use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use std::path::Path;
use std::process::{Command, Stdio};

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
pub enum Engine {
    /// As kind's documentation has it
    Docker,
    /// On a machine with systemd and control groups v2
    Podman,
    /// Podman in namespaces of its own, and a node image that is built here: for root on a machine with nothing else
    Bare,
}

impl Engine {
    /// Docker if it answers; then what this user can have.
    pub fn choose(wanted: Option<Engine>) -> Result<Engine> {
        if let Some(e) = wanted {
            return Ok(e);
        }
        if answers("docker") {
            return Ok(Engine::Docker);
        }
        match (podman_serves_kind(), is_root()?) {
            (true, _) => Ok(Engine::Podman),
            (false, true) => Ok(Engine::Bare),
            (false, false) => bail!(
                "no engine for containers: neither `docker info` nor `podman info` works, and only root can do without \
                 (--engine bare)"
            ),
        }
    }

    pub fn program(self) -> &'static str {
        match self {
            Engine::Docker => "docker",
            Engine::Podman | Engine::Bare => "podman",
        }
    }

    /// What kind must be told.
    pub fn provider(self) -> Option<&'static str> {
        match self {
            Engine::Docker => None,
            Engine::Podman | Engine::Bare => Some("podman"),
        }
    }

    /// Runs a program in a node.
    pub fn exec(self, node: &str, args: &[&str]) -> Result<String> {
        let mut c = Command::new(self.program());
        c.args(["exec", node]).args(args);
        output(c, "")
    }

    /// Ends a node as a power failure would: nothing in it is given time. Its disk stays.
    pub fn stop(self, node: &str) -> Result<()> {
        let mut c = Command::new(self.program());
        c.args(["stop", "-t", "0", node]);
        output(c, "").map(drop)
    }

    /// It may have another address then.
    pub fn start(self, node: &str) -> Result<()> {
        let mut c = Command::new(self.program());
        c.args(["start", node]);
        output(c, "").map(drop)
    }
}

fn answers(program: &str) -> bool {
    let mut c = Command::new(program);
    c.arg("info").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    c.status().is_ok_and(|s| s.success())
}

/// kind's nodes need control groups v2 of podman, and podman a systemd for them.
fn podman_serves_kind() -> bool {
    let is_there = |path: &str| Path::new(path).exists();
    is_there("/sys/fs/cgroup/cgroup.controllers") && is_there("/run/systemd/system") && answers("podman")
}

fn is_root() -> Result<bool> {
    let mut c = Command::new("id");
    c.arg("-u");
    Ok(output(c, "")?.trim() == "0")
}
