//! A server of the peer: where its programs are, a data directory with certificates, and the process.

use crate::measure::free_port;
use anyhow::{Context, Result, bail, ensure};
use mew_tests::packages::install;
use mew_tests::process::{Process, dying_with_us, run};
use postgres::{Client, NoTls};
use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(300);

/// The programs, installed from the system's packages if they are not there.
pub fn programs() -> Result<PathBuf> {
    if let Some(given) = std::env::var_os("MEW_POSTGRES_BIN") {
        return Ok(given.into());
    }
    if let Some(p) = installed() {
        return Ok(p);
    }
    install("postgresql", "MEW_POSTGRES_BIN")?;
    installed().context("PostgreSQL was installed, and its programs are not found; name them by MEW_POSTGRES_BIN")
}

fn installed() -> Option<PathBuf> {
    let mut versions: Vec<PathBuf> =
        fs::read_dir("/usr/lib/postgresql").ok()?.filter_map(|e| Some(e.ok()?.path().join("bin"))).collect();
    versions.sort();
    versions.into_iter().rev().find(|p| p.join("initdb").exists())
}

pub fn version(bin: &Path) -> Result<String> {
    let mut c = Command::new(bin.join("postgres"));
    c.arg("--version");
    Ok(String::from_utf8_lossy(&run(c, "", LIMIT)?.stdout).trim().to_owned())
}

pub struct Server {
    bin: PathBuf,
    dir: PathBuf,
    pub port: u16,
    pub process: Option<Process>,
}

/// The server refuses to run as root; then it runs as the user of its package, or as nobody.
fn user() -> Option<(u32, u32)> {
    if !rustix::process::geteuid().is_root() {
        return None;
    }
    let text = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let find = |name: &str| {
        let mut f = text.lines().find(|l| l.starts_with(&format!("{name}:")))?.split(':').skip(2);
        Some((f.next()?.parse().ok()?, f.next()?.parse().ok()?))
    };
    find("postgres").or_else(|| find("nobody"))
}

fn owned(path: &Path) -> Result<()> {
    if let Some((uid, gid)) = user() {
        chown(path, Some(uid), Some(gid)).with_context(|| path.display().to_string())?;
    }
    Ok(())
}

fn as_user(mut c: Command) -> Command {
    if let Some((uid, gid)) = user() {
        c.uid(uid).gid(gid);
    }
    c
}

impl Server {
    pub fn new(bin: &Path, dir: &Path, name: &str, tls: &Certificates) -> Result<Self> {
        let s = Server { bin: bin.to_owned(), dir: dir.join(name), port: free_port()?, process: None };
        fs::create_dir_all(&s.dir)?;
        owned(&s.dir)?;
        let mut c = as_user(Command::new(bin.join("initdb")));
        c.arg("-D").arg(s.data()).args(["-A", "trust", "-E", "UTF8", "--locale=C", "-U", "postgres"]);
        let out = run(c, "", LIMIT)?;
        ensure!(out.status.success(), "initdb: {}", String::from_utf8_lossy(&out.stderr));
        for (file, text) in &tls.0 {
            let path = s.data().join(file);
            fs::write(&path, text)?;
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
            owned(&path)?;
        }
        let mut conf = fs::OpenOptions::new().append(true).open(s.data().join("postgresql.conf"))?;
        writeln!(
            conf,
            "listen_addresses='127.0.0.1'\nport={}\nunix_socket_directories='{}'\nwal_level=logical\n\
             shared_buffers=256MB\nmax_wal_size=4GB\nfsync=on\nfull_page_writes=on\nsynchronous_commit=on\n\
             max_sync_workers_per_subscription=3\nssl=on\nssl_ca_file='ca.crt'\nssl_cert_file='server.crt'\n\
             ssl_key_file='server.key'\nssl_min_protocol_version='TLSv1.3'",
            s.port,
            s.dir.display()
        )?;
        let hba = "local all all trust\nhostssl all all 127.0.0.1/32 cert clientcert=verify-full\n";
        fs::write(s.data().join("pg_hba.conf"), hba)?;
        Ok(s)
    }

    pub fn data(&self) -> PathBuf {
        self.dir.join("data")
    }

    pub fn start(&mut self) -> Result<()> {
        let mut c = as_user(dying_with_us(&self.bin.join("postgres")));
        c.arg("-D").arg(self.data());
        self.process = Some(Process::start("postgres", c, &self.dir)?);
        Ok(())
    }

    pub fn connect(&self) -> Result<Client> {
        let at = format!("host={} port={} user=postgres dbname=postgres", self.dir.display(), self.port);
        Ok(Client::connect(&at, NoTls)?)
    }

    pub fn wait(&mut self) -> Result<Client> {
        let end = Instant::now() + LIMIT;
        loop {
            match self.connect() {
                Ok(c) => return Ok(c),
                Err(e) if Instant::now() > end => return Err(e),
                Err(_) => {}
            }
            match &mut self.process {
                Some(p) => p.check()?,
                None => bail!("the server was not started"),
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    pub fn pids(&self) -> Vec<u32> {
        self.process.iter().map(Process::pid).collect()
    }
}

/// File names and their text.
pub struct Certificates(Vec<(&'static str, String)>);

pub fn certificates() -> Result<Certificates> {
    let key = KeyPair::generate()?;
    let mut p = CertificateParams::default();
    p.distinguished_name.push(DnType::CommonName, "bench CA");
    p.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let mut all = vec![("ca.crt", p.self_signed(&key)?.pem())];
    let ca = Issuer::new(p, key);
    for (name, crt, file) in [("localhost", "server.crt", "server.key"), ("repl", "client.crt", "client.key")] {
        let key = KeyPair::generate()?;
        let mut p = CertificateParams::new(vec!["localhost".to_owned(), "127.0.0.1".to_owned()])?;
        p.distinguished_name = rcgen::DistinguishedName::new();
        p.distinguished_name.push(DnType::CommonName, name);
        p.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        all.push((crt, p.signed_by(&key, &ca)?.pem()));
        all.push((file, key.serialize_pem()));
    }
    Ok(Certificates(all))
}
