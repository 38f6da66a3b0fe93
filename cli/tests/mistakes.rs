//! Common mistakes: each is refused with what is wrong, where, and what to do, and nothing is said twice.

use mew_control::{Authorities, Ca};
use mew_kernel::Kernel;
use mew_lang::parse_ontology;
use mew_net::api::{Api, serve_api};
use mew_net::{Gate, Hub, HubConfig, serve_standby};
use mew_store::{Fault, MemDisk, Options, Store};
use mew_tls::Authority;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};
use tokio::net::TcpListener;
use tokio::sync::mpsc::unbounded_channel;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

const PATIENCE: Duration = Duration::from_secs(60);

fn command(args: &[&str]) -> Command {
    let mut c = Command::new(env!("CARGO_BIN_EXE_mew"));
    c.args(args).env_remove("MEW_STATE").env_remove("MEW_ADDRESS").env_remove("RUST_LOG");
    // Nobody's cluster.
    c.env("KUBECONFIG", "/nowhere/kubeconfig").env_remove("KUBERNETES_SERVICE_HOST");
    c
}

fn mew(args: &[&str]) -> Output {
    command(args).output().expect("it starts")
}

fn refused(args: &[&str], words: &[&str]) {
    let o = mew(args);
    let said = String::from_utf8_lossy(&o.stderr).into_owned();
    assert!(!o.status.success(), "{args:?}: {said}");
    for w in words {
        assert_eq!(said.matches(w).count(), 1, "{args:?} does not say {w:?} once: {said}");
    }
}

#[test]
fn an_address_is_a_host_and_a_port() {
    let query = "MATCH x: any RETURN COUNT(x)";
    for wrong in ["foo", "http://127.0.0.1:9000", ":80", "127.0.0.1:http"] {
        let words = [wrong, "is not <host>:<port>"];
        refused(&["query", "--address", wrong, query], &words);
        refused(&["store", "backup", "--address", wrong], &words);
        refused(&["held", "--address", wrong], &words);
    }
    refused(&["query", "--address", "127.0.0.1:1", query], &["no kernel answers at 127.0.0.1:1", "Connection refused"]);
}

/// The port for applications of a kernel without tasks.
fn serve(listener: TcpListener) -> CancellationToken {
    serve_on(MemDisk::new(), listener)
}

fn serve_on(disk: MemDisk, listener: TcpListener) -> CancellationToken {
    let o = parse_ontology("node Task { name: String? n: Int? }").expect("the ontology is right");
    let options = Options { kernel_id: "plant.here".into(), new_incarnation: "here-1".into(), segment_bytes: 1 << 20 };
    let (store, _) = Store::open(Arc::new(disk), Arc::new(o), options).expect("an empty store opens");
    let kernel = Arc::new(Kernel::new(store));
    let config = HubConfig { agent_version: "0.1.0".into(), observer: None, clock_offset_ms: 0 };
    let hub = Hub::new(kernel.clone(), config);
    let api = Api { kernel, hub, gate: Gate::default(), hosts: Vec::<String>::new().into() };
    let stop = CancellationToken::new();
    tokio::spawn(serve_api(api, listener, stop.clone()));
    stop
}

#[tokio::test(flavor = "multi_thread")]
async fn waiting_makes_no_statement_right() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("its address").to_string();
    let stop = serve(listener);
    let began = Instant::now();
    for (wrong, word) in [
        ("MATCH t: Task RETUR t.n", "RETUR"),
        ("MATCH t: Tusk RETURN t.n", "Tusk"),
        ("MATCH t: Task WHERE t.n = $n RETURN t.n", "parameter"),
    ] {
        let o = mew(&["query", "--wait=10m", "--address", &address, wrong]);
        let said = String::from_utf8_lossy(&o.stderr).into_owned();
        assert!(!o.status.success() && said.contains(word), "{wrong}: {said}");
    }
    // What returns nothing is done when it ran, and runs once.
    let o = mew(&["exec", "--wait=10m", "--address", &address, "SPAWN Task {n = 1}"]);
    let said = String::from_utf8_lossy(&o.stderr).into_owned();
    assert!(o.status.success() && said.contains("1 spawned"), "{said}");
    let o = mew(&["query", "--output=csv", "--address", &address, "MATCH t: Task RETURN COUNT(t)"]);
    assert!(String::from_utf8_lossy(&o.stdout).ends_with("\n1\n"), "{o:?}");
    assert!(began.elapsed() < PATIENCE, "something was waited for");
    stop.cancel();
}

