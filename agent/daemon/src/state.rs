//! The data directory, apart from the log: who this kernel is, its certificate, the last snapshot.

use anyhow::{Context, Result};
use mew_store::disk::{make_dir, sync_dir};
use serde::{Deserialize, Serialize};
use std::fs;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// As the operator derived it; kept because it never changes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Identity {
    pub kernel_id: String,
    pub trust_domain: String,
}

#[derive(Clone)]
pub struct StateDir {
    dir: PathBuf,
    incarnation: String,
}

const INCARNATION: &str = "incarnation";
const IDENTITY: &str = "identity.json";
const SNAPSHOT: &str = "snapshot.json";
const CHAIN: &str = "tls.crt";
const KEY: &str = "tls.key";
const CA: &str = "ca.crt";

impl StateDir {
    /// Opens or makes the directory; a new one gets a random incarnation.
    pub fn open(dir: &Path) -> Result<Self> {
        make_dir(dir).with_context(|| format!("the data directory {}", dir.display()))?;
        let there = Self::at(dir);
        if let Some(i) = there.read(INCARNATION)? {
            return Ok(StateDir { incarnation: i.trim().to_owned(), ..there });
        }
        let new = Self::renewed(dir)?;
        new.save_incarnation()?;
        Ok(new)
    }

    /// The directory as it is, to look at; it may not be there.
    pub fn at(dir: &Path) -> Self {
        StateDir { dir: dir.to_owned(), incarnation: String::new() }
    }

    /// With another incarnation, which counts from when it is saved.
    pub fn renewed(dir: &Path) -> Result<Self> {
        let mut b = [0; 16];
        getrandom::fill(&mut b).map_err(|e| anyhow::anyhow!("no randomness: {e}"))?;
        Ok(StateDir { incarnation: b.iter().map(|b| format!("{b:02x}")).collect(), ..Self::at(dir) })
    }

    pub fn save_incarnation(&self) -> Result<()> {
        self.write(INCARNATION, &self.incarnation, 0o644)
    }

    pub fn incarnation(&self) -> &str {
        &self.incarnation
    }

    pub fn log(&self) -> PathBuf {
        self.dir.join("log")
    }

    fn read(&self, name: &str) -> Result<Option<String>> {
        match fs::read_to_string(self.dir.join(name)) {
            Ok(s) => Ok(Some(s)),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e).with_context(|| format!("{} cannot be read", self.dir.join(name).display())),
        }
    }

    /// Replaces the file as a whole, durably.
    fn write(&self, name: &str, text: &str, mode: u32) -> Result<()> {
        let (tmp, path) = (self.dir.join(format!("{name}.tmp")), self.dir.join(name));
        let write = || -> std::io::Result<()> {
            let mut f = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(&tmp)?;
            f.write_all(text.as_bytes())?;
            f.sync_all()?;
            fs::rename(&tmp, &path)?;
            sync_dir(&self.dir)
        };
        write().with_context(|| format!("{} cannot be written", path.display()))
    }

    pub fn identity(&self) -> Result<Option<Identity>> {
        let text = self.read(IDENTITY)?;
        text.map(|t| {
            serde_json::from_str(&t).with_context(|| format!("{} is damaged", self.dir.join(IDENTITY).display()))
        })
        .transpose()
    }

    pub fn save_identity(&self, i: &Identity) -> Result<()> {
        self.write(IDENTITY, &serde_json::to_string_pretty(i)?, 0o644)
    }

    /// The last snapshot that was in force.
    pub fn snapshot(&self) -> Option<Vec<u8>> {
        self.read(SNAPSHOT).ok().flatten().map(String::into_bytes)
    }

    pub fn save_snapshot(&self, bytes: &[u8]) -> Result<()> {
        self.write(SNAPSHOT, &String::from_utf8_lossy(bytes), 0o600)
    }

    /// (chain, key), both PEM.
    pub fn certificate(&self) -> Option<(String, String)> {
        Some((self.read(CHAIN).ok()??, self.read(KEY).ok()??))
    }

    /// Roots of the own trust domain, as they came from the operator last.
    pub fn roots(&self) -> Option<String> {
        self.read(CA).ok().flatten()
    }

    pub fn save_certificate(&self, chain: &str, key: &str, ca: &str) -> Result<()> {
        self.write(KEY, key, 0o600)?;
        self.write(CHAIN, chain, 0o644)?;
        self.save_roots(ca)
    }

    pub fn save_roots(&self, pem: &str) -> Result<()> {
        self.write(CA, pem, 0o644)
    }
}
