//! Who may attach as which kernel, with tokens of a real API server: only one that is valid now, for the audience of exactly
//! this kernel, and the namespace is that of the service account.

use anyhow::{Context, Result, bail, ensure};
use mew_agent::OperatorAddress;
use mew_tests::apiserver::ApiServer;
use mew_tests::cluster::Cluster;
use mew_wire::agent_message::Body as AgentBody;
use mew_wire::control_client::ControlClient;
use mew_wire::operator_message::Body;
use mew_wire::{AgentMessage, Drained, Hello, SignRequest};
use rcgen::{KeyPair, SigningKey};
use serde_json::json;
use std::fs;
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status};

const DOMAIN: &str = "tokens.example";
const NAMESPACE: &str = "shop";
const KERNEL: &str = "till";
const ACCOUNT: &str = "kernel-till";
const PATIENCE: Duration = Duration::from_secs(60);
/// Far more than the minute by which the API server lets clocks differ.
const HOUR: i64 = 3600;

fn audience(domain: &str, kernel: &str) -> String {
    format!("federation.mew.dev/{domain}/kernel/{kernel}")
}

fn base64url(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let group = |c: &[u8]| {
        let n = c.iter().fold(0_u32, |n, b| n << 8 | u32::from(*b)) << (8 * (3 - c.len()));
        (0..=c.len()).map(move |i| char::from(DIGITS[(n >> (18 - 6 * i) & 63) as usize])).collect::<String>()
    };
    bytes.chunks(3).map(group).collect()
}

/// Two numbers of 32 bytes, out of the DER form of a signature.
fn both_numbers(der: &[u8]) -> Option<[u8; 64]> {
    let mut out = [0; 64];
    let mut rest = der.get(2..)?;
    for half in out.chunks_mut(32) {
        let len = usize::from(*rest.get(1)?);
        let number = rest.get(2..2 + len)?;
        let digits = number.strip_prefix(&[0_u8]).unwrap_or(number);
        half.get_mut(32_usize.checked_sub(digits.len())?..)?.copy_from_slice(digits);
        rest = rest.get(2 + len..)?;
    }
    Some(out)
}

