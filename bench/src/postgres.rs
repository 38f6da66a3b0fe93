//! The peer: two servers of PostgreSQL with logical replication, a row filter, mutual TLS 1.3, and both sides durable.

mod server;

use crate::measure::{cpu_seconds, memory_mb};
use crate::race::{Looking, Reader, Runner, Writer};
use crate::rows::{PROJECTS, belongs, id, is_shared, project, project_id, project_of, task};
use anyhow::{Context, Result, ensure};
use postgres::types::ToSql;
use postgres::{Client, Statement};
use server::{Server, certificates};
pub use server::{programs, version};
use std::any::Any;
use std::io::Write as _;
use std::path::Path;

/// The same constraints and indexes as the ontology's: an edge is found from either end. What filters an edge must be part
/// of what identifies it.
const TABLES: &str = "
 CREATE TABLE project (id text PRIMARY KEY, code text NOT NULL UNIQUE, name text NOT NULL);
 CREATE TABLE task (id text PRIMARY KEY, code text NOT NULL UNIQUE, title text NOT NULL,
 status text NOT NULL CHECK (status IN ('open','active','blocked','review','done')),
 priority bigint NOT NULL CHECK (priority BETWEEN 0 AND 8), assignee text NOT NULL, shared boolean NOT NULL,
 due bigint NOT NULL CHECK (due >= 0), estimate double precision NOT NULL CHECK (estimate >= 0),
 version bigint NOT NULL CHECK (version >= 0), note text);
 CREATE INDEX task_due ON task(due);
 CREATE TABLE belongs (task text REFERENCES task(id) ON DELETE CASCADE,
 project text REFERENCES project(id) ON DELETE CASCADE, shared boolean, PRIMARY KEY (task, project, shared));
 CREATE INDEX belongs_project ON belongs(project)";
const IDENTITY: &str = "CREATE UNIQUE INDEX task_identity ON task(id, shared);
 ALTER TABLE task REPLICA IDENTITY USING INDEX task_identity;
 CREATE ROLE repl LOGIN SUPERUSER REPLICATION";
const PUBLICATION: &str = "CREATE PUBLICATION p FOR TABLE project, task WHERE (shared), belongs WHERE (shared)";
const COLUMNS: &str = "id,code,title,status,priority,assignee,shared,due,estimate,version,note";
const UPDATE: &str =
    "UPDATE task t SET title=u.title,status=u.status,priority=u.priority,assignee=u.assignee,due=u.due,
 estimate=u.estimate,version=u.version,note=u.note FROM unnest($1::text[],$2::text[],$3::text[],$4::bigint[],$5::text[],
 $6::bigint[],$7::float8[],$8::bigint[],$9::text[]) AS u(id,title,status,priority,assignee,due,estimate,version,note)
 WHERE t.id=u.id";
/// What follows the update in the same statement, so that it is one request as well. An edge comes where one has gone, which
/// orders the two.
const MOVE: &str =
    "gone AS (DELETE FROM belongs b USING unnest($10::text[],$11::text[]) AS m(task,project) WHERE b.task=m.task
 RETURNING b.task,m.project,b.shared),
 new AS (INSERT INTO belongs(task,project,shared) SELECT task,project,shared FROM gone RETURNING 1)
 SELECT (SELECT count(*) FROM updated), (SELECT count(*) FROM gone), (SELECT count(*) FROM new)";
/// Of all that is published: how many there are, and a digest.
const DIGESTS: [&str; 3] = [
    "SELECT count(*), md5(string_agg(md5(p::text), '' ORDER BY id)) FROM project p",
    "SELECT count(*), md5(string_agg(md5(t::text), '' ORDER BY id)) FROM task t WHERE shared",
    "SELECT count(*), md5(string_agg(md5(b::text), '' ORDER BY task, project)) FROM belongs b WHERE shared",
];

pub struct Postgres {
    source: Server,
    sink: Server,
}

impl Postgres {
    pub fn start(bin: &Path, dir: &Path) -> Result<Self> {
        let tls = certificates()?;
        let mut p =
            Postgres { source: Server::new(bin, dir, "source", &tls)?, sink: Server::new(bin, dir, "sink", &tls)? };
        for s in [&mut p.source, &mut p.sink] {
            s.start()?;
            s.wait()?.batch_execute(TABLES)?;
        }
        p.source.connect()?.batch_execute(IDENTITY)?;
        Ok(p)
    }

    fn sql(&self, moves: bool) -> Result<Sql> {
        let mut client = self.source.connect()?;
        let update = client.prepare(UPDATE)?;
        let with_moves = format!("WITH updated AS ({UPDATE} RETURNING 1), {MOVE}");
        let moving = moves.then(|| client.prepare(&with_moves)).transpose()?;
        Ok(Sql { client, update, moving })
    }

    /// A writer that leaves the edges what they are.
    pub fn updater(&self) -> Result<Box<dyn Writer>> {
        Ok(Box::new(self.sql(false)?))
    }
}