/// First it is not open, then its port is closed, and then it answers.
#[tokio::test(flavor = "multi_thread")]
async fn a_kernel_that_is_not_ready_is_waited_for() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("its address");
    let (ask, mut asked) = unbounded_channel();
    let stop = CancellationToken::new();
    let why = move || {
        let _ = ask.send(());
        "another agent holds it".to_owned()
    };
    let standby = tokio::spawn(serve_standby(listener, Vec::<String>::new().into(), why, stop.clone()));
    let at = address.to_string();
    let mut c = command(&["query", "--wait=10m", "--output=csv", "--address", &at, "MATCH t: Task RETURN t.n"]);
    let child = c.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts");
    for _ in 0..2 {
        timeout(PATIENCE, asked.recv()).await.expect("it asks again").expect("the standby lives");
    }
    stop.cancel();
    standby.await.expect("it ends").expect("it served");
    let stop = serve(TcpListener::bind(address).await.expect("the same port"));
    let o = mew(&["exec", "--address", &at, "SPAWN Task {n = 7}"]);
    assert!(o.status.success(), "{}", String::from_utf8_lossy(&o.stderr));
    let waited = tokio::task::spawn_blocking(move || child.wait_with_output());
    let o = timeout(PATIENCE, waited).await.expect("in time").expect("it is looked at").expect("it ends");
    assert!(o.status.success(), "{}", String::from_utf8_lossy(&o.stderr));
    assert_eq!(String::from_utf8_lossy(&o.stdout), "t.n\n7\n");
    stop.cancel();
}

/// Takes every statement and hangs up before it answers. It is heard of each.
fn hangs_up() -> (String, Receiver<()>) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("its address").to_string();
    let (say, heard) = channel();
    thread::spawn(move || {
        for mut c in listener.incoming().map_while(Result::ok) {
            let (mut taken, mut more) = (Vec::new(), [0; 1024]);
            while !taken.windows(8).any(|w| w == b" x: Task" || w == b"PAWN Tas") {
                match c.read(&mut more) {
                    Ok(n) if n > 0 => taken.extend_from_slice(&more[..n]),
                    _ => break,
                }
            }
            if say.send(()).is_err() {
                return;
            }
        }
    });
    (address, heard)
}

/// Its answer was lost, or only says that something went wrong: twice would be worse than not to know.
#[tokio::test(flavor = "multi_thread")]
async fn a_write_that_may_have_run_is_not_run_again() {
    let (address, heard) = hangs_up();
    let disk = MemDisk::new();
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let full = listener.local_addr().expect("its address").to_string();
    let stop = serve_on(disk.clone(), listener);
    disk.set_fault(Fault { room: Some(0), ..Fault::default() });
    for (address, word) in [(&address, "the connection broke"), (&full, "the disk is full")] {
        for command in ["exec", "query"] {
            let began = Instant::now();
            let o = mew(&[command, "--wait=3m", "--address", address, "SPAWN Task {n = 1}"]);
            let said = String::from_utf8_lossy(&o.stderr).into_owned();
            assert!(!o.status.success() && said.contains(word), "{said}");
            assert!(began.elapsed() < PATIENCE, "something was waited for: {said}");
        }
    }
    stop.cancel();
    // What only reads may be asked as often as one likes.
    let asked = heard.try_iter().count();
    assert!(asked >= 2, "{asked}");
    let mut c = command(&["query", "--wait=10m", "--address", &address, "MATCH x: Task RETURN x.n"]);
    let child = c.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("it starts");
    let _running = Running(child);
    // One try may open more than one connection.
    for _ in 0..6 {
        heard.recv_timeout(PATIENCE).expect("it asks again");
    }
}

