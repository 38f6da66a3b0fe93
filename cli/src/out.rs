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
