//! The CA of a standalone operator, in its state directory.

use anyhow::{Context, Result, bail};
use mew_tls::Authority;
use std::fs;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

const CERT: &str = "ca.crt";
const KEY: &str = "ca.key";

/// Loads the CA, or makes one in a fresh state directory. A CA that lost one of its halves is not replaced: peers trust it.
pub fn authority(state: &Path, trust_domain: &str) -> Result<Authority> {
    let (cert, key) = (state.join(CERT), state.join(KEY));
    match (fs::read_to_string(&cert), fs::read_to_string(&key)) {
        (Ok(c), Ok(k)) => {
            Authority::from_pem(c, k).with_context(|| format!("the CA in {} cannot be used", state.display()))
        }
        (Err(_), Err(_)) if !cert.exists() && !key.exists() => {
            fs::create_dir_all(state)?;
            let a = Authority::new(trust_domain)?;
            let mut f = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&key)?;
            f.write_all(a.key_pem().as_bytes())?;
            f.sync_all()?;
            fs::write(&cert, &a.cert_pem)?;
            Ok(a)
        }
        _ => bail!(
            "{} and {} must both be readable; restore the missing one, as peers trust this CA",
            cert.display(),
            key.display()
        ),
    }
}

/// The public certificate, made if need be.
pub fn ca_cert(state: &Path, trust_domain: &str) -> Result<String> {
    Ok(authority(state, trust_domain)?.cert_pem)
}