/// While the last statement finds nothing, the whole script would run again.
#[tokio::test(flavor = "multi_thread")]
async fn no_script_writes_again_to_wait_for_a_row() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("its address").to_string();
    let stop = serve(listener);
    for script in [
        "SPAWN Task {n = 1}; MATCH t: Task WHERE t.n = 2 RETURN t.n",
        "MATCH t: Task RETURN t.n; SPAWN Task {n = 1}; MATCH t: Task WHERE t.n = 2 RETURN t.n",
        "BEGIN; SPAWN Task {n = 1}; MATCH t: Task WHERE t.n = 2 RETURN t.n; COMMIT",
        "SPAWN Task {n = 1}; MATCH t: Task WHERE t.n = 2 SET t.n = 3 RETURNING t.n",
    ] {
        for command in ["exec", "query"] {
            let words = ["with --wait", "run the writes by themselves"];
            refused(&[command, "--wait=10m", "--address", &address, script], &words);
        }
    }
    let count = ["query", "--output=csv", "--address", &address, "MATCH t: Task RETURN COUNT(t)"];
    assert!(String::from_utf8_lossy(&mew(&count).stdout).ends_with("\n0\n"), "something was written");
    // What changes nothing until it returns a row is waited for, and what returns no rows runs once.
    let claim = "MATCH t: Task WHERE t.n = 7 SET t.n = 8 RETURNING t.n";
    let mut c = command(&["exec", "--wait=10m", "--output=csv", "--address", &address, claim]);
    let child = c.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts");
    let o = mew(&["exec", "--wait=10m", "--address", &address, "SPAWN Task {n = 7}; SPAWN Task {n = 9}"]);
    assert!(o.status.success(), "{}", String::from_utf8_lossy(&o.stderr));
    let waited = tokio::task::spawn_blocking(move || child.wait_with_output());
    let o = timeout(PATIENCE, waited).await.expect("in time").expect("it is looked at").expect("it ends");
    let said = String::from_utf8_lossy(&o.stderr);
    assert!(o.status.success() && said.contains("1 set"), "{said}");
    assert_eq!(String::from_utf8_lossy(&o.stdout), "t.n\n8\n");
    assert!(String::from_utf8_lossy(&mew(&count).stdout).ends_with("\n2\n"), "something was written twice");
    stop.cancel();
}

#[test]
fn what_is_not_there_is_named() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = |name: &str| dir.path().join(name).display().to_string();
    let state = path("state");
    refused(&["get", "syncs", "--state", &state], &["is `mew run --state", "No such file or directory"]);
    refused(&["get", "syncs"], &["no kubeconfig can be read", "--state", "No such file or directory"]);
    let o = mew(&["inject", "--trust-domain", "here.example"]);
    let said = String::from_utf8_lossy(&o.stderr).into_owned();
    assert!(said.contains("--roots") && !said.contains("--state"), "it names an option that inject has not: {said}");
    fs::write(path("file"), "").expect("a file");
    refused(&["crds", "--write", &path("file/crds")], &[&path("file/crds")]);
    refused(
        &["run", "--manifests", ".", "--state", &state, "--trust-domain", "A_b"],
        &["a trust domain is lower-case"],
    );
    let operator = ["agent", "--kernel", "k", "--data", &state, "--ontology", &state, "--operator", "here:there"];
    refused(&operator, &["--operator \"here:there\" has no port"]);
}

