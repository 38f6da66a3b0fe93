//! Flux on one of the servers. Its kustomize-controller is the real one; of source-controller there is what the other one sees:
//! the kinds, an archive over HTTP, and a GitRepository that names it.

use anyhow::{Context, Result, bail};
use flate2::Compression;
use flate2::write::GzEncoder;
use mew_tests::apiserver::ApiServer;
use mew_tests::cluster::PATIENCE;
use mew_tests::http;
use mew_tests::kstatus::condition;
use mew_tests::ports::free_port;
use mew_tests::process::{Process, dying_with_us};
use mew_tests::tools::flux;
use mew_tests::wait::until;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

pub const NAMESPACE: &str = "flux-system";
/// The GitRepository, as the page has it.
const REPOSITORY: &str = "fleet";
const GROUP: &str = "source.toolkit.fluxcd.io";
/// Kinds that the controller watches, whether there are any or not.
const SOURCES: [(&str, &str); 3] =
    [("GitRepository", "gitrepositories"), ("OCIRepository", "ocirepositories"), ("Bucket", "buckets")];

/// Path and contents.
pub type Files = BTreeMap<String, String>;

pub struct Hub<'a> {
    api: &'a ApiServer,
    archives: Archives,
    _controller: Process,
}

impl<'a> Hub<'a> {
    pub fn start(api: &'a ApiServer) -> Result<Self> {
        let flux = flux()?;
        api.create_namespace(NAMESPACE)?;
        api.kubectl(&["apply", "--server-side", "-f", &flux.definitions.display().to_string()])?;
        let kinds =
            json!({"apiVersion": "v1", "kind": "List", "items": SOURCES.map(|(kind, plural)| stub(kind, plural))});
        api.apply_server_side(&kinds.to_string())?;
        api.kubectl(&["wait", "--for=condition=Established", "crd", "--all", "--timeout=60s"])?;

        let (health, metrics) = (free_port()?, free_port()?);
        let mut c = dying_with_us(&flux.controller);
        c.env("KUBECONFIG", api.kubeconfig()).env("RUNTIME_NAMESPACE", NAMESPACE);
        c.args([
            "--events-addr=",
            "--enable-leader-election=false",
            "--watch-all-namespaces",
            "--requeue-dependency=1s",
        ]);
        c.arg(format!("--health-addr=127.0.0.1:{health}")).arg(format!("--metrics-addr=127.0.0.1:{metrics}"));
        let mut controller = Process::start("kustomize-controller", c, api.dir())?;
        until("kustomize-controller is ready", PATIENCE, || {
            controller.check()?;
            Ok(http::get(health, "/readyz").is_ok_and(|(status, _)| status == 200).then_some(()))
        })?;
        Ok(Hub { api, archives: Archives::serve()?, _controller: controller })
    }

    /// Commits these files; returns the revision.
    pub fn push(&self, files: &Files) -> Result<String> {
        let archive = packed(files)?;
        let digest: String = Sha256::digest(&archive).iter().map(|b| format!("{b:02x}")).collect();
        let (path, size) = (format!("{digest}.tar.gz"), archive.len());
        let revision = format!("main@sha1:{}", &digest[..40]);
        let url = self.archives.put(&path, archive);
        let repository = json!({
            "apiVersion": format!("{GROUP}/v1"), "kind": "GitRepository",
            "metadata": {"name": REPOSITORY, "namespace": NAMESPACE},
            "spec": {"interval": "1m", "url": "https://git.example.com/fleet"},
        });
        self.api.apply_server_side(&repository.to_string())?;
        let time = "2026-01-01T00:00:00Z";
        let status = json!({"status": {
            "observedGeneration": 1,
            "artifact": {
                "url": url, "path": path, "size": size, "digest": format!("sha256:{digest}"), "revision": revision,
                "lastUpdateTime": time,
            },
            "conditions": [
                {"type": "Ready", "status": "True", "reason": "Succeeded", "message": "stored", "lastTransitionTime": time},
            ],
        }});
        let args =
            ["patch", "gitrepository", REPOSITORY, "-n", NAMESPACE, "--subresource=status", "--type=merge", "-p"];
        self.api.kubectl(&[&args[..], &[status.to_string().as_str()]].concat())?;
        Ok(revision)
    }

