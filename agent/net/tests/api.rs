//! Requests that are not what they should be, at the HTTP API: each is refused with its reason, and does nothing.

use mew_kernel::Kernel;
use mew_lang::parse_ontology;
use mew_net::api::{Api, serve_api};
use mew_net::{Gate, Hub, HubConfig, serve_standby};
use mew_store::{MemDisk, Options, Store};
use mew_wire as wire;
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::ops::ControlFlow;
use std::pin::pin;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tonic::Code;
use tonic::transport::Endpoint;
use wire::kernel_client::KernelClient;

const PATIENCE: Duration = Duration::from_secs(60);

async fn start() -> (Arc<Kernel>, SocketAddr, CancellationToken) {
    let kernel = kernel();
    let (address, stop) = serve(&kernel, Gate::default()).await;
    (kernel, address, stop)
}

fn kernel() -> Arc<Kernel> {
    let o = parse_ontology("node Task { name: String? n: Int? }").expect("the ontology is right");
    let options = Options { kernel_id: "plant.here".into(), new_incarnation: "here-1".into(), segment_bytes: 1 << 20 };
    let (store, _) = Store::open(Arc::new(MemDisk::new()), Arc::new(o), options).expect("an empty store opens");
    Arc::new(Kernel::new(store))
}

async fn serve(kernel: &Arc<Kernel>, gate: Gate) -> (SocketAddr, CancellationToken) {
    let config = HubConfig { agent_version: "0.1.0".into(), observer: None, clock_offset_ms: 0 };
    let api = Api {
        kernel: kernel.clone(),
        hub: Hub::new(kernel.clone(), config),
        gate,
        hosts: vec!["kernel.example".to_owned()].into(),
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("its address");
    let stop = CancellationToken::new();
    tokio::spawn(serve_api(api, listener, stop.clone()));
    (address, stop)
}

/// Status and body of the answer to a request as it stands.
async fn send(address: SocketAddr, head: &str, body: &[u8]) -> (u16, String) {
    let ask = async {
        let mut tcp = TcpStream::connect(address).await?;
        let length = body.len();
        let head = format!("{head}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n");
        tcp.write_all(&[head.as_bytes(), body].concat()).await?;
        let mut answer = Vec::new();
        tcp.read_to_end(&mut answer).await?;
        Ok::<_, std::io::Error>(String::from_utf8_lossy(&answer).into_owned())
    };
    let answer = timeout(PATIENCE, ask).await.expect("an answer").expect("the connection holds");
    let code = answer.split(' ').nth(1).and_then(|c| c.parse().ok());
    let code = code.unwrap_or_else(|| panic!("no HTTP: {answer:?}"));
    (code, answer.split_once("\r\n\r\n").map_or("", |(_, body)| body).to_owned())
}

const EXECUTE: &str = "POST /v1/execute HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json";

async fn execute(address: SocketAddr, body: &Value) -> (u16, String) {
    send(address, EXECUTE, body.to_string().as_bytes()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_that_are_wrong_are_refused_and_do_nothing() {
    let (kernel, address, stop) = start().await;
    let spawn = r#"{"text": "SPAWN Task {name = \"a\"}"}"#;
    let param = |v: &str| format!(r#"{{"text": "SPAWN Task {{n = $n}}", "params": {{"n": {v}}}}}"#);
    let deep = format!(r#"{{"text": "", "params": {{"n": {}}}}}"#, "[".repeat(10_000));
    let bodies: [(&str, Vec<u8>, &str); 17] = [
        ("nothing", Vec::new(), ""),
        ("JSON that is cut off", spawn.as_bytes()[..spawn.len() - 1].to_vec(), "EOF"),
        ("something behind it", format!("{spawn}{spawn}").into(), "trailing"),
        ("no UTF-8", b"{\"text\": \"\xff\xfe\"}".to_vec(), ""),
        ("a list", b"[1, 2, 3]".to_vec(), ""),
        ("no text", b"{}".to_vec(), "text"),
        ("text that is none", b"{\"text\": 7}".to_vec(), "string"),
        ("a field that is not known", br#"{"text": "", "dryRun": true}"#.to_vec(), "dryRun"),
        ("parameters that are none", br#"{"text": "", "params": [1]}"#.to_vec(), "map"),
        ("brackets without end", deep.into(), "recursion"),
        ("a list as a value", param("[1]").into(), "parameter n"),
        ("two kinds of one value", param(r#"{"int": "1", "float": "1"}"#).into(), "parameter n"),
        ("a kind that is not known", param(r#"{"date": "2026-11-21"}"#).into(), "unknown kind date"),
        ("an integer that is none", param(r#"{"int": "0x10"}"#).into(), "int"),
        ("an integer that is too large", param(r#"{"int": "9223372036854775808"}"#).into(), "int"),
        ("a time that is none", param(r#"{"timestamp": "2026-13-41"}"#).into(), "timestamp"),
        ("a statement that is none", br#"{"text": "SPAWN Task {name: 1}"}"#.to_vec(), "expected `=`"),
    ];
    for (what, body, word) in bodies {
        let (code, said) = send(address, EXECUTE, &body).await;
        let error = serde_json::from_str::<Value>(&said).ok().and_then(|v| Some(v["error"].as_str()?.to_owned()));
        let error = error.unwrap_or_else(|| panic!("{what}: {code} without a reason: {said}"));
        assert!(code == 400 && error.contains(word), "{what}: {code}: {error}");
    }
    // A page of another site, by rebinding or by a form.
    let heads = [
        ("POST /v1/execute HTTP/1.1\r\nHost: evil.example\r\nContent-Type: application/json", 403),
        ("POST /v1/execute HTTP/1.1\r\nHost: localhost.evil.example:9000\r\nContent-Type: application/json", 403),
        ("POST /v1/execute HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/plain", 415),
        ("POST /v1/execute HTTP/1.1\r\nHost: localhost", 415),
        ("PUT /v1/execute HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json", 405),
        ("GET /v1/records/secrets HTTP/1.1\r\nHost: localhost", 404),
        ("GET /v1/backup HTTP/1.1\r\nHost: evil.example", 403),
        ("POST /v1/backup HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json", 405),
        ("GET /v1/records/held?limit=-1 HTTP/1.1\r\nHost: localhost", 400),
        ("GET /v1/status HTTP/1.1\r\nHost: kernel.example:9000", 200),
    ];
    for (head, want) in heads {
        let (code, said) = send(address, head, spawn.as_bytes()).await;
        assert_eq!(code, want, "{head}: {said}");
    }
    assert_eq!(kernel.head(), 0, "something was written");
    assert_eq!(send(address, EXECUTE, spawn.as_bytes()).await.0, 200);
    assert_eq!(kernel.head(), 1);
    stop.cancel();
}

/// In a condition, in a value or as a target: one answer, by both protocols.
#[tokio::test(flavor = "multi_thread")]
async fn a_reference_to_nothing_is_not_found() {
    let (kernel, address, stop) = start().await;
    let (code, said) = execute(address, &json!({"text": r#"SPAWN Task {_sync_id = "there", name = "a"}"#})).await;
    assert_eq!(code, 200, "{said}");
    let endpoint = Endpoint::from_shared(format!("http://{address}")).expect("an address");
    let mut client = KernelClient::new(endpoint.connect().await.expect("it listens"));
    for text in [
        "KILL #nobody",
        "SET #there.name = #nobody",
        "MATCH t: Task WHERE t = #nobody RETURN t",
        "MATCH t: Task WHERE t IN [#there, #nobody] KILL t",
        "MATCH t: Task WHERE exists(u: Task WHERE u = #nobody) RETURN t",
        "MATCH t: Task RETURN t = #nobody AS same",
    ] {
        let (code, said) = execute(address, &json!({"text": text})).await;
        assert!(code == 404 && said.contains("#nobody not found"), "{text}: {code}: {said}");
        let refused = client.execute(wire::ExecuteRequest { text: text.into(), ..Default::default() }).await;
        let refused = refused.expect_err(text);
        assert!(refused.code() == Code::NotFound && refused.message().contains("#nobody not found"), "{refused}");
    }
    // Also where it runs for rows.
    let body = json!({"text": "MATCH t: Task WHERE t = #nobody SET t.n = $n", "rowNames": ["n"], "rows": [[1], [2]]});
    let (code, said) = execute(address, &body).await;
    assert!(code == 404 && said.contains("#nobody not found"), "{code}: {said}");
    assert_eq!(kernel.head(), 1, "something was written");
    stop.cancel();
}

/// The ends of what 64 bits hold go in and come out as they are.
#[tokio::test(flavor = "multi_thread")]
async fn the_largest_and_smallest_integers_come_back() {
    let (_, address, stop) = start().await;
    for n in [i64::MIN, i64::MIN + 1, -(1 << 53) - 1, -(1 << 53), 0, 1 << 53, (1 << 53) + 1, i64::MAX] {
        let params = json!({"n": {"int": n.to_string()}});
        let text = "SPAWN x: Task {n = $n} RETURNING x.n";
        let (code, said) = execute(address, &json!({"text": text, "params": params})).await;
        assert_eq!(code, 200, "{n}: {said}");
        let answer: Value = serde_json::from_str(&said).expect("an answer is JSON");
        let exact = if n.unsigned_abs() <= 1 << 53 { json!(n) } else { json!({"int": n.to_string()}) };
        assert_eq!(answer["rows"], json!([[exact]]), "{n}");
    }
    stop.cancel();
}

/// What a kernel waits for may name paths; it is for whoever may call the API.
#[tokio::test(flavor = "multi_thread")]
async fn a_standby_tells_pages_of_other_sites_nothing() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("its address");
    let stop = CancellationToken::new();
    let hosts = vec!["kernel.example".to_owned()].into();
    tokio::spawn(serve_standby(listener, hosts, || "the-reason".to_owned(), stop.clone()));
    let heads = [
        ("GET /v1/status HTTP/1.1\r\nHost: localhost:9000", 503),
        ("GET /v1/status HTTP/1.1\r\nHost: [::1]", 503),
        ("GET /v1/status HTTP/1.1\r\nHost: kernel.example:9000", 503),
        ("GET /v1/status HTTP/1.1\r\nHost: evil.example", 403),
        ("GET /v1/status HTTP/1.1\r\nHost: localhost.evil.example:9000", 403),
        ("POST /mew.Kernel/Status HTTP/1.1\r\nHost: evil.example\r\nContent-Type: application/grpc", 403),
        ("GET /v1/status HTTP/1.0", 403),
    ];
    for (head, want) in heads {
        let (code, said) = send(address, head, b"").await;
        assert_eq!((code, said.contains("the-reason")), (want, want == 503), "{head}: {said}");
    }
    // gRPC names no Host, and is answered in its own language.
    let endpoint = Endpoint::from_shared(format!("http://{address}")).expect("an address");
    let channel = endpoint.connect().await.expect("a connection");
    let refused = KernelClient::new(channel).status(wire::StatusRequest::default()).await.expect_err("it is not open");
    assert_eq!(refused.code(), Code::Unavailable, "{refused}");
    assert!(refused.message().contains("the-reason"), "{refused}");
    stop.cancel();
}

/// Something that tells when it is called, and then stays there until the sender is dropped.
fn stops() -> (impl Fn() + Send + Sync + 'static, UnboundedReceiver<()>, Sender<()>) {
    let (come, comes) = unbounded_channel();
    let (go, wait) = channel();
    let wait = Mutex::new(wait);
    let here = move || {
        let _ = come.send(());
        let _ = wait.lock().expect("nobody panics with it").recv();
    };
    (here, comes, go)
}

fn ask(address: SocketAddr, text: &'static str) -> JoinHandle<(u16, String)> {
    tokio::spawn(async move { execute(address, &json!({"text": text})).await })
}

const SPAWN: &str = r#"SPAWN Task {name = "a"}"#;

#[tokio::test(flavor = "multi_thread")]
async fn an_end_does_not_wait_for_a_query() {
    let kernel = kernel();
    let (here, mut comes, go) = stops();
    // The first one who keeps records stays the one.
    kernel.keep_records(move |_, _, _| {
        here();
        Ok(ControlFlow::Continue(()))
    });
    let gate = Gate::default();
    let (address, stop) = serve(&kernel, gate.clone()).await;
    let query = ask(address, "MATCH r: _Remote RETURN r.name");
    timeout(PATIENCE, comes.recv()).await.expect("it runs");
    timeout(PATIENCE, gate.close()).await.expect("nobody writes");
    drop(go);
    let (code, said) = query.await.expect("it is answered");
    assert_eq!(code, 200, "{said}");
    let (code, said) = ask(address, SPAWN).await.expect("it is answered");
    assert!(code == 503 && said.contains("is stopping"), "{code}: {said}");
    assert_eq!(kernel.head(), 0, "something was written");
    stop.cancel();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_end_waits_for_what_is_being_written() {
    let kernel = kernel();
    let (here, mut comes, go) = stops();
    kernel.on_commit(move |_| here());
    let gate = Gate::default();
    let (address, stop) = serve(&kernel, gate.clone()).await;
    let write = ask(address, SPAWN);
    timeout(PATIENCE, comes.recv()).await.expect("it runs");
    let mut close = pin!(gate.close());
    assert!(futures::poll!(close.as_mut()).is_pending(), "it is still running");
    drop(go);
    timeout(PATIENCE, close).await.expect("it is done");
    let (code, said) = write.await.expect("it is answered");
    assert_eq!(code, 200, "{said}");
    stop.cancel();
}
