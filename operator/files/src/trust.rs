//! Bundles of other trust domains, kept in the state directory by `mew trust import`.

use anyhow::{Context, Result, bail};
use k8s_openapi::api::core::v1::ConfigMap;
use mew_crds::manifest::{Object, read};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Name of the ConfigMap for a trust domain's roots.
pub fn bundle_name(trust_domain: &str) -> String {
    format!("{}-roots", trust_domain.replace('.', "-"))
}

fn dir(state: &Path) -> PathBuf {
    state.join("trust")
}

/// Keeps the ConfigMaps of a file that `mew trust export` wrote; returns their names.
pub fn import(state: &Path, file: &str, text: &str) -> Result<Vec<String>> {
    let (objects, errors) = read(file, text);
    if let Some(e) = errors.first() {
        bail!("{e}");
    }
    let mut names = Vec::new();
    fs::create_dir_all(dir(state)).with_context(|| format!("{}", dir(state).display()))?;
    for o in objects {
        let Object::ConfigMap(c) = o else { continue };
        let Some(name) = c.metadata.name.clone() else { bail!("{file}: a ConfigMap without a name") };
        if !c.data.iter().flatten().any(|(_, v)| v.contains("-----BEGIN CERTIFICATE-----")) {
            bail!("{file}: ConfigMap {name} holds no certificate");
        }
        if !mew_crds::common::is_object_name(&name) {
            bail!("{file}: {name:?} is not a name");
        }
        let tmp = dir(state).join(format!("{name}.tmp"));
        fs::write(&tmp, serde_json::to_vec_pretty(&c)?)?;
        fs::rename(&tmp, dir(state).join(format!("{name}.json")))?;
        names.push(name);
    }
    if names.is_empty() {
        bail!("{file} holds no trust bundle (a ConfigMap with certificates)");
    }
    Ok(names)
}

/// Imported bundles: name → key → text.
pub fn imported(state: &Path) -> BTreeMap<String, BTreeMap<String, String>> {
    let mut out = BTreeMap::new();
    for e in fs::read_dir(dir(state)).into_iter().flatten().flatten() {
        let Ok(bytes) = fs::read(e.path()) else { continue };
        if let Ok(c) = serde_json::from_slice::<ConfigMap>(&bytes)
            && let Some(name) = c.metadata.name
        {
            out.insert(name, c.data.unwrap_or_default());
        }
    }
    out
}
