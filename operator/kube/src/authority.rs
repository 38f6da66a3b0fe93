//! The CA: a Secret of the operator's namespace, and its public half as a ConfigMap.

use crate::{CALL, MANAGER, OperatorOptions};
use anyhow::{Context, Result, bail};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::api::{ListParams, ObjectMeta, Patch, PatchParams, PostParams};
use kube::{Api, Client};
use mew_crds::Remote;
use mew_crds::annotations::TRUST_DOMAIN;
use mew_tls::Authority;
use std::collections::BTreeMap;
use tokio::time::timeout;

pub const SECRET: &str = "mew-ca";
pub const ROOTS: &str = "mew-roots";
const CERT: &str = "ca.crt";

/// Loads the CA; makes one if there is none and nobody can depend on one yet. A CA that is missing while Remotes exist is
/// not replaced: peers trust the old one, and a silent change would cut every link.
pub async fn ensure(client: &Client, o: &OperatorOptions) -> Result<Authority> {
    let secrets: Api<Secret> = Api::namespaced(client.clone(), &o.namespace);
    let found = timeout(CALL, secrets.get_opt(SECRET))
        .await?
        .with_context(|| format!("the Secret {SECRET} in {} cannot be read", o.namespace))?;
    let ca = match found {
        Some(s) => from_secret(&s)?,
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
            create(&secrets, o).await?
        }
    };
    publish(client, o, &ca).await?;
    Ok(ca)
}

fn from_secret(s: &Secret) -> Result<Authority> {
    let field = |k: &str| -> Result<String> {
        let b = s.data.as_ref().and_then(|d| d.get(k)).with_context(|| format!("the Secret {SECRET} has no {k}"))?;
        Ok(String::from_utf8(b.0.clone())?)
    };
    Authority::from_pem(field("tls.crt")?, field("tls.key")?)
        .with_context(|| format!("the Secret {SECRET} holds no usable CA"))
}

async fn create(secrets: &Api<Secret>, o: &OperatorOptions) -> Result<Authority> {
    let ca = Authority::new(&o.trust_domain)?;
    let data = BTreeMap::from([
        ("tls.crt".to_owned(), ByteString(ca.cert_pem.clone().into_bytes())),
        ("tls.key".to_owned(), ByteString(ca.key_pem().to_owned().into_bytes())),
    ]);
    let secret = Secret {
        metadata: ObjectMeta { name: Some(SECRET.into()), ..ObjectMeta::default() },
        type_: Some("kubernetes.io/tls".into()),
        data: Some(data),
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
            Ok(ca)
        }
        // Another replica was faster: its CA holds.
        Err(kube::Error::Api(s)) if s.is_already_exists() => from_secret(&timeout(CALL, secrets.get(SECRET)).await??),
        Err(e) => Err(e).context("the CA cannot be stored"),
    }
}

async fn publish(client: &Client, o: &OperatorOptions, ca: &Authority) -> Result<()> {
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), &o.namespace);
    let annotations = BTreeMap::from([(TRUST_DOMAIN.to_owned(), o.trust_domain.clone())]);
    let map = ConfigMap {
        metadata: ObjectMeta { name: Some(ROOTS.into()), annotations: Some(annotations), ..ObjectMeta::default() },
        data: Some(BTreeMap::from([(CERT.to_owned(), ca.cert_pem.clone())])),
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
