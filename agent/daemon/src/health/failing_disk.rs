//! A disk that fails under an agent, as applications and the probe see it: writes are refused and say why, the agent calls
//! itself not ready for the same reason, reads go on, nothing that was acknowledged is lost, and all is well again when the
//! disk is, unless a sync has failed.

use super::{Health, serve};
use crate::upkeep;
use mew_kernel::Kernel;
use mew_lang::parse_ontology;
use mew_net::api::{Api, serve_api};
use mew_net::{Gate, Hub, HubConfig};
use mew_store::{Fault, MemDisk, Options, Store, StoreError, Upkeep};
use mew_wire as wire;
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tonic::Code;
use tonic::transport::Endpoint;
use wire::kernel_client::KernelClient;

/// Everything here takes milliseconds; this is for a machine that is busy with something else.
const PATIENCE: Duration = Duration::from_secs(60);
const LOOK: Duration = Duration::from_millis(10);

/// What an agent has open to applications and to the kubelet, on a disk that can be broken.
struct Agent {
    disk: MemDisk,
    kernel: Arc<Kernel>,
    hub: Arc<Hub>,
    probe: Health,
    api: SocketAddr,
    health: SocketAddr,
    stop: CancellationToken,
}

pub(super) async fn listener() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("its address");
    (listener, address)
}

impl Agent {
    async fn start(disk: MemDisk) -> Self {
        let o = parse_ontology("node Task { name: String }").expect("the ontology is right");
        let options =
            Options { kernel_id: "plant.here".into(), new_incarnation: "here-1".into(), segment_bytes: 1 << 20 };
        let (store, _) = Store::open(Arc::new(disk.clone()), Arc::new(o), options).expect("the store opens");
        let kernel = Arc::new(Kernel::new(store));
        let config = HubConfig { agent_version: "test".into(), observer: None, clock_offset_ms: 0 };
        let hub = Hub::new(kernel.clone(), config);
        let probe = Health::new();
        probe.set_kernel(kernel.clone(), hub.clone());
        let ((for_api, api), (for_health, health)) = (listener().await, listener().await);
        let stop = CancellationToken::new();
        let served = Api { kernel: kernel.clone(), hub: hub.clone(), gate: Gate::default(), hosts: Vec::new().into() };
        tokio::spawn(serve_api(served, for_api, stop.clone()));
        tokio::spawn(serve(probe.clone(), for_health, stop.clone()));
        Agent { disk, kernel, hub, probe, api, health, stop }
    }

    async fn get(&self, path: &str) -> (u16, String) {
        send(self.health, &format!("GET {path} HTTP/1.1\r\nHost: localhost"), "").await
    }

    async fn execute(&self, text: &str) -> (u16, Value) {
        let head = "POST /v1/execute HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json";
        let (code, body) = send(self.api, head, &json!({"text": text}).to_string()).await;
        (code, serde_json::from_str(&body).unwrap_or_else(|e| panic!("{text}: {code}: {body}: {e}")))
    }

    async fn write(&self, name: &str) -> (u16, Value) {
        self.execute(&spawn(name)).await
    }

    async fn must_write(&self, name: &str, when: &str) {
        let (code, said) = self.write(name).await;
        assert_eq!(code, 200, "{when}: {said}");
    }

    /// What is there, as an application reads it.
    async fn names(&self) -> Vec<String> {
        let (code, said) = self.execute("MATCH t: Task RETURN t.name ORDER BY t.name").await;
        assert_eq!(code, 200, "reads go on: {said}");
        let rows = said["rows"].as_array().expect("rows");
        rows.iter().map(|r| r[0].as_str().expect("a name").to_owned()).collect()
    }

