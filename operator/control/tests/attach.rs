//! Callers that are not what they should be, at the service that agents attach to: each is refused with its reason, and the
//! kernels of others are as they were.

use mew_contract::report::Names;
use mew_contract::{MAX_MESSAGE, Problem, Reason, Report, Snapshot};
use mew_control::{Authorities, Backend, Ca, ControlService, Registry};
use mew_plan::{AgentState, KernelName, empty_snapshot};
use mew_tls::{Authority, fingerprints, new_request, root_of_chain};
use mew_wire::agent_message::Body as AgentBody;
use mew_wire::control_client::ControlClient;
use mew_wire::operator_message::Body;
use mew_wire::{Accepted, AgentMessage, Drained, Hello, OperatorMessage, OwnRoots, SignRequest};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;
use tonic::{Code, Request, Status, Streaming};

const NAMESPACE: &str = "shop";
const KERNEL: &str = "till";
/// Everything here takes milliseconds; this is for a machine that is busy with something else.
const PATIENCE: Duration = Duration::from_secs(60);
const LOOK: Duration = Duration::from_millis(10);

/// A token stands for one kernel, as on Kubernetes its audience says.
fn token(kernel: &str) -> String {
    format!("token-of-{kernel}")
}

fn ca() -> Ca {
    Ca::new(Authority::new("shop.example").expect("a CA"), 0).expect("it has a fingerprint")
}

struct Tokens {
    cas: watch::Sender<Arc<Authorities>>,
    leads: AtomicBool,
    /// Another replica leads when the next token has been looked at.
    lapses: AtomicBool,
}

#[tonic::async_trait]
impl Backend for Tokens {
    async fn authenticate(&self, given: Option<&str>, kernel: &str) -> Result<KernelName, Status> {
        let given = given.ok_or_else(|| Status::unauthenticated("a bearer token is needed"))?;
        if given != token(kernel) {
            return Err(Status::unauthenticated(format!("the token is not valid for {kernel}")));
        }
        if self.lapses.load(Ordering::Acquire) {
            self.leads.store(false, Ordering::Release);
        }
        Ok(KernelName::new(NAMESPACE, kernel))
    }

    fn objects(&self, _: &str, _: &str) -> Result<Vec<String>, Status> {
        Ok(Vec::new())
    }

    fn serves(&self) -> Result<(), Status> {
        if self.leads.load(Ordering::Acquire) { Ok(()) } else { Err(Status::unavailable("not the leader")) }
    }

    fn authorities(&self) -> watch::Receiver<Arc<Authorities>> {
        self.cas.subscribe()
    }

    fn certificate_lifetime(&self) -> Duration {
        Duration::from_secs(3600)
    }
}

struct Operator {
    registry: Arc<Registry>,
    backend: Arc<Tokens>,
    client: ControlClient<Channel>,
    stop: CancellationToken,
}

impl Operator {
    async fn start() -> Self {
        let registry = Arc::new(Registry::default());
        let cas = watch::Sender::new(Arc::new(Authorities::first(ca())));
        let backend = Arc::new(Tokens { cas, leads: AtomicBool::new(true), lapses: AtomicBool::new(false) });
        let stop = CancellationToken::new();
        let service = ControlService {
            backend: backend.clone(),
            registry: registry.clone(),
            trust_domain: "shop.example".to_owned(),
            stop: stop.clone(),
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("its address");
        let server = tonic::transport::Server::builder().add_service(service.into_server());
        tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
        let client = ControlClient::connect(format!("http://{address}")).await.expect("it listens");
        Operator { registry, backend, client: client.max_decoding_message_size(MAX_MESSAGE), stop }
    }

    /// Attaches with whatever comes first.
    async fn attach(&self, authorization: Option<&str>, first: AgentMessage) -> Result<Attached, Status> {
        let (to, rx) = mpsc::channel(16);
        to.send(first).await.expect("there is room");
        let mut r = Request::new(ReceiverStream::new(rx));
        if let Some(a) = authorization {
            r.metadata_mut().insert("authorization", a.parse().expect("a header"));
        }
        let from = self.client.clone().attach(r).await?.into_inner();
        Ok(Attached { to, from })
    }

    async fn attach_agent(&self, incarnation: &str, instance: &str) -> Attached {
        let bearer = format!("Bearer {}", token(KERNEL));
        let a = self.attach(Some(&bearer), hello(KERNEL, incarnation, instance)).await;
        a.unwrap_or_else(|s| panic!("the agent is refused: {s:?}"))
    }

    fn state(&self, kernel: &str) -> Option<AgentState> {
        self.registry.states().remove(&KernelName::new(NAMESPACE, kernel))
    }

    fn is_attached(&self) -> bool {
        self.state(KERNEL).is_some_and(|s| s.attached)
    }

    fn reported(&self) -> Option<Report> {
        self.state(KERNEL).and_then(|s| s.report).map(|r| (*r).clone())
    }
}

impl Drop for Operator {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

struct Attached {
    to: mpsc::Sender<AgentMessage>,
    from: Streaming<OperatorMessage>,
}

impl Attached {
    async fn says(&self, body: AgentBody) {
        self.to.send(message(body)).await.expect("the attachment is open");
    }

