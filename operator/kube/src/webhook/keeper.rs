//! Keeps what the webhook needs as it must be: the Secret with its CAs, its certificate, and the caBundle by which the API
//! server trusts it.
//!
//! All replicas do the same and write only what differs, so none has to lead. They look again and again instead of watching:
//! it is two small objects, and the rights to list and watch are not needed for that.

use super::authorities::{Authorities, LEAF_SECONDS};
use crate::health::Health;
use crate::{CALL, MANAGER, now_ms};
use anyhow::{Context, Result, bail};
use arc_swap::ArcSwapOption;
use k8s_openapi::ByteString;
use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{ObjectMeta, Patch, PatchParams, PostParams};
use kube::{Api, Client};
use mew_tls::{Material, https_config};
use rustls::ServerConfig;
use serde_json::json;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

const SECRET: &str = "mew-webhook-ca";
/// How long a bundle that somebody else wrote stays at most.
const LOOK: Duration = Duration::from_secs(5);
/// A certificate is replaced when it is this old.
const RENEW_MS: u64 = 24 * 3600 * 1000;
/// Another replica may write between reading and writing, but not for ever.
const TRIES: usize = 5;

pub struct Keeper {
    secrets: Api<Secret>,
    configurations: Api<MutatingWebhookConfiguration>,
    /// Name of the configuration.
    configuration: String,
    /// Names in the certificate.
    names: Vec<String>,
    serving: Arc<ArcSwapOption<ServerConfig>>,
    known: Option<Authorities>,
    leaf: Option<Leaf>,
    absent: bool,
}

/// The certificate in use.
struct Leaf {
    issuer_pem: String,
    since_ms: u64,
}

impl Keeper {
    pub fn new(
        client: &Client,
        namespace: &str,
        configuration: String,
        names: Vec<String>,
        serving: Arc<ArcSwapOption<ServerConfig>>,
    ) -> Self {
        Keeper {
            secrets: Api::namespaced(client.clone(), namespace),
            configurations: Api::all(client.clone()),
            configuration,
            names,
            serving,
            known: None,
            leaf: None,
            absent: false,
        }
    }

