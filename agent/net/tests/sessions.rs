//! Connections that are not what they should be, against a hub that listens: each ends alone and with a reason, nothing gets
//! into the kernel, and honest peers come and go as before. And a hub that dials what is not there any more.

use bytes::{Buf, BufMut, Bytes};
use http::uri::PathAndQuery;
use mew_contract::report::LinkState;
use mew_contract::samples::{HERE, THERE, remote_item};
use mew_contract::snapshot::{Endpoint as Address, Keepalive};
use mew_contract::{Problem, Reason, RemoteItem};
use mew_kernel::Kernel;
use mew_lang::parse_ontology;
use mew_net::{Hub, HubConfig, serve_federation};
use mew_store::{MemDisk, Options, Store};
use mew_tls::{Authority, Material, SpiffeId, Trust, client_config, connect, new_request};
use mew_wire as wire;
use prost::Message;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Code, Request, Status, Streaming};
use wire::federation_client::FederationClient;
use wire::frame::Body;

const HOUR: i64 = 3600;
/// Everything here takes milliseconds; this is for a machine that is busy with something else.
const PATIENCE: Duration = Duration::from_secs(60);
const LOOK: Duration = Duration::from_millis(10);
/// Small, so that a peer that does not read stops the other end soon.
const WINDOW: u32 = 64 << 10;

/// Waits for a condition.
async fn until(what: &str, mut look: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !look() {
        assert!(Instant::now() < end, "{what}: not after {PATIENCE:?}");
        tokio::time::sleep(LOOK).await;
    }
}

fn authority(domain: &str) -> Authority {
    Authority::new(domain).expect("a CA")
}

fn material(ca: &Authority, id: &SpiffeId) -> Material {
    let request = new_request().expect("a request");
    let chain_pem = ca.sign(&request.pem, id, &[], HOUR).expect("a certificate");
    Material { chain_pem, key_pem: request.key_pem }
}

fn there(ca: &Authority) -> Material {
    material(ca, &SpiffeId::kernel("there.example", THERE))
}

fn remote(roots: &[&Authority]) -> RemoteItem {
    RemoteItem {
        roots: roots.iter().map(|ca| ca.cert_pem.clone()).collect(),
        connect_timeout_ms: 30_000,
        keepalive: Keepalive { interval_ms: 20_000, timeout_ms: 50_000, failure_threshold: 3 },
        ..remote_item(&["*"])
    }
}

/// A hub that listens on loopback and accepts one peer.
struct Here {
    ca: Authority,
    kernel: Arc<Kernel>,
    hub: Arc<Hub>,
    address: SocketAddr,
    stop: CancellationToken,
}

impl Here {
    async fn start(roots: &[&Authority]) -> Self {
        let o = parse_ontology("node Task { name: String? }").expect("the ontology is right");
        let options = Options { kernel_id: HERE.into(), new_incarnation: "here-1".into(), segment_bytes: 1 << 20 };
        let (store, _) = Store::open(Arc::new(MemDisk::new()), Arc::new(o), options).expect("an empty store opens");
        let kernel = Arc::new(Kernel::new(store));
        let config = HubConfig { agent_version: "0.1.0".into(), observer: None, clock_offset_ms: 0 };
        let hub = Hub::new(kernel.clone(), config);
        let ca = authority("here.example");
        hub.set_material(material(&ca, &SpiffeId::kernel("here.example", HERE)));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("its address");
        let stop = CancellationToken::new();
        let h = Here { ca, kernel, hub: hub.clone(), address, stop: stop.clone() };
        h.configure(roots);
        tokio::spawn(serve_federation(hub, listener, stop));
        h
    }

    fn configure(&self, roots: &[&Authority]) {
        tokio::task::block_in_place(|| self.hub.configure(vec![remote(roots)], Vec::new()));
    }

    /// How the link is, and why if it is not up.
    fn link(&self) -> (Option<LinkState>, Option<Problem>) {
        match self.hub.report().0.pop() {
            Some(r) => (Some(r.state), r.problem),
            None => (None, None),
        }
    }

