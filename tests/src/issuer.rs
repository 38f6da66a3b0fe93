//! An issuer such as cert-manager: a root, an intermediate that signs, and Secrets of the type `kubernetes.io/tls` with what
//! it issues; and how a kubelet mounts them.

use anyhow::{Context, Result};
use rcgen::string::Ia5String;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer as Signer, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256, SanType,
};
use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::{Duration, SystemTime};

/// Clocks differ; issuers date back.
const BACK: Duration = Duration::from_secs(60);

pub struct Issuer {
    /// The root's certificate: what peers put into their bundles.
    pub root_pem: String,
    between_pem: String,
    signer: Signer<'static, KeyPair>,
}

/// What is in a Secret.
#[derive(Clone)]
pub struct Tls {
    pub chain: String,
    pub key: String,
    pub root: String,
}

impl Issuer {
    pub fn new(name: &str) -> Result<Self> {
        let (root, root_key) = (authority(&format!("{name} root")), key()?);
        let root_pem = root.self_signed(&root_key)?.pem();
        let (between, between_key) = (authority(&format!("{name} issuing")), key()?);
        let between_pem = between.signed_by(&between_key, &Signer::new(root, root_key))?.pem();
        Ok(Issuer { root_pem, between_pem, signer: Signer::new(between, between_key) })
    }

    /// A certificate of this identity that ends after so long: its only name, and no usages but the usual ones.
    pub fn issue(&self, identity: &str, life: Duration) -> Result<Tls> {
        self.issue_from(identity, SystemTime::now(), life)
    }

    /// One that has ended.
    pub fn issue_expired(&self, identity: &str) -> Result<Tls> {
        self.issue_from(identity, SystemTime::now() - 2 * BACK, BACK)
    }

    fn issue_from(&self, identity: &str, now: SystemTime, life: Duration) -> Result<Tls> {
        let key = key()?;
        let mut p = CertificateParams::default();
        p.distinguished_name = DistinguishedName::new();
        p.subject_alt_names = vec![SanType::URI(Ia5String::try_from(identity)?)];
        p.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
        p.use_authority_key_identifier_extension = true;
        (p.not_before, p.not_after) = ((now - BACK).into(), (now + life).into());
        let leaf = p.signed_by(&key, &self.signer)?.pem();
        Ok(Tls { chain: format!("{leaf}{}", self.between_pem), key: key.serialize_pem(), root: self.root_pem.clone() })
    }
}

fn key() -> Result<KeyPair> {
    Ok(KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?)
}

fn authority(name: &str) -> CertificateParams {
    let mut p = CertificateParams::default();
    p.distinguished_name = DistinguishedName::new();
    p.distinguished_name.push(DnType::CommonName, name);
    p.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    p.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
    p
}

impl Tls {
    /// As an issuer writes it.
    pub fn secret(&self, namespace: &str, name: &str) -> Value {
        json!({
            "apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls",
            "metadata": {
                "namespace": namespace, "name": name, "annotations": {"cert-manager.io/certificate-name": name},
            },
            "stringData": {"tls.crt": self.chain, "tls.key": self.key, "ca.crt": self.root},
        })
    }
}

/// Puts Secrets under a directory, as a kubelet does: all files are new, and appear at once by one swapped link.
pub fn mount(dir: &Path, secrets: &[(&str, &Tls)]) -> Result<()> {
    fs::create_dir_all(dir).with_context(|| dir.display().to_string())?;
    let data = dir.join("..data");
    let old = fs::read_link(&data).ok();
    let version = match old.as_ref().and_then(|o| o.to_str()?.strip_prefix("..v")?.parse::<u64>().ok()) {
        Some(n) => format!("..v{}", n + 1),
        None => "..v1".to_owned(),
    };
    for (name, tls) in secrets {
        let to = dir.join(&version).join(name);
        fs::create_dir_all(&to)?;
        for (file, text) in [("tls.crt", &tls.chain), ("tls.key", &tls.key), ("ca.crt", &tls.root)] {
            fs::write(to.join(file), text)?;
        }
    }
    fs::create_dir_all(dir.join(&version))?;
    let next = dir.join("..data_tmp");
    symlink(&version, &next)?;
    fs::rename(&next, &data)?;
    for (name, _) in secrets {
        let link = dir.join(name);
        if !link.is_symlink() {
            symlink(Path::new("..data").join(name), link)?;
        }
    }
    if let Some(o) = old {
        fs::remove_dir_all(dir.join(o))?;
    }
    Ok(())
}