    pub async fn run(mut self, health: Health, stop: CancellationToken) {
        let mut said = String::new();
        loop {
            let kept = tokio::select! {
                () = stop.cancelled() => return,
                kept = self.keep(now_ms()) => kept,
            };
            let problem = kept.err().map(|e| format!("the webhook: {e:#}"));
            if let Some(p) = problem.as_ref().filter(|p| **p != said) {
                tracing::error!("{p}");
            }
            // Later, agents need the operator all the same.
            health.set_webhook(problem.clone().filter(|_| self.leaf.is_none()));
            said = problem.unwrap_or_default();
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(LOOK) => {}
            }
        }
    }

    async fn keep(&mut self, now_ms: u64) -> Result<()> {
        let authorities = self.authorities(now_ms).await?;
        self.serve(&authorities, now_ms)?;
        let bundle = authorities.bundle();
        self.known = Some(authorities);
        self.publish(bundle).await
    }

    /// What the Secret holds, after it was made, mended or rotated if need be.
    async fn authorities(&self, now_ms: u64) -> Result<Authorities> {
        for _ in 0..TRIES {
            let found = timeout(CALL, self.secrets.get_opt(SECRET))
                .await?
                .with_context(|| format!("the Secret {SECRET} cannot be read"))?;
            let data = found.as_ref().and_then(|s| s.data.as_ref());
            let stored = match data.map(Authorities::from_data).transpose() {
                Ok(stored) => stored,
                Err(e) => {
                    tracing::warn!("the Secret {SECRET} is damaged and is written anew: {e:#}");
                    None
                }
            };
            // What is gone is put back: the API server may still trust it.
            let was = match stored.as_ref().or(self.known.as_ref()) {
                Some(a) => a.clone(),
                None => Authorities::generate()?,
            };
            let next = was.advanced(now_ms)?;
            if stored.is_some() && next.is_none() {
                return Ok(was);
            }
            let next = next.unwrap_or(was);
            match self.write(found, &next).await? {
                Ok(()) => return Ok(next),
                // Another replica was faster: what it wrote counts.
                Err(kube::Error::Api(s)) if s.is_already_exists() || s.is_conflict() => {}
                Err(e) => return Err(e).with_context(|| format!("the Secret {SECRET} cannot be written")),
            }
        }
        bail!("the Secret {SECRET} was changed by others {TRIES} times in a row")
    }

    async fn write(&self, found: Option<Secret>, a: &Authorities) -> Result<Result<(), kube::Error>> {
        let params = PostParams { field_manager: Some(MANAGER.into()), ..PostParams::default() };
        let written = match found {
            // With the resourceVersion that was read.
            Some(s) => {
                let s = Secret { data: Some(a.data()), ..s };
                timeout(CALL, self.secrets.replace(SECRET, &params, &s)).await?
            }
            None => {
                let s = Secret {
                    metadata: ObjectMeta { name: Some(SECRET.into()), ..ObjectMeta::default() },
                    type_: Some("kubernetes.io/tls".into()),
                    data: Some(a.data()),
                    ..Secret::default()
                };
                timeout(CALL, self.secrets.create(&params, &s)).await?
            }
        };
        Ok(written.map(drop))
    }

    /// A certificate of the CA that signs now, renewed in time.
    fn serve(&mut self, a: &Authorities, now_ms: u64) -> Result<()> {
        let signer = a.signer(now_ms).context("there is no CA")?;
        let good = |l: &Leaf| l.issuer_pem == signer.cert_pem && now_ms.saturating_sub(l.since_ms) < RENEW_MS;
        if self.leaf.as_ref().is_some_and(good) {
            return Ok(());
        }
        let request = mew_tls::new_request()?;
        let chain_pem = signer.sign_server(&request.pem, &self.names, LEAF_SECONDS)?;
        self.serving.store(Some(https_config(&Material { chain_pem, key_pem: request.key_pem })?));
        self.leaf = Some(Leaf { issuer_pem: signer.cert_pem.clone(), since_ms: now_ms });
        tracing::info!(names = %self.names.join(", "), "the webhook has a new certificate");
        Ok(())
    }

    /// Writes the bundle where the configuration has another one.
    async fn publish(&mut self, bundle: String) -> Result<()> {
        let name = self.configuration.as_str();
        let found = timeout(CALL, self.configurations.get_opt(name))
            .await?
            .with_context(|| format!("the MutatingWebhookConfiguration {name} cannot be read"))?;
        let Some(found) = found else {
            if !self.absent {
                tracing::warn!("there is no MutatingWebhookConfiguration {name}: no pod is injected until there is");
            }
            self.absent = true;
            return Ok(());
        };
        self.absent = false;
        let bundle = ByteString(bundle.into_bytes());
        let other = found.webhooks.iter().flatten().filter(|w| w.client_config.ca_bundle.as_ref() != Some(&bundle));
        let other: Vec<_> = other.map(|w| json!({"name": w.name, "clientConfig": {"caBundle": bundle}})).collect();
        if other.is_empty() {
            return Ok(());
        }
        // By the webhooks' names, and nothing else of them.
        let patch = Patch::Strategic(json!({"webhooks": other}));
        let params = PatchParams { field_manager: Some(MANAGER.into()), ..PatchParams::default() };
        match timeout(CALL, self.configurations.patch(name, &params, &patch)).await? {
            Ok(_) => tracing::info!(configuration = name, "wrote the caBundle"),
            Err(kube::Error::Api(s)) if s.is_not_found() => {}
            Err(e) => {
                return Err(e).with_context(|| format!("the caBundle of {name} cannot be written"));
            }
        }
        Ok(())
    }
}