    fn is_up(&self) -> bool {
        self.link().0 == Some(LinkState::Connected)
    }

    /// One TCP connection, however many sessions are opened over it.
    async fn channel(&self, own: Option<&Material>) -> Result<Channel, tonic::transport::Error> {
        let mut trust = Trust::default();
        trust.add_roots("here.example", [self.ca.cert_pem.as_str()]).expect("roots");
        trust.expect(SpiffeId::kernel("here.example", HERE));
        let tls = client_config(own, trust).expect("a configuration");
        let tcp = TcpStream::connect(self.address).await.expect("the port is open");
        let (io, _) = connect(tcp, "127.0.0.1", tls).await.expect("this side trusts the other");
        let io = Arc::new(Mutex::new(Some(io)));
        Endpoint::from_static("https://here")
            .initial_stream_window_size(WINDOW)
            .connect_with_connector(tower::service_fn(move |_: Uri| {
                let io = io.lock().expect("nobody panics with it").take();
                async move { io.ok_or_else(|| std::io::Error::other("the connection is used up")) }
            }))
            .await
    }

    async fn honest(&self, ca: &Authority) -> Session {
        let channel = self.channel(Some(&there(ca))).await.expect("a connection");
        self.greet(&channel).await
    }

    /// A session that is up.
    async fn greet(&self, channel: &Channel) -> Session {
        let mut s = open(channel).await.expect("a session");
        let first = s.from.message().await.expect("a frame").and_then(|f| f.body);
        assert!(matches!(first, Some(Body::Handshake(_))), "{first:?}");
        s.to.send(frame(Body::Handshake(handshake()))).await.expect("the session is open");
        until("the link is up", || self.is_up()).await;
        s
    }
}

impl Drop for Here {
    fn drop(&mut self) {
        self.stop.cancel();
        self.hub.shutdown();
    }
}

struct Session {
    to: mpsc::Sender<wire::Frame>,
    from: Streaming<wire::Frame>,
}

impl Session {
    /// Reads to the end, whichever it is; the number of frames.
    async fn ends(&mut self) -> usize {
        let all = async {
            let mut n = 0;
            while let Ok(Some(_)) = self.from.message().await {
                n += 1;
            }
            n
        };
        tokio::time::timeout(PATIENCE, all).await.expect("the session ends")
    }
}

async fn open(channel: &Channel) -> Result<Session, Status> {
    let (to, rx) = mpsc::channel(64);
    let from = FederationClient::new(channel.clone()).session(ReceiverStream::new(rx)).await?.into_inner();
    Ok(Session { to, from })
}

fn frame(body: Body) -> wire::Frame {
    wire::Frame { body: Some(body) }
}

fn handshake() -> wire::Handshake {
    wire::Handshake {
        protocol_min: 1,
        protocol_max: 1,
        kernel_id: THERE.into(),
        incarnation: "there-1".into(),
        agent_version: "0.1.0".into(),
        ..wire::Handshake::default()
    }
}

/// Sends any bytes as a message, and does not care for what comes.
struct Raw;

impl Codec for Raw {
    type Encode = Vec<u8>;
    type Decode = ();
    type Encoder = Raw;
    type Decoder = Raw;
    fn encoder(&mut self) -> Raw {
        Raw
    }
    fn decoder(&mut self) -> Raw {
        Raw
    }
}

