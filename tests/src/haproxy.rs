//! A proxy that looks at the name in the first TLS message and passes the bytes on: the system's HAProxy. It has no key.

use crate::packages::program;
use crate::ports::free_port;
use crate::process::{Process, dying_with_us};
use crate::wait::until;
use anyhow::{Context, Result};
use std::fs;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(30);

pub struct Haproxy {
    exe: PathBuf,
    dir: PathBuf,
    /// Where it listens, on loopback.
    pub port: u16,
    process: Option<Process>,
}

impl Haproxy {
    /// Routes each server name to a port of loopback; everything else is closed. It is not started.
    pub fn new(dir: &Path, routes: &[(&str, u16)]) -> Result<Self> {
        let exe = program("haproxy", "haproxy", "MEW_HAPROXY_BIN")?;
        let port = free_port()?;
        fs::create_dir_all(dir)?;
        fs::write(dir.join("haproxy.cfg"), config(port, routes))?;
        Ok(Haproxy { exe, dir: dir.to_owned(), port, process: None })
    }

    pub fn start(&mut self) -> Result<()> {
        let mut c = dying_with_us(&self.exe);
        // In the foreground, as one process.
        c.arg("-db").arg("-f").arg(self.dir.join("haproxy.cfg"));
        self.process = Some(Process::start("haproxy", c, &self.dir)?);
        let port = self.port;
        until("the proxy listens", PATIENCE, || {
            self.process.as_mut().context("it was not started")?.check()?;
            Ok(TcpStream::connect(("127.0.0.1", port)).ok().map(drop))
        })
    }

    /// With all connections through it.
    pub fn stop(&mut self) {
        self.process = None;
    }
}

/// It takes memory for as many connections as it may open files otherwise.
const CONNECTIONS: u32 = 64;

fn config(port: u16, routes: &[(&str, u16)]) -> String {
    let mut text = format!(
        "global
  maxconn {CONNECTIONS}
defaults
  mode tcp
  timeout connect 2s
  timeout client 1m
  timeout server 1m
frontend peers
  bind 127.0.0.1:{port}
  tcp-request inspect-delay 5s
  tcp-request content accept if {{ req.ssl_hello_type 1 }}
"
    );
    for (i, (name, _)) in routes.iter().enumerate() {
        text += &format!("  use_backend kernel-{i} if {{ req.ssl_sni -i {name} }}\n");
    }
    for (i, (_, to)) in routes.iter().enumerate() {
        text += &format!("backend kernel-{i}\n  server agent 127.0.0.1:{to}\n");
    }
    text
}
