//! `mew store backup`: a copy of a running agent's log, over its client API.

use crate::client::{CONNECT, check_address};
use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use http_body_util::{BodyExt, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::{Request, Response, StatusCode, header};
use hyper_util::rt::TokioIo;
use mew_net::archive::{MAX_MANIFEST, Manifest};
use mew_store::disk::{around, sync_dir};
use std::fs::{self, File};
use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use tokio::net::TcpStream;
use tokio::time::timeout;

#[derive(Args)]
pub struct BackupArgs {
    /// File to write, or `-` for standard output
    #[arg(default_value = "-")]
    file: PathBuf,
    /// Address of the kernel's client API
    #[arg(long, env = "MEW_ADDRESS", default_value = "127.0.0.1:9000")]
    address: String,
}

pub async fn run(a: BackupArgs) -> Result<()> {
    let mut to = Target::of(&a.file)?;
    match copy(&a.address, &mut to).await {
        Ok((m, bytes)) => {
            to.finish()?;
            let segments = m.files.len();
            eprintln!(
                "kernel {}, incarnation {}, up to seq {}: {segments} segments, {bytes} bytes in all",
                m.kernel_id, m.incarnation, m.head
            );
            Ok(())
        }
        Err(e) => {
            to.discard();
            Err(e)
        }
    }
}

/// Returns what it is of and how long it is.
async fn copy(address: &str, to: &mut Target<'_>) -> Result<(Manifest, u64)> {
    const CUT_OFF: &str = "the agent ended the backup early; what was written is of no use";
    let answer = get(address, "/v1/backup").await?;
    let size = answer.headers().get(header::CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse::<u64>().ok());
    let mut body = answer.into_body();
    let (mut begin, mut manifest, mut bytes) = (Vec::new(), None, 0);
    while let Some(frame) = body.frame().await {
        let Ok(piece) = frame.context(CUT_OFF)?.into_data() else { continue };
        if manifest.is_none() {
            ensure!(begin.len() <= 2 * MAX_MANIFEST, "what {address} sends is no backup");
            begin.extend_from_slice(&piece);
            manifest =
                Manifest::begins(&begin).map_err(|e| anyhow::anyhow!("what {address} sends is no backup: {e}"))?;
        }
        to.write_all(&piece)?;
        bytes += piece.len() as u64;
    }
    match manifest {
        Some(m) if size == Some(bytes) => Ok((m, bytes)),
        _ => bail!(CUT_OFF),
    }
}

async fn get(address: &str, path: &str) -> Result<Response<Incoming>> {
    check_address(address)?;
    let connecting = timeout(CONNECT, TcpStream::connect(address)).await;
    let tcp = connecting
        .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
        .with_context(|| format!("no kernel answers at {address}; is its agent running?"))?;
    let (mut send, connection) = hyper::client::conn::http1::handshake(TokioIo::new(tcp)).await?;
    tokio::spawn(connection);
    let request = Request::get(path).header(header::HOST, address).body(Empty::<Bytes>::new())?;
    let answer = send.send_request(request).await?;
    let status = answer.status();
    if status == StatusCode::OK {
        return Ok(answer);
    }
    let body = answer.into_body().collect().await?.to_bytes();
    let said = serde_json::from_slice::<serde_json::Value>(&body).ok();
    let why = said.as_ref().and_then(|v| v["error"].as_str()).unwrap_or("its agent may be of an older version");
    bail!("the kernel at {address} gives no backup ({status}): {why}")
}

/// A file has its name only once it is whole.
enum Target<'a> {
    Stdout(io::Stdout),
    File { file: File, part: PathBuf, path: &'a Path },
}

impl<'a> Target<'a> {
    fn of(path: &'a Path) -> Result<Self> {
        if path == Path::new("-") {
            let to = io::stdout();
            ensure!(!to.is_terminal(), "a backup is nothing to look at: name a file, or send the output to one");
            return Ok(Target::Stdout(to));
        }
        let mut part = path.as_os_str().to_owned();
        part.push(".part");
        let part = PathBuf::from(part);
        let file = File::create(&part).with_context(|| part.display().to_string())?;
        Ok(Target::File { file, part, path })
    }

    fn write_all(&mut self, b: &[u8]) -> Result<()> {
        match self {
            // Not as other commands: half a backup is an error, whoever has stopped reading.
            Target::Stdout(to) => to.write_all(b).context("standard output"),
            Target::File { file, part, .. } => file.write_all(b).with_context(|| part.display().to_string()),
        }
    }

    /// Half a backup must not be taken for a whole one.
    fn discard(self) {
        if let Target::File { part, .. } = self {
            let _ = fs::remove_file(part);
        }
    }

    fn finish(self) -> Result<()> {
        match self {
            Target::Stdout(mut to) => to.flush().context("standard output"),
            Target::File { file, part, path } => {
                file.sync_all().with_context(|| part.display().to_string())?;
                fs::rename(&part, path).with_context(|| path.display().to_string())?;
                // Its name, too, must be there after a power loss.
                let dir = around(path);
                sync_dir(dir).with_context(|| dir.display().to_string())
            }
        }
    }
}
