//! The CAs: a Secret of the operator's namespace, and their public halves as a ConfigMap.

use crate::{CALL, MANAGER, OperatorOptions, lease, now_ms};
use anyhow::{Context, Result, bail};
use k8s_openapi::ByteString;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::api::{ListParams, ObjectMeta, Patch, PatchParams, PostParams};
use kube::{Api, Client};
use mew_control::{Authorities, Ca};
use mew_crds::Remote;
use mew_crds::annotations::TRUST_DOMAIN;
use mew_tls::Authority;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};
use tokio::time::timeout;

pub const SECRET: &str = "mew-ca";
pub const ROOTS: &str = "mew-roots";
const CERT: &str = "ca.crt";
/// Between looks at the Lease, which is renewed every few seconds.
const LOOK: Duration = Duration::from_millis(500);

/// Loads the CA; makes one if there is none and nobody can depend on one yet. A CA that is missing while Remotes exist is
/// not replaced: peers trust the old one, and a silent change would cut every link.
pub async fn ensure(client: &Client, o: &OperatorOptions) -> Result<Authorities> {
    let cas = match load(client, o).await? {
        Some(a) => a,
        None => {
            let all: Vec<Api<Remote>> = match o.watched.as_slice() {
                [] => vec![Api::all(client.clone())],
                some => some.iter().map(|ns| Api::namespaced(client.clone(), ns)).collect(),
            };
            let mut exist = false;
            for remotes in all {
                let list = timeout(CALL, remotes.list_metadata(&ListParams::default().limit(1)))
                    .await?
                    .context("Remotes cannot be listed; are the CRDs installed?")?;
                exist |= !list.items.is_empty();
            }
            if exist {
                bail!(
                    "the Secret {SECRET} in {} is gone and Remotes exist: restore it from a backup; or, to begin with a new CA, delete all Remotes first",
                    o.namespace
                );
            }
            create(client, o).await?
        }
    };
    publish(client, o, &cas).await?;
    Ok(cas)
}

/// What the Secret holds; `None` if there is none.
pub async fn load(client: &Client, o: &OperatorOptions) -> Result<Option<Authorities>> {
    find(client, &o.namespace).await?.as_ref().map(|s| of_domain(s, o)).transpose()
}

/// What it holds, of the trust domain that this operator is of.
fn of_domain(s: &Secret, o: &OperatorOptions) -> Result<Authorities> {
    let cas = from_secret(s)?;
    if let Some(kept) = cas.other_domain(&o.trust_domain) {
        bail!(
            "the CA in the Secret {SECRET} in {} is of the trust domain {kept}, not {}: say --trust-domain {kept} (`trustDomain` of the chart); or, to begin with a new CA, delete all Remotes and this Secret first",
            o.namespace,
            o.trust_domain
        );
    }
    Ok(cas)
}

async fn find(client: &Client, namespace: &str) -> Result<Option<Secret>> {
    let secrets: Api<Secret> = Api::namespaced(client.clone(), namespace);
    timeout(CALL, secrets.get_opt(SECRET))
        .await?
        .with_context(|| format!("the Secret {SECRET} in {namespace} cannot be read"))
}

fn from_secret(s: &Secret) -> Result<Authorities> {
    let unusable = || format!("the Secret {SECRET} holds no usable CA");
    let mut data = BTreeMap::new();
    for (name, bytes) in s.data.iter().flatten().filter(|(name, _)| Authorities::is_entry(name)) {
        data.insert(name.clone(), String::from_utf8(bytes.0.clone()).with_context(unusable)?);
    }
    Authorities::from_data(&data).with_context(unusable)
}

fn to_bytes(a: &Authorities) -> BTreeMap<String, ByteString> {
    a.to_data().into_iter().map(|(name, text)| (name, ByteString(text.into_bytes()))).collect()
}

async fn create(client: &Client, o: &OperatorOptions) -> Result<Authorities> {
    let cas = Authorities::first(Ca::new(Authority::new(&o.trust_domain)?, now_ms())?);
    let secrets: Api<Secret> = Api::namespaced(client.clone(), &o.namespace);
    let secret = Secret {
        metadata: ObjectMeta { name: Some(SECRET.into()), ..ObjectMeta::default() },
        type_: Some("kubernetes.io/tls".into()),
        data: Some(to_bytes(&cas)),
        ..Secret::default()
    };
    match timeout(
        CALL,
        secrets.create(&PostParams { field_manager: Some(MANAGER.into()), ..PostParams::default() }, &secret),
    )
    .await?
    {
        Ok(_) => {
            tracing::info!(secret = SECRET, "made a CA");
            Ok(cas)
        }
        // Another replica was faster: its CA holds.
        Err(kube::Error::Api(s)) if s.is_already_exists() => of_domain(&timeout(CALL, secrets.get(SECRET)).await??, o),
        Err(e) => Err(e).context("the CA cannot be stored"),
    }
}

