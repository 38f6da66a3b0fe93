//! What commands print. A reader that has seen enough (`mew get | head`) ends the program quietly, as with other tools;
//! `println!` would panic.

use std::fmt::Display;
use std::io::{ErrorKind, Write};

/// Standard output.
pub struct Out;

impl Write for Out {
    fn write(&mut self, b: &[u8]) -> std::io::Result<usize> {
        std::io::stdout().write(b).inspect_err(end_if_closed)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        std::io::stdout().flush().inspect_err(end_if_closed)
    }
}

fn end_if_closed(e: &std::io::Error) {
    if e.kind() == ErrorKind::BrokenPipe {
        std::process::exit(0);
    }
}

/// Prints at once.
pub fn text(t: impl Display) {
    if let Err(e) = write!(Out, "{t}").and_then(|()| Out.flush()) {
        eprintln!("error: nothing can be printed: {e}");
        std::process::exit(1);
    }
}

pub fn line(t: impl Display) {
    text(format_args!("{t}\n"));
}

/// An error with its causes, as it is shown. Many a cause repeats what was said before it, and a statement that is wrong comes
/// with a heading of its own.
pub fn failure(e: &anyhow::Error) -> String {
    let mut parts: Vec<String> = Vec::new();
    for cause in e.chain() {
        let said = cause.to_string();
        if parts.iter().any(|p| p.contains(&said)) {
            continue;
        }
        if parts.last().is_some_and(|last| said.starts_with(last.as_str())) {
            parts.pop();
        }
        parts.push(said);
    }
    let text = parts.join(": ");
    if text.starts_with("error: ") { text } else { format!("error: {text}") }
}

#[cfg(test)]
mod tests {
    use super::failure;
    use anyhow::anyhow;

    #[test]
    fn a_failure_says_nothing_twice() {
        let e = anyhow!("no such file").context("a cannot be read: no such file").context("no kubeconfig");
        assert_eq!(failure(&e), "error: no kubeconfig: a cannot be read: no such file");
        let e = anyhow!("tcp connect error: refused").context("tcp connect error").context("no kernel answers");
        assert_eq!(failure(&e), "error: no kernel answers: tcp connect error: refused");
        let e = anyhow!("refused").context("no kernel answers");
        assert_eq!(failure(&e), "error: no kernel answers: refused");
        assert_eq!(failure(&anyhow!("error: unknown type A")), "error: unknown type A");
    }
}
