//! Throw-away certificates of an API server.

use anyhow::Result;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256,
};
use std::fs;
use std::path::Path;

/// Names under which the server is reached.
const SERVER: [&str; 4] = ["127.0.0.1", "10.96.0.1", "localhost", "kubernetes.default.svc"];

/// Writes `ca.crt`, `apiserver.{crt,key}`, `admin.{crt,key}` and `sa.{key,pub}`.
pub fn make(dir: &Path) -> Result<()> {
    fs::create_dir_all(dir)?;
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let mut p = CertificateParams::default();
    p.distinguished_name = subject("", "test CA");
    p.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    p.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
    fs::write(dir.join("ca.crt"), p.self_signed(&key)?.pem())?;
    let ca = Issuer::new(p, key);

    let names = SERVER.map(str::to_owned).to_vec();
    leaf(dir, "apiserver", &ca, subject("", "kube-apiserver"), names, ExtendedKeyUsagePurpose::ServerAuth)?;
    let admin = subject("system:masters", "admin");
    leaf(dir, "admin", &ca, admin, vec![], ExtendedKeyUsagePurpose::ClientAuth)?;

    let accounts = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    fs::write(dir.join("sa.key"), accounts.serialize_pem())?;
    fs::write(dir.join("sa.pub"), accounts.public_key_pem())?;
    Ok(())
}

fn subject(organization: &str, name: &str) -> DistinguishedName {
    let mut d = DistinguishedName::new();
    if !organization.is_empty() {
        d.push(DnType::OrganizationName, organization);
    }
    d.push(DnType::CommonName, name);
    d
}

fn leaf(
    dir: &Path,
    file: &str,
    ca: &Issuer<'_, KeyPair>,
    subject: DistinguishedName,
    names: Vec<String>,
    usage: ExtendedKeyUsagePurpose,
) -> Result<()> {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let mut p = CertificateParams::new(names)?;
    p.distinguished_name = subject;
    p.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    p.extended_key_usages = vec![usage];
    p.use_authority_key_identifier_extension = true;
    fs::write(dir.join(format!("{file}.crt")), p.signed_by(&key, ca)?.pem())?;
    fs::write(dir.join(format!("{file}.key")), key.serialize_pem())?;
    Ok(())
}
