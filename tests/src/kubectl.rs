//! kubectl at one server: what it prints, and objects as JSON. It sees nothing of what a person has configured.

use crate::output::output_within;
use crate::process::dying_with_us;
use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// The longest that one call may take, `kubectl wait` included: seconds, on a busy machine minutes.
const CALL: Duration = Duration::from_secs(240);

#[derive(Clone)]
pub struct Kubectl {
    program: PathBuf,
    environment: Vec<(&'static str, OsString)>,
    dir: PathBuf,
}

impl Kubectl {
    /// Its caches and its logs are kept in `dir`.
    pub fn new(program: &Path, kubeconfig: &Path, dir: &Path) -> Self {
        let environment = vec![
            ("KUBECONFIG", kubeconfig.into()),
            ("KUBECACHEDIR", dir.join("kube-cache").into()),
            // Nobody's own defaults for flags.
            ("KUBERC", "off".into()),
        ];
        Kubectl { program: program.to_owned(), environment, dir: dir.to_owned() }
    }

    /// Any program that looks for its cluster as kubectl does finds this one by them.
    pub fn environment(&self) -> impl Iterator<Item = (&'static str, &OsStr)> {
        self.environment.iter().map(|(name, value)| (*name, value.as_os_str()))
    }

    /// Without arguments. It ends with this program.
    pub fn command(&self) -> Command {
        let mut c = dying_with_us(&self.program);
        c.envs(self.environment());
        c
    }

    /// For those who type it into a shell, with [`Kubectl::environment`].
    pub fn program(&self) -> &Path {
        &self.program
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// What it prints.
    pub fn run(&self, args: &[&str]) -> Result<String> {
        self.run_with(args, "")
    }

    pub fn run_with(&self, args: &[&str], stdin: &str) -> Result<String> {
        let mut c = self.command();
        c.args(args);
        output_within(c, stdin, CALL)
    }

    /// `None` if there is no such object. The namespace is empty for kinds without one.
    pub fn find(&self, kind: &str, namespace: &str, name: &str) -> Result<Option<Value>> {
        let mut args = vec!["get", kind, name, "-o", "json", "--ignore-not-found"];
        if !namespace.is_empty() {
            args.extend(["-n", namespace]);
        }
        let text = self.run(&args)?;
        Ok(if text.trim().is_empty() { None } else { Some(serde_json::from_str(&text)?) })
    }

    pub fn get(&self, kind: &str, namespace: &str, name: &str) -> Result<Value> {
        self.find(kind, namespace, name)?.with_context(|| format!("{kind} {name} does not exist in {namespace:?}"))
    }

    /// Objects with these labels; an empty namespace means none or all of them.
    pub fn list(&self, kind: &str, namespace: &str, labels: &str) -> Result<Vec<Value>> {
        let mut args = vec!["get", kind, "-o", "json"];
        args.extend(if namespace.is_empty() { vec!["-A"] } else { vec!["-n", namespace] });
        if !labels.is_empty() {
            args.extend(["-l", labels]);
        }
        let mut all: Value = serde_json::from_str(&self.run(&args)?)?;
        match all["items"].take() {
            Value::Array(items) => Ok(items),
            other => bail!("kubectl get {kind}: no list: {other}"),
        }
    }
}