/// A token as the API server makes them, issued two hours ago and valid until so many seconds from now.
fn minted(api: &ApiServer, key: &KeyPair, seconds: i64) -> Result<String> {
    let account = api.get_json("serviceaccount", NAMESPACE, ACCOUNT)?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs() as i64;
    let claims = json!({
        "iss": "https://kubernetes.default.svc",
        "sub": format!("system:serviceaccount:{NAMESPACE}:{ACCOUNT}"),
        "aud": [audience(DOMAIN, KERNEL)],
        "iat": now - 2 * HOUR, "nbf": now - 2 * HOUR, "exp": now + seconds,
        "kubernetes.io": {
            "namespace": NAMESPACE,
            "serviceaccount": {"name": ACCOUNT, "uid": account["metadata"]["uid"]},
        },
    });
    let text = format!("{}.{}", base64url(br#"{"alg":"ES256"}"#), base64url(claims.to_string().as_bytes()));
    let signature = both_numbers(&key.sign(text.as_bytes())?).context("a signature of another form")?;
    Ok(format!("{text}.{}", base64url(&signature)))
}

fn hello(kernel: &str) -> AgentMessage {
    let h = Hello {
        kernel: kernel.to_owned(),
        incarnation: "one".to_owned(),
        instance: "pod-1".to_owned(),
        agent_version: "0.1.0".to_owned(),
    };
    AgentMessage { body: Some(AgentBody::Hello(h)) }
}

/// A caller with a token in a file, as an agent has it.
struct Caller {
    address: OperatorAddress,
    token: PathBuf,
}

impl Caller {
    fn new(cluster: &Cluster) -> Result<Self> {
        let (token, roots) = (cluster.api.dir().join("token"), cluster.api.dir().join("roots.crt"));
        fs::write(&roots, cluster.roots()?)?;
        let (host, port) = ("127.0.0.1".to_owned(), cluster.leader()?.port);
        let trust_domain = DOMAIN.to_owned();
        Ok(Caller { address: OperatorAddress::Tls { host, port, trust_domain, token: token.clone(), roots }, token })
    }

    /// The kernel that it becomes, if it is let in.
    async fn attach(&self, token: &str, first: AgentMessage) -> Result<Result<String, Status>> {
        fs::write(&self.token, token)?;
        let (to, rx) = mpsc::channel(4);
        to.send(first).await?;
        let mut client = ControlClient::new(self.address.connect().await?);
        let mut from = match client.attach(ReceiverStream::new(rx)).await {
            Ok(r) => r.into_inner(),
            Err(s) => return Ok(Err(s)),
        };
        match tokio::time::timeout(PATIENCE, from.message()).await? {
            Ok(Some(m)) => match m.body {
                Some(Body::Welcome(w)) => Ok(Ok(w.kernel_id)),
                other => bail!("no welcome: {other:?}"),
            },
            Ok(None) => bail!("the operator ended the attachment"),
            Err(s) => Ok(Err(s)),
        }
    }

    /// The code with which it is refused a certificate.
    async fn sign(&self, token: &str) -> Result<Code> {
        fs::write(&self.token, token)?;
        let mut client = ControlClient::new(self.address.connect().await?);
        let request = SignRequest { kernel: KERNEL.to_owned(), csr_pem: String::new() };
        Ok(client.sign(request).await.err().map_or(Code::Ok, |s| s.code()))
    }
}

#[test]
fn only_a_valid_token_for_exactly_this_kernel_attaches() -> Result<()> {
    let cluster = Cluster::start("tokens", DOMAIN)?;
    let api = &cluster.api;
    for ns in [NAMESPACE, "elsewhere"] {
        api.create_namespace(ns)?;
        api.create_service_account(ns, ACCOUNT)?;
    }
    let issued = |audience: &str| api.create_token(NAMESPACE, ACCOUNT, audience);
    let own = audience(DOMAIN, KERNEL);
    let good = issued(&own)?;
    let key = KeyPair::from_pem(&fs::read_to_string(api.dir().join("pki/sa.key"))?)?;
    let wrong = [
        ("the API server's own audience", issued("https://kubernetes.default.svc")?),
        ("another kernel's", issued(&audience(DOMAIN, "other"))?),
        ("another trust domain's", issued(&audience("evil.example", KERNEL))?),
        ("an audience that only begins so", issued(&format!("{own}-2"))?),
        ("expired", minted(api, &key, -HOUR)?),
        ("signed by somebody else", minted(api, &KeyPair::generate()?, HOUR)?),
        ("cut off", good[..good.len() - 8].to_owned()),
        ("no token", "not.a.token".to_owned()),
    ];
    let caller = Caller::new(&cluster)?;
    tokio::runtime::Runtime::new()?.block_on(async {
        for (what, token) in &wrong {
            let refused = caller.attach(token, hello(KERNEL)).await?.err();
            let s = refused.with_context(|| format!("{what}: it was let in"))?;
            ensure!(s.code() == Code::Unauthenticated && s.message().contains(&own), "{what}: {s:?}");
            let code = caller.sign(token).await?;
            ensure!(code == Code::Unauthenticated, "{what}: it asked for a certificate and got {code:?}");
        }
        // The same token is good for its own kernel only.
        let other = caller.attach(&good, hello("other")).await?.err().context("it speaks for another kernel")?;
        ensure!(other.code() == Code::Unauthenticated, "{other:?}");
        for name in ["", "Till", "a/b", "shop.till\n"] {
            let s = caller.attach(&good, hello(name)).await?.err().with_context(|| format!("{name:?} was let in"))?;
            ensure!(s.code() == Code::InvalidArgument, "{name:?}: {s:?}");
        }
        let silent = caller.attach(&good, AgentMessage { body: Some(AgentBody::Drained(Drained::default())) }).await?;
        let s = silent.err().context("it was let in without hello")?;
        ensure!(s.code() == Code::InvalidArgument && s.message().contains("hello"), "{s:?}");

        // An account of another namespace is another kernel, whatever it calls itself.
        let stranger = api.create_token("elsewhere", ACCOUNT, &own)?;
        let kernel = caller.attach(&stranger, hello(KERNEL)).await??;
        ensure!(kernel == format!("elsewhere.{KERNEL}"), "it became {kernel}");
        // What differs from an expired token is only the time.
        let still = minted(api, &key, HOUR)?;
        for token in [&still, &good] {
            let kernel = caller.attach(token, hello(KERNEL)).await??;
            ensure!(kernel == format!("{NAMESPACE}.{KERNEL}"), "it became {kernel}");
        }
        Ok::<(), anyhow::Error>(())
    })
}
