//! The peer: two servers of PostgreSQL with logical replication, a row filter, mutual TLS 1.3, and both sides durable.

use crate::measure::{cpu_seconds, free_port, memory_mb};
use crate::race::{Reader, Runner, Writer};
use crate::rows::{id, task};
use anyhow::{Context, Result, bail, ensure};
use mew_tests::packages::install;
use mew_tests::process::{Process, dying_with_us, run};
use postgres::{Client, NoTls};
use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use std::any::Any;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(300);
const COLUMNS: &str = "id,code,title,status,priority,assignee,shared,due,estimate,version,note";
/// The same constraints as the ontology's.
const TABLE: &str = "CREATE TABLE task (id text PRIMARY KEY, code text NOT NULL UNIQUE, title text NOT NULL,
 status text NOT NULL CHECK (status IN ('open','active','blocked','review','done')),
 priority bigint NOT NULL CHECK (priority BETWEEN 0 AND 8), assignee text NOT NULL, shared boolean NOT NULL,
 due bigint NOT NULL CHECK (due >= 0), estimate double precision NOT NULL CHECK (estimate >= 0),
 version bigint NOT NULL CHECK (version >= 0), note text)";
const UPDATE: &str =
    "UPDATE task t SET title=u.title,status=u.status,priority=u.priority,assignee=u.assignee,due=u.due,
 estimate=u.estimate,version=u.version,note=u.note FROM unnest($1::text[],$2::text[],$3::text[],$4::bigint[],$5::text[],
 $6::bigint[],$7::float8[],$8::bigint[],$9::text[]) AS u(id,title,status,priority,assignee,due,estimate,version,note)
 WHERE t.id=u.id";

pub struct Postgres {
    source: Server,
    sink: Server,
}

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

struct Server {
    bin: PathBuf,
    dir: PathBuf,
    port: u16,
    process: Option<Process>,
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
    fn new(bin: &Path, dir: &Path, name: &str, tls: &Certificates) -> Result<Self> {
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
             shared_buffers=256MB\nmax_wal_size=4GB\nfsync=on\nfull_page_writes=on\nsynchronous_commit=on\nssl=on\n\
             ssl_ca_file='ca.crt'\nssl_cert_file='server.crt'\nssl_key_file='server.key'\n\
             ssl_min_protocol_version='TLSv1.3'",
            s.port,
            s.dir.display()
        )?;
        let hba = "local all all trust\nhostssl all all 127.0.0.1/32 cert clientcert=verify-full\n";
        fs::write(s.data().join("pg_hba.conf"), hba)?;
        Ok(s)
    }

    fn data(&self) -> PathBuf {
        self.dir.join("data")
    }

    fn start(&mut self) -> Result<()> {
        let mut c = as_user(dying_with_us(&self.bin.join("postgres")));
        c.arg("-D").arg(self.data());
        self.process = Some(Process::start("postgres", c, &self.dir)?);
        Ok(())
    }

    fn connect(&self) -> Result<Client> {
        let at = format!("host={} port={} user=postgres dbname=postgres", self.dir.display(), self.port);
        Ok(Client::connect(&at, NoTls)?)
    }

    fn wait(&mut self) -> Result<Client> {
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

    fn pids(&self) -> Vec<u32> {
        self.process.iter().map(Process::pid).collect()
    }
}