impl Encoder for Raw {
    type Item = Vec<u8>;
    type Error = Status;
    fn encode(&mut self, item: Vec<u8>, to: &mut EncodeBuf<'_>) -> Result<(), Status> {
        to.put_slice(&item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = ();
    type Error = Status;
    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<()>, Status> {
        let n = from.remaining();
        from.advance(n);
        Ok(Some(()))
    }
}

async fn open_raw(channel: &Channel) -> (mpsc::Sender<Vec<u8>>, Streaming<()>) {
    let (to, rx) = mpsc::channel(8);
    let mut client = tonic::client::Grpc::new(channel.clone());
    client.ready().await.expect("the connection is open");
    let path = PathAndQuery::from_static("/mew.v1.Federation/Session");
    let from = client.streaming(Request::new(ReceiverStream::new(rx)), path, Raw).await.expect("a session");
    (to, from.into_inner())
}

// ---------------------------------------------------------------- who may

#[tokio::test(flavor = "multi_thread")]
async fn who_is_no_peer_gets_no_session() {
    let (ca, stranger) = (authority("there.example"), authority("there.example"));
    let h = Here::start(&[&ca]).await;
    let other = material(&ca, &SpiffeId::kernel("there.example", "plant.third"));
    let operator = material(&ca, &SpiffeId::operator("there.example"));
    let of = |ca: &Authority, seconds: i64| {
        let request = new_request().expect("a request");
        let id = SpiffeId::kernel("there.example", THERE);
        let chain_pem = ca.sign(&request.pem, &id, &[], seconds).expect("a certificate");
        Material { chain_pem, key_pem: request.key_pem }
    };
    let wrong = [
        ("no certificate", None),
        ("another CA of the same name", Some(of(&stranger, HOUR))),
        ("another kernel", Some(other)),
        ("an operator", Some(operator)),
        ("a certificate that has expired", Some(of(&ca, -HOUR))),
    ];
    for (what, own) in wrong {
        // In TLS 1.3 the client learns of the refusal only when it uses the connection.
        if let Ok(channel) = h.channel(own.as_ref()).await {
            assert!(open(&channel).await.is_err(), "{what} got a session");
        }
        assert!(!h.is_up(), "{what}");
    }
    h.honest(&ca).await;
    assert_eq!(h.kernel.head(), 0);
}

/// A root that is gone may be one that was stolen. What it let in must prove itself again, also over a connection that is
/// still there.
#[tokio::test(flavor = "multi_thread")]
async fn a_root_that_is_gone_lets_nobody_in_over_an_old_connection() {
    let (ca, next) = (authority("there.example"), authority("there.example"));
    let h = Here::start(&[&ca]).await;
    let channel = h.channel(Some(&there(&ca))).await.expect("a connection");
    let mut s = h.greet(&channel).await;
    // One more root closes nothing.
    h.configure(&[&ca, &next]);
    assert!(h.is_up());
    h.configure(&[&next]);
    s.ends().await;
    assert!(!h.is_up());
    match open(&channel).await {
        Ok(_) => panic!("a session under a root that is gone"),
        Err(refused) => assert_eq!(refused.code(), Code::PermissionDenied, "{refused:?}"),
    }
    assert!(!h.is_up());
    h.honest(&next).await;
    // Over the same connection, once the root is back: it was not the connection that was refused.
    h.configure(&[&ca, &next]);
    h.greet(&channel).await;
    h.configure(&[]);
    assert!(open(&channel).await.is_err(), "a session without any root");
}

// ---------------------------------------------------------------- what they send

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_frame_ends_its_connection_and_no_other() {
    let ca = authority("there.example");
    let h = Here::start(&[&ca]).await;
    let whole = frame(Body::Handshake(handshake())).encode_to_vec();
    let huge = wire::SyncPush { entities: vec![Bytes::from(vec![0; 17 << 20])], ..wire::SyncPush::default() };
    let wrong = [
        ("no protobuf", vec![0xff; 24], "decode"),
        ("a frame that is cut off", whole[..whole.len() - 3].to_vec(), "decode"),
        ("a field of another kind", vec![0x10, 0x01], "decode"),
        ("a frame that is too large", frame(Body::SyncPush(huge)).encode_to_vec(), "too large"),
    ];
    for (what, bytes, word) in wrong {
        let channel = h.channel(Some(&there(&ca))).await.expect("a connection");
        let (to, mut from) = open_raw(&channel).await;
        to.send(whole.clone()).await.expect("the session is open");
        until("the link is up", || h.is_up()).await;
        to.send(bytes).await.expect("the session is open");
        until(what, || !h.is_up()).await;
        let problem = h.link().1.unwrap_or_else(|| panic!("{what}: it does not say why"));
        assert!(problem.reason == Reason::Unreachable && problem.message.contains(word), "{what}: {problem:?}");
        let end = async { while let Ok(Some(())) = from.message().await {} };
        tokio::time::timeout(PATIENCE, end).await.expect("the session ends");
    }
    // Not even TLS.
    let mut tcp = TcpStream::connect(h.address).await.expect("the port is open");
    tcp.write_all(b"GET / HTTP/1.1\r\nHost: here\r\n\r\n").await.expect("it is sent");
    let mut rest = Vec::new();
    let _ = tokio::time::timeout(PATIENCE, tcp.read_to_end(&mut rest)).await.expect("the connection is closed");
    h.honest(&ca).await;
    assert_eq!(h.kernel.head(), 0);
}

/// Its answers would pile up.
#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_sends_and_does_not_read_is_given_up() {
    let ca = authority("there.example");
    let h = Here::start(&[&ca]).await;
    let mut s = h.honest(&ca).await;
    let to = s.to.clone();
    let flood = tokio::spawn(async move {
        let mut nonce = 0;
        while to.send(frame(Body::Ping(wire::Ping { nonce }))).await.is_ok() {
            nonce += 1;
        }
    });
    let given_up = || h.link().1.is_some_and(|p| p.message.contains("does not read"));
    until("the peer is given up", given_up).await;
    // One with better manners is welcome.
    let mut again = h.honest(&ca).await;
    again.to.send(frame(Body::Ping(wire::Ping { nonce: 7 }))).await.expect("the session is open");
    let answer = async {
        loop {
            match again.from.message().await {
                Ok(Some(wire::Frame { body: Some(Body::Pong(p)) })) => return p.nonce,
                Ok(Some(_)) => {}
                end => panic!("the session ended: {end:?}"),
            }
        }
    };
    assert_eq!(tokio::time::timeout(PATIENCE, answer).await.expect("a pong"), 7);
    // What waited for the other is gone: it finds what its windows held, and the end.
    let left = s.ends().await;
    assert!(left < 20_000, "{left} frames were kept for it");
    flood.abort();
}

// ---------------------------------------------------------------- whom it dials

/// Somebody listens there who never answers: it is not waited for once the Remote has another address.
#[tokio::test(flavor = "multi_thread")]
async fn a_dial_to_an_address_of_before_is_given_up() {
    let ca = authority("there.example");
    let h = Here::start(&[&ca]).await;
    let dial = async |to: &TcpListener| {
        let port = to.local_addr().expect("its address").port();
        let endpoints = vec![Address { host: "127.0.0.1".into(), port, server_name: None }];
        // Longer than anybody waits here.
        let patient =
            RemoteItem { endpoints, dial: true, accept: false, connect_timeout_ms: 600_000, ..remote(&[&ca]) };
        tokio::task::block_in_place(|| h.hub.configure(vec![patient], Vec::new()));
        let (mut tcp, _) = tokio::time::timeout(PATIENCE, to.accept()).await.expect("it dials").expect("it comes");
        let mut byte = [0];
        let n = tokio::time::timeout(PATIENCE, tcp.read(&mut byte)).await.expect("it speaks").expect("it is open");
        assert_eq!(n, 1);
        tcp
    };
    let (before, now) = (
        TcpListener::bind("127.0.0.1:0").await.expect("a port"),
        TcpListener::bind("127.0.0.1:0").await.expect("a port"),
    );
    let mut first = dial(&before).await;
    let _second = dial(&now).await;
    let mut rest = Vec::new();
    let _ = tokio::time::timeout(PATIENCE, first.read_to_end(&mut rest)).await.expect("the first one is given up");
    // The second one is on its way, and nothing has failed.
    assert_eq!(h.link(), (Some(LinkState::Connecting), None));
}