    pub fn wait(&self, name: &str, what: &str, good: impl Fn(&Value) -> bool) -> Result<Value> {
        self.api.wait_json("kustomization", NAMESPACE, name, what, good, PATIENCE)
    }

    pub fn applied(&self, name: &str, revision: &str) -> Result<Value> {
        let good = |k: &Value| says(k, "True") && k["status"]["lastAppliedRevision"] == revision;
        self.wait(name, "has applied the revision, and all is well", good)
    }

    /// Waits until Flux has given up this revision, and returns what it says.
    pub fn failed(&self, name: &str, revision: &str) -> Result<String> {
        let gave_up = |k: &Value| says(k, "False") && k["status"]["lastAttemptedRevision"] == revision;
        let k = self.wait(name, "fails", gave_up)?;
        let ready = condition(&k, "Ready").context("no Ready")?;
        Ok(ready["message"].as_str().unwrap_or_default().to_owned())
    }

    /// Asks as `flux reconcile` does, and waits until it is done.
    pub fn again(&self, name: &str, request: &str) -> Result<()> {
        let asked = format!("reconcile.fluxcd.io/requestedAt={request}");
        self.api.kubectl(&["annotate", "--overwrite", "kustomization", name, "-n", NAMESPACE, &asked])?;
        let done = |k: &Value| k["status"]["lastHandledReconcileAt"] == request && says(k, "True");
        self.wait(name, "is reconciled again", done).map(drop)
    }
}

/// The status of Ready.
pub fn says(kustomization: &Value, status: &str) -> bool {
    condition(kustomization, "Ready").is_some_and(|c| c["status"] == status)
}

fn stub(kind: &str, plural: &str) -> Value {
    let schema = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
    let version = json!({
        "name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": schema},
        "subresources": {"status": {}},
    });
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": format!("{plural}.{GROUP}")},
        "spec": {
            "group": GROUP, "scope": "Namespaced", "versions": [version],
            "names": {"kind": kind, "plural": plural, "singular": kind.to_lowercase()},
        },
    })
}

fn packed(files: &Files) -> Result<Vec<u8>> {
    let mut tar = tar::Builder::new(GzEncoder::new(Vec::new(), Compression::fast()));
    for (path, text) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(text.len() as u64);
        header.set_mode(0o644);
        tar.append_data(&mut header, path, text.as_bytes())?;
    }
    Ok(tar.into_inner()?.finish()?)
}

/// Archives over HTTP on loopback, as long as the program runs.
struct Archives {
    port: u16,
    files: Arc<Mutex<BTreeMap<String, Vec<u8>>>>,
}

impl Archives {
    fn serve() -> Result<Self> {
        let port = free_port()?;
        let listener = TcpListener::bind(("127.0.0.1", port))?;
        let files = Arc::new(Mutex::new(BTreeMap::new()));
        let theirs = files.clone();
        thread::spawn(move || {
            for connection in listener.incoming().flatten() {
                // One that breaks off is asked for again.
                let _ = answer(connection, &theirs);
            }
        });
        Ok(Archives { port, files })
    }

    /// Returns its URL.
    fn put(&self, path: &str, bytes: Vec<u8>) -> String {
        self.files.lock().unwrap_or_else(PoisonError::into_inner).insert(path.to_owned(), bytes);
        format!("http://127.0.0.1:{}/{path}", self.port)
    }
}

fn answer(mut to: TcpStream, files: &Mutex<BTreeMap<String, Vec<u8>>>) -> Result<()> {
    let (mut head, mut buffer) = (Vec::new(), [0; 4096]);
    while !head.windows(4).any(|w| w == b"\r\n\r\n") {
        let n = to.read(&mut buffer)?;
        if n == 0 || head.len() > buffer.len() {
            bail!("no request");
        }
        head.extend_from_slice(&buffer[..n]);
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    let path = head.split(' ').nth(1).unwrap_or_default().trim_start_matches('/');
    let found = files.lock().unwrap_or_else(PoisonError::into_inner).get(path).cloned();
    let (status, body) = found.map_or(("404 Not Found", Vec::new()), |body| ("200 OK", body));
    write!(to, "HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len())?;
    Ok(to.write_all(&body)?)
}
