//! How an agent reaches its operator: a Unix socket beside it, or TLS with a token.

use anyhow::{Context, Result};
use mew_tls::{SpiffeId, Trust, client_config, connect};
use std::error::Error as StdError;
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;
use tokio::net::{TcpStream, UnixStream};
use tonic::metadata::MetadataValue;
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Code, Request, Status};

const CONNECT: Duration = Duration::from_secs(5);

/// `unix:<path>` or `https://<host>:<port>`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OperatorAddress {
    Unix(PathBuf),
    Tls { host: String, port: u16, trust_domain: String, token: PathBuf, roots: PathBuf },
}

impl fmt::Display for OperatorAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            OperatorAddress::Unix(p) => write!(f, "unix:{}", p.display()),
            OperatorAddress::Tls { host, port, .. } => write!(f, "https://{host}:{port}"),
        }
    }
}

impl FromStr for OperatorAddress {
    type Err = String;
    /// Reads the `unix:` form; the other one needs more than an address.
    fn from_str(s: &str) -> Result<Self, String> {
        s.strip_prefix("unix:")
            .map(|p| OperatorAddress::Unix(p.into()))
            .ok_or_else(|| format!("{s:?} is not unix:<path>"))
    }
}

/// Adds the token, read anew for each call: projected tokens rotate.
#[derive(Clone)]
pub struct Token(Option<PathBuf>);

impl Interceptor for Token {
    fn call(&mut self, mut req: Request<()>) -> Result<Request<()>, Status> {
        if let Some(path) = &self.0 {
            let token = std::fs::read_to_string(path)
                .map_err(|e| Status::unauthenticated(format!("the token {} cannot be read: {e}", path.display())))?;
            let value = MetadataValue::try_from(format!("Bearer {}", token.trim()))
                .map_err(|_| Status::unauthenticated("the token is malformed"))?;
            req.metadata_mut().insert("authorization", value);
        }
        Ok(req)
    }
}

/// A call that the operator refused or that broke, as people are told of it: what was said, and what to do.
#[derive(Debug)]
pub struct Refusal {
    pub code: Code,
    text: String,
}