impl Runner for Postgres {
    fn load(&mut self, n: u64) -> Result<()> {
        let mut c = self.source.connect()?;
        let mut copy = c.copy_in("COPY project(id,code,name) FROM STDIN")?;
        for k in 0..PROJECTS {
            let p = project(k);
            writeln!(copy, "{}\t{}\t{}", p.id, p.code, p.name)?;
        }
        copy.finish()?;
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
        let mut copy = c.copy_in("COPY belongs(task,project,shared) FROM STDIN")?;
        for i in 0..n {
            if let Some(k) = project_of(i, 0) {
                writeln!(copy, "{}\t{}\t{}", id(i), project_id(k), is_shared(i))?;
            }
        }
        copy.finish()?;
        c.batch_execute("VACUUM ANALYZE project, task, belongs")?;
        c.batch_execute("CHECKPOINT")?;
        Ok(c.batch_execute(PUBLICATION)?)
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

    fn copying(&self) -> Result<Looking> {
        let mut c = self.sink.connect()?;
        let unfinished = "SELECT count(*), count(*) FILTER (WHERE srsubstate <> 'r') FROM pg_subscription_rel";
        let look = c.prepare(unfinished)?;
        Ok(Box::new(move || {
            let r = c.query_one(&look, &[])?;
            Ok(r.get::<_, i64>(0) > 0 && r.get::<_, i64>(1) == 0)
        }))
    }

    fn copied(&self) -> Result<u64> {
        let all =
            "SELECT (SELECT count(*) FROM project) + (SELECT count(*) FROM task) + (SELECT count(*) FROM belongs)";
        Ok(self.sink.connect()?.query_one(all, &[])?.get::<_, i64>(0) as u64)
    }

    fn writer(&self) -> Result<Box<dyn Writer>> {
        Ok(Box::new(self.sql(true)?))
    }

    fn reader(&self) -> Result<Box<dyn Reader>> {
        let mut client = self.sink.connect()?;
        let task = client.prepare("SELECT version FROM task WHERE id=$1")?;
        let with_edge = "SELECT t.version, b.project FROM task t JOIN belongs b ON b.task=t.id WHERE t.id=$1";
        let belonging = client.prepare(with_edge)?;
        Ok(Box::new(Look { client, task, belonging }))
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
        let (mut source, mut sink) = (self.source.connect()?, self.sink.connect()?);
        for digest in DIGESTS {
            let look = |c: &mut Client| -> Result<(i64, Option<String>)> {
                let r = c.query_one(digest, &[])?;
                Ok((r.get(0), r.get(1)))
            };
            let (a, b) = (look(&mut source)?, look(&mut sink)?);
            ensure!(a.0 > 0, "there is nothing to compare: {digest}");
            if a != b {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

struct Sql {
    client: Client,
    update: Statement,
    /// That and the edges of the same rows, if they are to move.
    moving: Option<Statement>,
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
    /// Those of `ids` that move, and where to.
    moved: Vec<String>,
    to: Vec<String>,
}

impl Update {
    fn columns(&self) -> [&(dyn ToSql + Sync); 9] {
        [
            &self.ids,
            &self.titles,
            &self.statuses,
            &self.priorities,
            &self.assignees,
            &self.due,
            &self.estimates,
            &self.versions,
            &self.notes,
        ]
    }
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
            if let (Some(k), true) = (project_of(*i, version), self.moving.is_some()) {
                u.moved.push(id(*i));
                u.to.push(project_id(k));
            }
        }
        Box::new(u)
    }

    fn write(&mut self, update: &(dyn Any + Send)) -> Result<()> {
        let u: &Update = update.downcast_ref().context("not this writer's update")?;
        let columns = u.columns();
        let did = match &self.moving {
            Some(moving) if !u.moved.is_empty() => {
                let edges: [&(dyn ToSql + Sync); 2] = [&u.moved, &u.to];
                let all: Vec<&(dyn ToSql + Sync)> = columns.into_iter().chain(edges).collect();
                let r = self.client.query_one(moving, &all)?;
                (r.get::<_, i64>(0) as u64, r.get::<_, i64>(1), r.get::<_, i64>(2))
            }
            _ => (self.client.execute(&self.update, &columns)?, 0, 0),
        };
        let (rows, moves) = (u.ids.len() as u64, u.moved.len() as i64);
        ensure!(did == (rows, moves, moves), "{rows} rows and {moves} of their edges were to be changed: {did:?}");
        Ok(())
    }
}

struct Look {
    client: Client,
    task: Statement,
    /// With the project that it belongs to.
    belonging: Statement,
}

impl Reader for Look {
    fn version(&mut self, i: u64) -> Result<Option<i64>> {
        if !belongs(i) {
            return Ok(self.client.query_opt(&self.task, &[&id(i)])?.map(|r| r.get(0)));
        }
        let Some(r) = self.client.query_opt(&self.belonging, &[&id(i)])? else { return Ok(None) };
        let (version, project) = (r.get(0), r.get::<_, String>(1));
        let is_there = project_of(i, version).is_some_and(|k| project_id(k) == project);
        Ok(is_there.then_some(version))
    }
}