/// Writes the public roots where everybody in the cluster looks for them.
pub async fn publish(client: &Client, o: &OperatorOptions, cas: &Authorities) -> Result<()> {
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), &o.namespace);
    let annotations = BTreeMap::from([(TRUST_DOMAIN.to_owned(), o.trust_domain.clone())]);
    let map = ConfigMap {
        metadata: ObjectMeta { name: Some(ROOTS.into()), annotations: Some(annotations), ..ObjectMeta::default() },
        data: Some(BTreeMap::from([(CERT.to_owned(), cas.bundle())])),
        ..ConfigMap::default()
    };
    timeout(CALL, maps.patch(ROOTS, &PatchParams::apply(MANAGER).force(), &Patch::Apply(&map)))
        .await?
        .context("the public roots cannot be published")?;
    Ok(())
}

/// What others need to trust the kernels of this side.
pub struct Published {
    pub trust_domain: String,
    /// PEM.
    pub roots: String,
}

/// The public roots, as the operator of this namespace has published them.
pub async fn published(client: Client, namespace: &str) -> Result<Published> {
    let maps: Api<ConfigMap> = Api::namespaced(client, namespace);
    let found = timeout(CALL, maps.get_opt(ROOTS))
        .await?
        .with_context(|| format!("the ConfigMap {ROOTS} in {namespace} cannot be read"))?;
    let map =
        found.with_context(|| format!("no ConfigMap {ROOTS} in {namespace}; is the operator's namespace another?"))?;
    let trust_domain = map.metadata.annotations.and_then(|mut a| a.remove(TRUST_DOMAIN));
    let roots = map.data.and_then(|mut d| d.remove(CERT));
    let (Some(trust_domain), Some(roots)) = (trust_domain, roots) else {
        bail!("the ConfigMap {ROOTS} in {namespace} does not say whose roots it holds; is its operator running?");
    };
    Ok(Published { trust_domain, roots })
}

/// The CAs as a person changes them, who may read and write the Secret; the operator only follows.
pub struct Stored {
    client: Client,
    namespace: String,
    secret: Secret,
    pub authorities: Authorities,
}

impl Stored {
    pub async fn read(client: Client, namespace: &str) -> Result<Self> {
        let found = find(&client, namespace).await?;
        let secret = found
            .with_context(|| format!("no Secret {SECRET} in {namespace}; is the operator's namespace another?"))?;
        let authorities = from_secret(&secret)?;
        Ok(Stored { client, namespace: namespace.to_owned(), secret, authorities })
    }

    /// Puts others in their place, unless somebody has been faster.
    pub async fn replace(mut self, next: &Authorities, manager: &str) -> Result<()> {
        let mut data = self.secret.data.take().unwrap_or_default();
        data.retain(|name, _| !Authorities::is_entry(name));
        data.extend(to_bytes(next));
        self.secret.data = Some(data);
        let secrets: Api<Secret> = Api::namespaced(self.client, &self.namespace);
        let params = PostParams { field_manager: Some(manager.to_owned()), ..PostParams::default() };
        match timeout(CALL, secrets.replace(SECRET, &params, &self.secret)).await? {
            Ok(_) => Ok(()),
            Err(kube::Error::Api(s)) if s.is_conflict() => {
                bail!("somebody else has just changed the Secret {SECRET}; look again")
            }
            Err(e) => Err(e).with_context(|| format!("the Secret {SECRET} in {} cannot be written", self.namespace)),
        }
    }
}

/// Whether an operator leads: what statuses say is only then of today. Seen by the Lease's renewal, not by comparing clocks.
pub async fn is_led(client: Client, namespace: &str) -> Result<bool> {
    let leases: Api<Lease> = Api::namespaced(client, namespace);
    let read = async || -> Result<Option<LeaseSpec>> {
        let lease = timeout(CALL, leases.get_opt(lease::NAME)).await?;
        let lease = lease.with_context(|| format!("the Lease {} in {namespace} cannot be read", lease::NAME))?;
        Ok(lease.and_then(|l| l.spec))
    };
    let first = read().await?;
    let end = Instant::now() + lease::DURATION;
    while Instant::now() < end {
        tokio::time::sleep(LOOK).await;
        let now = read().await?;
        if now.as_ref().is_some_and(|s| s.holder_identity.is_some()) && now != first {
            return Ok(true);
        }
    }
    Ok(false)
}