impl Refusal {
    pub fn of(s: &Status) -> Self {
        Refusal { code: s.code(), text: told(s) }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl StdError for Refusal {}

/// gRPC's own way of writing it names codes and quotes the text, and of a connection that broke says little; the innermost cause
/// does.
fn told(s: &Status) -> String {
    if let Some(mut why) = s.source() {
        while let Some(next) = why.source() {
            why = next;
        }
        return format!("the connection to the operator broke: {why}; this agent tries again");
    }
    let said = if s.message().is_empty() { s.code().description() } else { s.message() };
    match s.code() {
        Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled => {
            format!("the operator does not serve this agent now: {said}; this agent tries again")
        }
        Code::Unauthenticated => format!(
            "the operator does not know who this agent is: {said}; --token-file must be a token of the pod's ServiceAccount, projected with the audience of this kernel"
        ),
        Code::InvalidArgument | Code::Unimplemented => format!(
            "the operator does not understand this agent: {said}; look at --kernel, at --operator, and whether the versions of both fit"
        ),
        // These say by themselves what to do.
        _ => format!("the operator refuses this agent: {said}"),
    }
}

pub type OperatorChannel = InterceptedService<Channel, Token>;

impl OperatorAddress {
    pub async fn connect(&self) -> Result<OperatorChannel> {
        self.connect_knowing(None).await
    }

    /// `learned` are roots that came from the operator later than the file, which may be as old as the pod.
    pub async fn connect_knowing(&self, learned: Option<&str>) -> Result<OperatorChannel> {
        match self {
            OperatorAddress::Unix(path) => {
                let path = path.clone();
                let channel = Endpoint::from_static("http://operator")
                    .connect_timeout(CONNECT)
                    .connect_with_connector(tower::service_fn(move |_: Uri| {
                        let path = path.clone();
                        async move { UnixStream::connect(path).await.map(hyper_util::rt::TokioIo::new) }
                    }))
                    .await
                    .with_context(|| format!("the operator at {self} does not answer"))?;
                Ok(InterceptedService::new(channel, Token(None)))
            }
            OperatorAddress::Tls { host, port, trust_domain, token, roots } => {
                let known = usable_roots(trust_domain, roots, learned)?;
                let mut trust = Trust::default();
                trust.add_roots(trust_domain, known.iter().map(String::as_str))?;
                trust.expect(SpiffeId::operator(trust_domain));
                let tls = client_config(None, trust)?;
                let (host, port) = (host.clone(), *port);
                let channel = Endpoint::from_shared(format!("https://{host}:{port}"))?
                    .connect_timeout(CONNECT)
                    .http2_keep_alive_interval(Duration::from_secs(10))
                    .keep_alive_timeout(Duration::from_secs(10))
                    .keep_alive_while_idle(true)
                    .connect_with_connector(tower::service_fn(move |_: Uri| {
                        let (host, tls) = (host.clone(), tls.clone());
                        async move {
                            let tcp = TcpStream::connect((host.as_str(), port)).await?;
                            connect(tcp, &host, tls).await.map(|(io, _)| io)
                        }
                    }))
                    .await
                    .with_context(|| format!("the operator at {self} does not answer"))?;
                Ok(InterceptedService::new(channel, Token(Some(token.clone()))))
            }
        }
    }
}

/// The roots by which the operator is known. The file may be older than what was learned, or newer; either will do if the other
/// one cannot be used.
fn usable_roots(domain: &str, file: &Path, learned: Option<&str>) -> Result<Vec<String>> {
    let usable = |pem: String| -> Result<String> {
        Trust::default().add_roots(domain, [pem.as_str()])?;
        Ok(pem)
    };
    let read = || std::fs::read_to_string(file).with_context(|| format!("{} cannot be read", file.display()));
    let given = read().and_then(usable);
    match (given, learned.map(|pem| usable(pem.to_owned()))) {
        (Ok(given), None) => Ok(vec![given]),
        (Ok(given), Some(Ok(learned))) => Ok(vec![given, learned]),
        (Ok(given), Some(Err(e))) => {
            tracing::warn!("the roots that came from the operator cannot be used: {e:#}");
            Ok(vec![given])
        }
        (Err(e), Some(Ok(learned))) => {
            tracing::warn!("the roots that came from the operator have to do: {e:#}");
            Ok(vec![learned])
        }
        (Err(e), None | Some(Err(_))) => Err(e.context("the operator's roots")),
    }
}

#[cfg(test)]
mod tests {
    use super::{Refusal, usable_roots};
    use mew_tls::Authority;
    use std::{fs, io};
    use tonic::Status;

    const DOMAIN: &str = "here.example";

    #[test]
    fn a_refusal_is_told_in_words_for_people() {
        let claimed = "kernel shop is held by pod-1 with another data directory; stop that one first";
        let broken = io::Error::new(io::ErrorKind::ConnectionReset, "reset by the other side");
        for (status, begins, contains) in [
            (
                Status::failed_precondition(claimed),
                "the operator refuses this agent: kernel shop",
                "stop that one first",
            ),
            (Status::permission_denied("not a service account's"), "the operator refuses this agent: not", ""),
            (
                Status::unauthenticated("not valid for x"),
                "the operator does not know who",
                "not valid for x; --token-file",
            ),
            (
                Status::unavailable("no leader yet"),
                "the operator does not serve",
                "no leader yet; this agent tries again",
            ),
            (
                Status::invalid_argument("\"K\" is no name"),
                "the operator does not understand",
                "\"K\" is no name; look",
            ),
            (Status::internal(""), "the operator refuses this agent: ", ""),
            (Status::from_error(Box::new(broken)), "the connection to the operator broke: reset by the other side", ""),
        ] {
            let said = format!("{:#}", anyhow::Error::new(Refusal::of(&status)));
            assert!(said.starts_with(begins) && said.contains(contains), "{said}");
            assert!(!["code:", "status:", "message:"].iter().any(|w| said.contains(w)), "gRPC's way: {said}");
        }
    }

    /// Either source of roots is enough, both add up, and none is none.
    #[test]
    fn roots_are_taken_from_wherever_they_can_be_had() {
        let dir = tempfile::tempdir().expect("a directory");
        let (absent, file, bad) = (dir.path().join("absent"), dir.path().join("ca.crt"), dir.path().join("bad"));
        let ca = || Authority::new(DOMAIN).expect("a CA").cert_pem;
        let (old, new) = (ca(), ca());
        fs::write(&file, &old).expect("a file");
        fs::write(&bad, "-----BEGIN CERTIFICATE-----\n").expect("a file");
        let learned = Some(new.as_str());
        for (path, learned, trusted) in [
            (&file, None, vec![&old]),
            (&file, learned, vec![&old, &new]),
            (&file, Some("nonsense"), vec![&old]),
            (&absent, learned, vec![&new]),
            (&bad, learned, vec![&new]),
        ] {
            let roots = usable_roots(DOMAIN, path, learned).expect("there are roots");
            assert_eq!(roots.iter().collect::<Vec<_>>(), trusted, "{path:?}, {learned:?}");
        }
        for (path, learned) in [(&absent, None), (&absent, Some("nonsense")), (&bad, None)] {
            let e = usable_roots(DOMAIN, path, learned).err().map(|e| format!("{e:#}")).unwrap_or_default();
            assert!(e.contains("the operator's roots"), "{path:?}: {e:?}");
        }
    }
}
