//! Following the CAs: what a person changes in their Secret (`mew trust rotate`) is in force at every replica within seconds.
//! And the operator's own certificate, which agents see.

use crate::authority::SECRET;
use crate::{OperatorOptions, authority};
use anyhow::{Context, Result, ensure};
use arc_swap::ArcSwapOption;
use kube::Client;
use mew_control::Authorities;
use mew_tls::{Material, SpiffeId, server_config};
use rustls::ServerConfig;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// How soon a change is noticed. It is one small object, and looking needs no right to list or watch Secrets.
const LOOK: Duration = Duration::from_secs(5);
/// The public roots are published again this often: they may be deleted or edited, and a replica that ends while it publishes may
/// leave older ones. Where nothing differs, the API server writes nothing.
const PUBLISH: Duration = Duration::from_secs(60);
/// Lifetime of the operator's own certificate, and when it is renewed.
const SERVING_SECONDS: i64 = 72 * 3600;
const SERVING_RENEW: Duration = Duration::from_secs(24 * 3600);

pub struct Follower {
    client: Client,
    options: OperatorOptions,
    authorities: watch::Sender<Arc<Authorities>>,
    serving: Arc<ArcSwapOption<ServerConfig>>,
    /// When the roots were published last.
    published: Instant,
    said: String,
}

impl Follower {
    /// Begins with what is there and published, and a certificate.
    pub fn new(client: Client, options: OperatorOptions, first: Authorities) -> Result<Self> {
        let f = Follower {
            client,
            options,
            authorities: watch::Sender::new(Arc::new(first)),
            serving: Arc::default(),
            published: Instant::now(),
            said: String::new(),
        };
        f.serve()?;
        Ok(f)
    }

    pub fn authorities(&self) -> watch::Receiver<Arc<Authorities>> {
        self.authorities.subscribe()
    }

    /// What agents are served with.
    pub fn serving(&self) -> Arc<ArcSwapOption<ServerConfig>> {
        self.serving.clone()
    }

    pub async fn run(mut self, stop: CancellationToken) {
        let mut look = tokio::time::interval(LOOK);
        let mut renew = tokio::time::interval(SERVING_RENEW);
        loop {
            let step = async {
                tokio::select! {
                    _ = renew.tick() => self.serve(),
                    _ = look.tick() => self.follow().await,
                }
            };
            let done = tokio::select! {
                // What it may be writing just now is not worth waiting for.
                () = stop.cancelled() => return,
                done = step => done,
            };
            let problem =
                done.err().map(|e| format!("the CAs that were loaded stay in force: {e:#}")).unwrap_or_default();
            if !problem.is_empty() && problem != self.said {
                tracing::error!("{problem}");
            }
            self.said = problem;
        }
    }

    async fn follow(&mut self) -> Result<()> {
        let now = self.authorities.borrow().clone();
        let found = authority::load(&self.client, &self.options).await?;
        let next = found.with_context(|| format!("the Secret {SECRET} is gone; restore it from a backup"))?;
        if next == *now {
            // Only after a look: a replica that does not know of newer ones must not put older ones in their place.
            if self.published.elapsed() >= PUBLISH {
                self.publish(&next).await?;
            }
            return Ok(());
        }
        ensure!(
            now.may_become(&next),
            "the Secret {SECRET} holds a CA that nobody trusts yet, and none of the old ones; if that is meant, start the operator again"
        );
        tracing::info!(signer = next.signer().root(), "the CAs were changed");
        // In this order, so that it is tried again if it fails.
        self.publish(&next).await?;
        self.authorities.send_replace(Arc::new(next));
        self.serve()
    }

    async fn publish(&mut self, cas: &Authorities) -> Result<()> {
        authority::publish(&self.client, &self.options, cas).await?;
        self.published = Instant::now();
        Ok(())
    }

    /// By the CA that also an agent trusts which has not been told of the newest one.
    fn serve(&self) -> Result<()> {
        let cas = self.authorities.borrow().clone();
        let request = mew_tls::new_request()?;
        let id = SpiffeId::operator(&self.options.trust_domain);
        let chain_pem = cas.server().authority().sign(&request.pem, &id, &self.options.dns, SERVING_SECONDS)?;
        self.serving.store(Some(server_config(&Material { chain_pem, key_pem: request.key_pem }, None)?));
        Ok(())
    }
}