    /// A write is refused in both languages of the API, and the probe says the same as they do. Returns what.
    async fn refuses(&self, when: &str) -> String {
        let (code, said) = self.write("refused").await;
        let why = said["error"].as_str().unwrap_or_else(|| panic!("{when}: {code}: {said}")).to_owned();
        assert_eq!(code, 503, "{when}: {why}");
        let endpoint = Endpoint::from_shared(format!("http://{}", self.api)).expect("an address");
        let mut grpc = KernelClient::new(endpoint.connect().await.expect("a connection"));
        let request = wire::ExecuteRequest { text: spawn("refused"), ..wire::ExecuteRequest::default() };
        let status = grpc.execute(request).await.expect_err(when);
        assert_eq!((status.code(), status.message()), (Code::Unavailable, why.as_str()), "{when}");
        let (code, probe) = self.get("/ready").await;
        assert_eq!((code, probe), (503, format!("the store cannot be written: {why}\n")), "{when}");
        // When to restart is for people to decide: reads go on until then.
        assert_eq!(self.get("/live").await.0, 200, "{when}");
        why
    }

    async fn is_ready(&self, when: &str) {
        let (code, said) = self.get("/ready").await;
        assert_eq!((code, said.as_str()), (200, "ready\n"), "{when}");
    }

    async fn becomes_ready(&self, when: &str) {
        self.comes_to_say("/ready", |code, _| code == 200, when).await;
    }

    async fn comes_to_say(&self, path: &str, it: impl Fn(u16, &str) -> bool, when: &str) {
        let end = Instant::now() + PATIENCE;
        loop {
            let (code, said) = self.get(path).await;
            if it(code, &said) {
                return;
            }
            assert!(Instant::now() < end, "{when}: not after {PATIENCE:?}: {said}");
            tokio::time::sleep(LOOK).await;
        }
    }

    /// The agent's own, which looks at once when it begins.
    fn keep_up(&self) {
        tokio::spawn(upkeep::run(self.kernel.clone(), self.probe.clone(), self.stop.clone()));
    }

    /// Another process on what this one leaves, or a power loss leaves of it.
    async fn restarted(&self, power_is_lost: bool) -> Agent {
        let disk = self.disk.copy();
        if power_is_lost {
            disk.crash(0);
        }
        Agent::start(disk).await
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.stop.cancel();
        self.hub.shutdown();
    }
}