    async fn reports(&self, r: &Report) {
        self.says(AgentBody::Report(serde_json::to_vec(r).expect("a report is JSON").into())).await;
    }

    async fn hears(&mut self) -> Result<Option<Body>, Status> {
        let next = tokio::time::timeout(PATIENCE, self.from.message()).await.expect("the operator answers");
        next.map(|m| m.and_then(|m| m.body))
    }

    /// Its kernel's id; the roots of the trust domain follow.
    async fn welcomed(&mut self) -> String {
        let kernel_id = match self.hears().await {
            Ok(Some(Body::Welcome(w))) => w.kernel_id,
            other => panic!("no welcome: {other:?}"),
        };
        self.roots().await;
        kernel_id
    }

    /// Its digest.
    async fn snapshot(&mut self) -> String {
        match self.hears().await {
            Ok(Some(Body::Snapshot(bytes))) => Snapshot::digest(&bytes),
            other => panic!("no snapshot: {other:?}"),
        }
    }

    async fn roots(&mut self) -> OwnRoots {
        match self.hears().await {
            Ok(Some(Body::Roots(r))) => r,
            other => panic!("no roots: {other:?}"),
        }
    }
}

fn message(body: AgentBody) -> AgentMessage {
    AgentMessage { body: Some(body) }
}

fn hello(kernel: &str, incarnation: &str, instance: &str) -> AgentMessage {
    message(AgentBody::Hello(Hello {
        kernel: kernel.into(),
        incarnation: incarnation.into(),
        instance: instance.into(),
        agent_version: "0.1.0".into(),
    }))
}

fn report(problem: &str) -> Report {
    Report {
        kernel_id: "shop.till".into(),
        incarnation: "one".into(),
        agent_version: "0.1.0".into(),
        snapshot: String::new(),
        rejected: Vec::new(),
        remotes: Vec::new(),
        syncs: Vec::new(),
        silent: Some(Names::default()),
        certificate_not_after_ms: None,
        certificate_root: None,
        problem: Some(Problem::new(Reason::SinkError, problem)),
    }
}

async fn until(what: &str, mut look: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !look() {
        assert!(Instant::now() < end, "{what}: not after {PATIENCE:?}");
        tokio::time::sleep(LOOK).await;
    }
}

fn refusal<T>(r: Result<T, Status>, what: &str) -> Status {
    match r {
        Ok(_) => panic!("{what} was let in"),
        Err(s) => s,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_message_must_be_hello() {
    let o = Operator::start().await;
    let bearer = format!("Bearer {}", token(KERNEL));
    let wrong = [
        ("a report", message(AgentBody::Report(b"{}".as_slice().into()))),
        ("a digest", message(AgentBody::Accepted(Accepted { digest: "e3b0".into() }))),
        ("a farewell", message(AgentBody::Drained(Drained::default()))),
        ("what nobody knows", AgentMessage { body: None }),
    ];
    for (what, first) in wrong {
        let s = refusal(o.attach(Some(&bearer), first).await, what);
        assert!(s.code() == Code::InvalidArgument && s.message().contains("hello"), "{what}: {s:?}");
    }
    // Nothing at all, and the end.
    let r = o.client.clone().attach(tokio_stream::empty::<AgentMessage>()).await;
    assert_eq!(refusal(r, "nothing").code(), Code::InvalidArgument);
    assert!(o.registry.states().is_empty(), "somebody has a kernel");
    assert_eq!(o.attach_agent("one", "pod-1").await.welcomed().await, "shop.till");
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_kernels_own_token_opens_its_attachment() {
    let o = Operator::start().await;
    let mut holder = o.attach_agent("one", "pod-1").await;
    holder.welcomed().await;
    holder.reports(&report("mine")).await;
    until("the report is here", || o.reported().is_some()).await;
    let other = format!("Bearer {}", token("other"));
    let own = token(KERNEL);
    let basic = format!("Basic {own}");
    let wrong = [
        ("no token", None),
        ("another kernel's token", Some(other.as_str())),
        ("garbage", Some("Bearer x.y.z")),
        ("a token without a scheme", Some(own.as_str())),
        ("another scheme", Some(basic.as_str())),
        ("no token behind the scheme", Some("Bearer ")),
    ];
    for (what, authorization) in wrong {
        // Even as the very instance that holds it.
        for incarnation in ["one", "two"] {
            let s = refusal(o.attach(authorization, hello(KERNEL, incarnation, "pod-1")).await, what);
            assert_eq!(s.code(), Code::Unauthenticated, "{what}: {s:?}");
        }
        let mut r = Request::new(SignRequest { kernel: KERNEL.into(), csr_pem: new_request().expect("a request").pem });
        if let Some(a) = authorization {
            r.metadata_mut().insert("authorization", a.parse().expect("a header"));
        }
        let s = refusal(o.client.clone().sign(r).await, what);
        assert_eq!(s.code(), Code::Unauthenticated, "{what}: {s:?}");
    }
    let state = o.state(KERNEL).expect("the kernel has an agent");
    assert!(state.attached && state.refused_claim.is_none(), "{state:?}");
    assert_eq!(state.report.as_deref(), Some(&report("mine")));
    // And it goes on.
    holder.reports(&report("still mine")).await;
    until("the next report is here", || o.reported() == Some(report("still mine"))).await;
}

/// The same kernel with another data directory would be two kernels of one name.
#[tokio::test(flavor = "multi_thread")]
async fn a_second_holder_is_refused_and_a_successor_waits() {
    let o = Operator::start().await;
    let mut first = o.attach_agent("one", "pod-1").await;
    first.welcomed().await;
    let mut thief = o.attach_agent("two", "pod-2").await;
    let s = refusal(thief.hears().await, "another data directory");
    assert!(s.code() == Code::FailedPrecondition && s.message().contains("another data directory"), "{s:?}");
    assert!(o.state(KERNEL).is_some_and(|s| s.attached && s.refused_claim.is_some()));
    let mut next = o.attach_agent("one", "pod-2").await;
    let waits = next.hears().await;
    assert!(matches!(&waits, Ok(Some(Body::Standby(s))) if s.message.contains("pod-1")), "{waits:?}");
    first.says(AgentBody::Drained(Drained::default())).await;
    assert_eq!(next.welcomed().await, "shop.till");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_report_that_cannot_be_read_changes_nothing() {
    let o = Operator::start().await;
    let mut a = o.attach_agent("one", "pod-1").await;
    a.welcomed().await;
    a.reports(&report("first")).await;
    until("the report is here", || o.reported().is_some()).await;
    let good = serde_json::to_vec(&report("bad")).expect("a report is JSON");
    let lost = String::from_utf8_lossy(&good).replace("\"remotes\":[],", "");
    let wrong: [Vec<u8>; 6] = [
        Vec::new(),
        b"\xff\xfe".to_vec(),
        good[..good.len() - 1].to_vec(),
        [good.as_slice(), b"{}"].concat(),
        b"null".to_vec(),
        lost.into_bytes(),
    ];
    for bytes in wrong {
        a.says(AgentBody::Report(bytes.into())).await;
    }
    // What is out of place is passed over as well.
    a.says(AgentBody::Accepted(Accepted { digest: "not a digest".into() })).await;
    a.to.send(hello("other", "two", "pod-9")).await.expect("the attachment is open");
    a.to.send(AgentMessage { body: None }).await.expect("the attachment is open");
    // Messages of one attachment are heard in order: with this one, all of them have been.
    a.reports(&report("last")).await;
    until("the last report is here", || o.reported() != Some(report("first"))).await;
    assert_eq!(o.reported(), Some(report("last")));
    assert!(o.is_attached() && o.state("other").is_none());
}

/// Reports are absolute: with many Syncs they are larger than gRPC's own limit.
#[tokio::test(flavor = "multi_thread")]
async fn large_reports_arrive_and_too_large_ones_end_the_attachment() {
    let o = Operator::start().await;
    let mut a = o.attach_agent("one", "pod-1").await;
    a.welcomed().await;
    let large = report(&"x".repeat(MAX_MESSAGE / 2));
    a.reports(&large).await;
    until("the large report is here", || o.reported().is_some()).await;
    assert_eq!(o.reported(), Some(large.clone()));
    a.reports(&report(&"x".repeat(MAX_MESSAGE + 1))).await;
    until("the attachment is ended", || !o.is_attached()).await;
    assert_eq!(o.reported(), Some(large), "what it said before stays");
    o.attach_agent("one", "pod-1").await.welcomed().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_cannot_be_signed_is_refused() {
    let o = Operator::start().await;
    let whole = new_request().expect("a request").pem;
    let bundle = o.backend.cas.borrow().bundle();
    let wrong = ["", "garbage", &whole[..whole.len() / 2], bundle.as_str()];
    for csr in wrong {
        let mut r = Request::new(SignRequest { kernel: KERNEL.into(), csr_pem: csr.to_owned() });
        let bearer = format!("Bearer {}", token(KERNEL)).parse().expect("a header");
        r.metadata_mut().insert("authorization", bearer);
        let s = refusal(o.client.clone().sign(r).await, "a request that is none");
        assert!(s.code() == Code::InvalidArgument && s.message().contains("cannot be signed"), "{csr:?}: {s:?}");
    }
}

/// An agent that is attached knows every root as soon as it is trusted, and asks for a certificate as soon as another one signs.
#[tokio::test(flavor = "multi_thread")]
async fn roots_come_as_they_change() {
    let o = Operator::start().await;
    let mut a = o.attach_agent("one", "pod-1").await;
    a.welcomed().await;
    let first = o.backend.cas.borrow().clone();
    let published = first.publish(ca()).expect("a step");
    let signing = published.sign(1).expect("a step");
    for (step, roots) in [(&published, 2), (&signing, 2), (&signing.retire().expect("a step"), 1)] {
        o.backend.cas.send_replace(Arc::new(step.clone()));
        let said = a.roots().await;
        assert_eq!((said.pem.as_str(), said.signer.as_str()), (step.bundle().as_str(), step.signer().root()));
        assert_eq!(fingerprints(&said.pem).map_or(0, |f| f.len()), roots);
        let csr_pem = new_request().expect("a request").pem;
        let mut r = Request::new(SignRequest { kernel: KERNEL.into(), csr_pem });
        let bearer = format!("Bearer {}", token(KERNEL)).parse().expect("a header");
        r.metadata_mut().insert("authorization", bearer);
        let signed = o.client.clone().sign(r).await.expect("it is signed").into_inner();
        assert_eq!(signed.ca_pem, step.bundle());
        assert_eq!(root_of_chain(&signed.chain_pem, &signed.ca_pem).as_deref(), Some(step.signer().root()));
    }
}

/// An agent that is slow would fall ever further behind, and what it reports would be about something that nobody remembers.
#[tokio::test(flavor = "multi_thread")]
async fn snapshots_come_one_at_a_time_and_what_is_reported_is_known() {
    let o = Operator::start().await;
    let mut a = o.attach_agent("one", "pod-1").await;
    a.welcomed().await;
    let kernel = KernelName::new(NAMESPACE, KERNEL);
    let plan = |n: usize| {
        let mut s = empty_snapshot("shop.example", &kernel);
        s.remotes.push(serde_json::json!({"name": format!("shop/peer-{n}")}));
        let digest = Snapshot::digest(&s.encode());
        o.registry.deliver(&BTreeMap::from([(kernel.clone(), s)]), 1);
        digest
    };
    let is_confirmed = || o.state(KERNEL).is_some_and(|s| s.confirmed.is_some());

    let first = plan(0);
    assert_eq!(a.snapshot().await, first);
    let newest = (1..100).map(&plan).fold(None, |_, s| Some(s)).expect("there are some");
    a.reports(&Report { snapshot: first.clone(), ..report("slow") }).await;
    until("what it has is known", is_confirmed).await;
    a.says(AgentBody::Accepted(Accepted { digest: first })).await;
    assert_eq!(a.snapshot().await, newest, "those between are of no use");
    assert!(is_confirmed(), "it has not reported anything else yet");
    // One that does not answer is not kept from what is withdrawn.
    let newest = plan(100);
    assert_eq!(a.snapshot().await, newest);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_does_not_lead_serves_nobody() {
    let o = Operator::start().await;
    let mut a = o.attach_agent("one", "pod-1").await;
    a.welcomed().await;
    o.backend.leads.store(false, Ordering::Release);
    o.registry.end();
    assert!(!matches!(a.hears().await, Ok(Some(_))), "the attachment goes on");
    let bearer = format!("Bearer {}", token(KERNEL));
    let s = refusal(o.attach(Some(&bearer), hello(KERNEL, "one", "pod-1")).await, "a follower");
    assert_eq!(s.code(), Code::Unavailable, "{s:?}");
    assert!(o.registry.states().is_empty());
}

/// Looking at a token takes time, and a replica may be stopped meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn nobody_is_served_by_a_replica_that_has_just_ceased_to_lead() {
    let o = Operator::start().await;
    let mut first = o.attach_agent("one", "pod-1").await;
    first.welcomed().await;
    let mut next = o.attach_agent("one", "pod-2").await;
    let waits = next.hears().await;
    assert!(matches!(&waits, Ok(Some(Body::Standby(_)))), "{waits:?}");
    let bearer = format!("Bearer {}", token(KERNEL));

    o.backend.lapses.store(true, Ordering::Release);
    let s = refusal(o.attach(Some(&bearer), hello(KERNEL, "one", "pod-3")).await, "an agent");
    assert_eq!(s.code(), Code::Unavailable, "{s:?}");
    o.backend.leads.store(true, Ordering::Release);
    let csr_pem = new_request().expect("a request").pem;
    let mut r = Request::new(SignRequest { kernel: KERNEL.into(), csr_pem });
    r.metadata_mut().insert("authorization", bearer.parse().expect("a header"));
    let s = refusal(o.client.clone().sign(r).await, "a request");
    assert_eq!(s.code(), Code::Unavailable, "{s:?}");
    // The one that waits gets the kernel from the leader, not from here.
    first.says(AgentBody::Drained(Drained::default())).await;
    let s = refusal(next.hears().await, "who has waited");
    assert_eq!(s.code(), Code::Unavailable, "{s:?}");
}

/// Whoever reaches the port may speak; it is not to fill the memory before it is known.
#[tokio::test(flavor = "multi_thread")]
async fn a_stranger_may_not_say_much_and_an_agent_may() {
    const MUCH: usize = 1 << 20;
    let o = Operator::start().await;
    let wordy = hello(KERNEL, &"x".repeat(MUCH), "pod-1");
    let bearer = format!("Bearer {}", token(KERNEL));
    for authorization in [None, Some(bearer.as_str())] {
        let s = refusal(o.attach(authorization, wordy.clone()).await, "a hello of a megabyte");
        // It is not even looked at.
        assert_ne!(s.code(), Code::Unauthenticated, "{s:?}");
    }
    let request = SignRequest { kernel: KERNEL.into(), csr_pem: "x".repeat(MUCH) };
    let s = refusal(o.client.clone().sign(request).await, "a certificate request of a megabyte");
    assert_ne!(s.code(), Code::Unauthenticated, "{s:?}");
    assert!(o.registry.states().is_empty(), "somebody has a kernel");

    let mut a = o.attach_agent("one", "pod-1").await;
    a.welcomed().await;
    let long = Report { agent_version: "x".repeat(MUCH), ..report("long") };
    a.reports(&long).await;
    until("the long report is here", || o.reported().as_ref() == Some(&long)).await;
}
