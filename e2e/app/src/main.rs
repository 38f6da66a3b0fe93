//! The application of the suite. It needs its kernel from its first moment, as applications do: if nothing answers, it
//! ends with an error, and the pod's restarts show that it was started before its agent. If the agent answers that it
//! stands by for the pod that is replaced, it waits: a pod that ends for that would never be ready, and the other one would
//! stay. With `LOAD_EVERY_MS` it then writes what `LOAD_OF` says, at a steady rate, and says what was acknowledged.
//! With `WITHOUT_KERNEL` it only says when it began, so that pods with and without an agent can have the same application.

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use std::env;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{MissedTickBehavior, interval, sleep};

const KERNEL: &str = "127.0.0.1:9000";
/// What an agent says that has no kernel yet.
const STANDBY: &str = "the kernel is not open yet";
const AGAIN: Duration = Duration::from_millis(250);

/// What is written, with a number for a name, and how it is counted.
struct Load {
    write: &'static str,
    count: &'static str,
}

const AIRPORTS: Load = Load {
    write: r#"SPAWN Airport {iata = $number, name = "load", country = "USA", latitude = 1.5, longitude = 2.5}"#,
    count: r#"MATCH a: Airport WHERE a.name = "load" RETURN COUNT(*)"#,
};
const INSPECTIONS: Load = Load {
    write: r#"SPAWN Inspection {airport = "LOAD", finding = $number}"#,
    count: r#"MATCH i: Inspection WHERE i.airport = "LOAD" RETURN COUNT(*)"#,
};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    // As process 1 it gets no signal that it does not ask for.
    let mut ended = signal(SignalKind::terminate())?;
    tokio::select! {
        _ = ended.recv() => Ok(()),
        r = work() => r,
    }
}

async fn work() -> Result<()> {
    if env::var_os("WITHOUT_KERNEL").is_some() {
        println!("began {}", SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis());
        return std::future::pending().await;
    }
    let load = match env::var("LOAD_OF").as_deref() {
        Err(_) | Ok("airports") => AIRPORTS,
        Ok("inspections") => INSPECTIONS,
        Ok(other) => bail!("LOAD_OF is {other:?}"),
    };
    let first = loop {
        match load.count().await {
            Err(e) if e.to_string().contains(STANDBY) => sleep(AGAIN).await,
            r => break r.context("the kernel did not answer the first statement")?,
        }
    };
    println!("the kernel answered the first statement");
    let every: u64 = env::var("LOAD_EVERY_MS").map_or(Ok(0), |v| v.parse()).context("LOAD_EVERY_MS")?;
    if every == 0 {
        std::future::pending::<()>().await;
    }
    let mut tick = interval(Duration::from_millis(every));
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut known = Some(first);
    loop {
        tick.tick().await;
        // What was not acknowledged may be written all the same: only the kernel knows, and a number is given once.
        let next = match known {
            Some(n) => n,
            None => match load.count().await {
                Ok(n) => n,
                Err(_) => continue,
            },
        };
        // Names have four characters, and nobody else's have.
        known = match execute(load.write, json!({"number": format!("{next:04X}")})).await {
            Ok(_) => {
                println!("acknowledged {}", next + 1);
                Some(next + 1)
            }
            Err(e) => {
                println!("not acknowledged: {e:#}");
                None
            }
        };
    }
}

impl Load {
    async fn count(&self) -> Result<u64> {
        let answer = execute(self.count, json!({})).await?;
        answer["rows"][0][0].as_u64().with_context(|| format!("no count: {answer}"))
    }
}

/// The least HTTP that talks to a kernel.
async fn execute(text: &str, params: Value) -> Result<Value> {
    let body = json!({"text": text, "params": params}).to_string();
    let mut s = TcpStream::connect(KERNEL).await?;
    let head = format!(
        "POST /v1/execute HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\
         Connection: close\r\n\r\n",
        body.len()
    );
    s.write_all(head.as_bytes()).await?;
    s.write_all(body.as_bytes()).await?;
    let mut answer = String::new();
    s.read_to_string(&mut answer).await?;
    let (head, body) = answer.split_once("\r\n\r\n").context("no answer")?;
    ensure!(head.split(' ').nth(1) == Some("200"), "{}", body.trim());
    Ok(serde_json::from_str(body)?)
}