fn spawn(name: &str) -> String {
    format!(r#"SPAWN Task {{name = "{name}"}}"#)
}

/// Status and body of the answer.
pub(super) async fn send(address: SocketAddr, head: &str, body: &str) -> (u16, String) {
    let ask = async {
        let mut tcp = TcpStream::connect(address).await?;
        let length = body.len();
        let text = format!("{head}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}");
        tcp.write_all(text.as_bytes()).await?;
        let mut answer = Vec::new();
        tcp.read_to_end(&mut answer).await?;
        Ok::<_, std::io::Error>(String::from_utf8_lossy(&answer).into_owned())
    };
    let answer = tokio::time::timeout(PATIENCE, ask).await.expect("an answer").expect("the connection holds");
    let code = answer.split(' ').nth(1).and_then(|c| c.parse().ok());
    let code = code.unwrap_or_else(|| panic!("no HTTP: {answer:?}"));
    (code, answer.split_once("\r\n\r\n").map_or("", |(_, body)| body).to_owned())
}

/// An agent with what it has acknowledged.
async fn with_three() -> (Agent, Vec<String>) {
    let a = Agent::start(MemDisk::new()).await;
    let names = ["a", "b", "c"].map(str::to_owned).to_vec();
    for name in &names {
        a.must_write(name, "at first").await;
    }
    let (code, page) = a.get("/metrics").await;
    assert!(code == 200 && page.contains("\nmew_agent_serving 1\n") && page.ends_with("# EOF\n"), "{code}: {page}");
    a.is_ready("at first").await;
    (a, names)
}

/// What the disk does, and what is said of it.
fn faults() -> [(&'static str, Fault, &'static str); 7] {
    let none = Fault::default();
    let unwritten = "the log cannot be written: look at the disk, each write tries again";
    let full = "the disk is full; free some space, then it goes on by itself";
    [
        ("full", Fault { room: Some(0), ..none }, full),
        ("full after a part of a write", Fault { room: Some(60), ..none }, full),
        ("EIO", Fault { writes_fail: Some(0), ..none }, unwritten),
        ("a short write", Fault { writes_fail: Some(50), ..none }, unwritten),
        ("a write that arrives and fails", Fault { writes_fail: Some(usize::MAX), ..none }, unwritten),
        (
            "read-only",
            Fault { read_only: true, ..none },
            "the disk is read-only: writes go on when it can be written to again",
        ),
        ("lost", Fault { lost: true, ..none }, "the data directory is gone: writes go on when it is back"),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failing_disk_stops_writes_with_a_reason_and_no_reads_until_it_works_again() {
    for (what, fault, says) in faults() {
        // With the first write after it, or though nobody writes.
        for somebody_writes in [true, false] {
            let when = format!("{what}, somebody writes: {somebody_writes}");
            let (a, mut names) = with_three().await;
            a.disk.set_fault(fault);
            for _ in 0..2 {
                let why = a.refuses(&when).await;
                assert!(why.starts_with(says), "{when}: {why}");
                assert_eq!(a.names().await, names, "{when}");
            }
            // Whatever happens to the process now.
            let crashed = a.restarted(true).await;
            assert!(crashed.names().await.starts_with(&names), "{when}: what was acknowledged is there");
            crashed.is_ready(&when).await;

            a.disk.set_fault(Fault::default());
            if somebody_writes {
                a.must_write("d", &when).await;
                names.push("d".to_owned());
            }
            a.keep_up();
            a.becomes_ready(&when).await;
            a.must_write("e", &when).await;
            names.push("e".to_owned());
            assert_eq!(a.names().await, names, "{when}: what was acknowledged, and nothing that was refused");
            for power_is_lost in [false, true] {
                let again = a.restarted(power_is_lost).await;
                assert_eq!(again.names().await, names, "{when}, restarted, power lost: {power_is_lost}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_failed_sync_only_a_restart_helps_and_it_says_so() {
    let (a, names) = with_three().await;
    a.disk.set_fault(Fault { sync_fails: true, ..Fault::default() });
    let why = a.refuses("the sync fails").await;
    for word in ["restart", "a sync of the log failed", "not known what of it is on the disk"] {
        assert!(why.contains(word), "{word:?} is not in {why:?}");
    }
    a.disk.set_fault(Fault::default());
    for when in ["the disk works again", "upkeep changes nothing"] {
        assert_eq!(a.refuses(when).await, why, "{when}");
        assert_eq!(a.names().await, names, "{when}");
        let kept = tokio::task::block_in_place(|| a.kernel.maintain(&Upkeep::routine(0, 0)));
        assert!(matches!(kept, Err(StoreError::Broken(_))), "{when}: {kept:?}");
    }
    for power_is_lost in [false, true] {
        let when = format!("restarted, power lost: {power_is_lost}");
        let again = a.restarted(power_is_lost).await;
        again.is_ready(&when).await;
        let found = again.names().await;
        // The one whose sync failed may be there: whoever wrote it was told that nobody knows.
        assert!(found.starts_with(&names) && found.len() <= names.len() + 1, "{when}: {found:?}");
        again.must_write("z", &when).await;
        assert_eq!(again.names().await.len(), found.len() + 1, "{when}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn upkeep_that_fails_is_seen_in_the_metrics() {
    let (a, _) = with_three().await;
    let failures = |said: &str| -> Option<u32> {
        said.lines().find_map(|l| l.strip_prefix("mew_kernel_upkeep_failures ")?.parse().ok())
    };
    a.comes_to_say("/metrics", |_, said| failures(said) == Some(0), "all is well").await;
    a.disk.set_fault(Fault { sync_fails: true, ..Fault::default() });
    a.refuses("the sync fails").await;
    a.keep_up();
    a.comes_to_say("/metrics", |_, said| failures(said) > Some(0), "nothing can be written until a restart").await;
}