/// Ends with the test, however that ends.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn an_operator_without_manifests_says_what_it_waits_for() {
    let dir = tempfile::tempdir().expect("a directory");
    let (manifests, state) = (dir.path().join("manifests"), dir.path().join("state").display().to_string());
    let given = manifests.display().to_string();
    let mut c = command(&["run", "--manifests", &given, "--state", &state, "--trust-domain", "here.example"]);
    let child = c.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("it starts");
    let mut running = Running(child);
    let lines = BufReader::new(running.0.stderr.take().expect("a pipe")).lines();
    let (say, said) = channel();
    thread::spawn(move || lines.map_while(Result::ok).try_for_each(|l| say.send(l)));
    let hears = |words: &[&str]| loop {
        let line = said.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("it does not say {words:?}"));
        if words.iter().all(|w| line.contains(w)) {
            return;
        }
    };
    hears(&[given.as_str(), "is not there", "is --manifests right?"]);
    fs::create_dir(&manifests).expect("a directory");
    hears(&[given.as_str(), "there is no manifest in", "`mew trust export`"]);
}

#[test]
fn files_without_anything_to_check_are_not_called_good() {
    let dir = tempfile::tempdir().expect("a directory");
    let here = dir.path().display().to_string();
    refused(&["validate", &here], &[&here, "no file in it"]);
    fs::write(dir.path().join("typo.yaml"), "kind: Syncc\nmetadata: {name: a}\n").expect("a file");
    fs::write(dir.path().join(".hidden.yaml"), "{").expect("a file");
    let o = mew(&["validate", &here]);
    let said = String::from_utf8_lossy(&o.stdout).into_owned();
    assert!(o.status.success(), "{}", String::from_utf8_lossy(&o.stderr));
    assert!(said.contains("typo.yaml: no Remote, Sync") && !said.contains(": ok"), "{said}");
    fs::write(dir.path().join("a.ontology"), "ontology A { node T { a: Strin } }").expect("a file");
    refused(&["validate", &here], &["error: unknown scalar type Strin", "a.ontology"]);
}

/// A state directory as an operator leaves it.
fn state_with(ca: Authority) -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a directory");
    let all = Authorities::first(Ca::new(ca, 7).expect("it has a fingerprint"));
    let bytes = serde_json::to_vec(&all.to_data()).expect("JSON");
    fs::write(dir.path().join("ca.json"), bytes).expect("a file");
    dir
}

#[test]
fn the_trust_domain_of_a_state_directory_is_that_of_its_ca() {
    let done = |args: &[&str]| {
        let o = mew(args);
        assert!(o.status.success(), "{args:?}: {}", String::from_utf8_lossy(&o.stderr));
        String::from_utf8_lossy(&o.stdout).into_owned()
    };
    let here = state_with(Authority::new("here.example").expect("a CA"));
    let state = here.path().display().to_string();
    let export = ["trust", "export", "--kernel", "shop", "--state", &state];
    let steps: [&[&str]; 3] =
        [&["trust", "rotate", "--state", &state], &["trust", "rotate", "publish", "--state", &state], &export];
    for args in steps {
        let other = [args, ["--trust-domain", "there.example"].as_slice()].concat();
        let words = ["is of the trust domain here.example, not there.example", "say --trust-domain here.example"];
        refused(&other, &words);
        done(args);
    }
    let said = done(&export);
    assert!(said.contains("trustDomain: here.example"), "{said}");
    // What was published is of it as well.
    assert_eq!(said.matches("-----BEGIN CERTIFICATE-----").count(), 2, "{said}");
    done(&[export.as_slice(), ["--trust-domain", "here.example"].as_slice()].concat());

    let own = state_with(Authority::of_servers("a CA of one's own", 3600).expect("a CA"));
    let state = own.path().display().to_string();
    let rotate = ["trust", "rotate", "--state", &state];
    refused(&rotate, &["names no trust domain", "--trust-domain"]);
    done(&[rotate.as_slice(), ["--trust-domain", "here.example"].as_slice()].concat());
}
