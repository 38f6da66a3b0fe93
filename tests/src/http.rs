//! The least HTTP that talks to an agent's client API and to health ports.

use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// An answer that takes longer has failed.
const LIMIT: Duration = Duration::from_secs(30);

/// Status and body.
pub fn get(port: u16, path: &str) -> Result<(u16, String)> {
    request(port, "GET", path, "")
}

/// Sends JSON; anything but success is an error with what the server says.
pub fn post(port: u16, path: &str, body: &Value) -> Result<Value> {
    let (status, text) = request(port, "POST", path, &body.to_string())?;
    let v: Value = serde_json::from_str(&text).with_context(|| format!("{path}: {status}: {text:?}"))?;
    if status != 200 {
        bail!("{path}: {status}: {}", v["error"].as_str().unwrap_or(&text));
    }
    Ok(v)
}

/// The value of a metric without labels; counters end in `_total`.
pub fn metric(port: u16, name: &str) -> Result<Option<f64>> {
    let (_, text) = get(port, "/metrics")?;
    let line = text.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(' '));
    Ok(line.and_then(|l| l.split_whitespace().next()?.parse().ok()))
}

fn request(port: u16, method: &str, path: &str, body: &str) -> Result<(u16, String)> {
    let mut s = TcpStream::connect_timeout(&SocketAddr::from(([127, 0, 0, 1], port)), LIMIT)
        .with_context(|| format!("nothing answers at port {port}"))?;
    s.set_read_timeout(Some(LIMIT))?;
    s.set_write_timeout(Some(LIMIT))?;
    let text = format!(
        "{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    );
    s.write_all(text.as_bytes())?;
    let mut answer = String::new();
    s.read_to_string(&mut answer).with_context(|| format!("{method} {path} at port {port}"))?;
    let (head, body) = answer.split_once("\r\n\r\n").with_context(|| format!("{path}: no HTTP: {answer:?}"))?;
    let status = head.split(' ').nth(1).and_then(|s| s.parse().ok());
    let is_in_chunks = head.to_ascii_lowercase().contains("transfer-encoding: chunked");
    let body = if is_in_chunks { joined(body).with_context(|| path.to_owned())? } else { body.to_owned() };
    Ok((status.with_context(|| format!("{path}: no status: {head:?}"))?, body))
}

/// A body that came in chunks, each after its length.
fn joined(mut rest: &str) -> Result<String> {
    let mut out = String::new();
    loop {
        let (length, more) = rest.split_once("\r\n").context("a chunk without a length")?;
        let length = usize::from_str_radix(length.split(';').next().unwrap_or_default().trim(), 16)?;
        if length == 0 {
            return Ok(out);
        }
        out.push_str(more.get(..length).context("half a chunk, or half a character in it")?);
        rest = more[length..].strip_prefix("\r\n").context("a chunk without an end")?;
    }
}

#[cfg(test)]
mod tests {
    use super::joined;

    #[test]
    fn chunks_are_joined_and_half_ones_refused() {
        assert_eq!(joined("4\r\nname\r\nb;x=y\r\n 1\r\nother 2\r\n0\r\n\r\n").unwrap(), "name 1\r\nother 2");
        assert_eq!(joined("0\r\n\r\n").unwrap(), "");
        for half in ["", "4\r\nnam", "4\r\nname", "4\r\nname\r\n", "x\r\nname\r\n0\r\n\r\n"] {
            joined(half).unwrap_err();
        }
    }
}