/// File names and their text.
struct Certificates(Vec<(&'static str, String)>);

fn certificates() -> Result<Certificates> {
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

impl Postgres {
    pub fn start(bin: &Path, dir: &Path) -> Result<Self> {
        let tls = certificates()?;
        let mut p =
            Postgres { source: Server::new(bin, dir, "source", &tls)?, sink: Server::new(bin, dir, "sink", &tls)? };
        for s in [&mut p.source, &mut p.sink] {
            s.start()?;
            s.wait()?.batch_execute(TABLE)?;
        }
        p.source.connect()?.batch_execute(
            "CREATE UNIQUE INDEX task_identity ON task(id, shared);
             ALTER TABLE task REPLICA IDENTITY USING INDEX task_identity;
             CREATE ROLE repl LOGIN SUPERUSER REPLICATION",
        )?;
        Ok(p)
    }
}

impl Runner for Postgres {
    fn load(&mut self, n: u64) -> Result<()> {
        let mut c = self.source.connect()?;
        let mut copy = c.copy_in(&format!("COPY task({COLUMNS}) FROM STDIN"))?;
        for i in 0..n {
            let t = task(i, 0);
            writeln!(
                copy,
                "{}\t{}\t{}\t{}\t{}\t{}\t{}\t{}\t{:.1}\t{}\t{}",
                t.id, t.code, t.title, t.status, t.priority, t.assignee, t.shared, t.due, t.estimate, t.version, t.note
            )?;
        }
        copy.finish()?;
        c.batch_execute("VACUUM ANALYZE task")?;
        c.batch_execute("CHECKPOINT")?;
        Ok(c.batch_execute("CREATE PUBLICATION p FOR TABLE task WHERE (shared)")?)
    }

    fn declare(&mut self) -> Result<()> {
        let file = |name: &str| self.sink.data().join(name).display().to_string();
        let dsn = format!(
            "host=127.0.0.1 port={} user=repl dbname=postgres sslmode=verify-full sslrootcert={} sslcert={} sslkey={}",
            self.source.port,
            file("ca.crt"),
            file("client.crt"),
            file("client.key")
        );
        let sql = format!("CREATE SUBSCRIPTION s CONNECTION '{dsn}' PUBLICATION p WITH (synchronous_commit=on)");
        Ok(self.sink.connect()?.batch_execute(&sql)?)
    }

    fn copied(&mut self) -> Result<Option<u64>> {
        let mut c = self.sink.connect()?;
        let ready = "SELECT count(*) FROM pg_subscription_rel WHERE srsubstate='r'";
        if c.query_one(ready, &[])?.get::<_, i64>(0) != 1 {
            return Ok(None);
        }
        Ok(Some(c.query_one("SELECT count(*) FROM task", &[])?.get::<_, i64>(0) as u64))
    }

    fn writer(&self) -> Result<Box<dyn Writer>> {
        let mut c = self.source.connect()?;
        let update = c.prepare(UPDATE)?;
        Ok(Box::new(Sql { client: c, update }))
    }

    fn reader(&self) -> Result<Box<dyn Reader>> {
        let mut client = self.sink.connect()?;
        let select = client.prepare("SELECT version FROM task WHERE id=$1")?;
        Ok(Box::new(Look { client, select }))
    }

    fn stop_sink(&mut self) -> Result<()> {
        // SIGTERM waits for clients to leave; nothing of ours is connected now.
        self.sink.process = None;
        Ok(())
    }

    fn start_sink(&mut self) -> Result<()> {
        self.sink.start()
    }

    fn cpu(&self) -> Result<(f64, f64)> {
        Ok((cpu_seconds(&self.source.pids())?, cpu_seconds(&self.sink.pids())?))
    }

    fn memory(&self) -> Result<(f64, f64)> {
        Ok((memory_mb(&self.source.pids())?, memory_mb(&self.sink.pids())?))
    }

    fn same(&mut self) -> Result<bool> {
        let sum = "SELECT count(*), md5(string_agg(md5(t::text), '' ORDER BY id)) FROM task t WHERE shared";
        let look = |s: &Server| -> Result<(i64, Option<String>)> {
            let r = s.connect()?.query_one(sum, &[])?;
            Ok((r.get(0), r.get(1)))
        };
        let (a, b) = (look(&self.source)?, look(&self.sink)?);
        ensure!(a.0 > 0, "there is nothing to compare");
        Ok(a == b)
    }
}

struct Sql {
    client: Client,
    update: postgres::Statement,
}

#[derive(Default)]
struct Update {
    ids: Vec<String>,
    titles: Vec<String>,
    statuses: Vec<String>,
    priorities: Vec<i64>,
    assignees: Vec<String>,
    due: Vec<i64>,
    estimates: Vec<f64>,
    versions: Vec<i64>,
    notes: Vec<String>,
}

impl Writer for Sql {
    fn prepare(&self, ids: &[u64], version: i64) -> Box<dyn Any + Send> {
        let mut u = Update::default();
        for i in ids {
            let t = task(*i, version);
            u.ids.push(id(*i));
            u.titles.push(t.title);
            u.statuses.push(t.status.to_owned());
            u.priorities.push(t.priority);
            u.assignees.push(t.assignee);
            u.due.push(t.due);
            u.estimates.push(t.estimate);
            u.versions.push(t.version);
            u.notes.push(t.note);
        }
        Box::new(u)
    }

    fn write(&mut self, update: &(dyn Any + Send)) -> Result<()> {
        let u: &Update = update.downcast_ref().context("not this writer's update")?;
        let n = self.client.execute(
            &self.update,
            &[&u.ids, &u.titles, &u.statuses, &u.priorities, &u.assignees, &u.due, &u.estimates, &u.versions, &u.notes],
        )?;
        ensure!(n as usize == u.ids.len(), "{n} rows were updated, not {}", u.ids.len());
        Ok(())
    }
}

struct Look {
    client: Client,
    select: postgres::Statement,
}

impl Reader for Look {
    fn version(&mut self, i: u64) -> Result<Option<i64>> {
        Ok(self.client.query_opt(&self.select, &[&id(i)])?.map(|r| r.get(0)))
    }
}
