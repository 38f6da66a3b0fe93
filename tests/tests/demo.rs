//! The README's first command: it ends well by itself, leaves no process behind however it ends, and says what is wrong
//! with a port that is taken.

use mew_tests::process;
use std::io::{BufRead, BufReader, Read};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// Ports that the example manifests name.
const PORTS: [u16; 6] = [9000, 9001, 9464, 9100, 9101, 9564];
const PATIENCE: Duration = Duration::from_secs(60);

fn mew(args: &[&str]) -> Command {
    let mut c = process::mew(args).expect("the binary is built");
    c.current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace")).stdin(Stdio::null());
    c
}

fn text(o: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&o.stdout), String::from_utf8_lossy(&o.stderr))
}

/// Waits until nobody listens on any of the demo's ports.
fn nobody_is_left() {
    let end = Instant::now() + PATIENCE;
    while PORTS.iter().any(|p| TcpListener::bind(("127.0.0.1", *p)).is_err()) {
        assert!(Instant::now() < end, "a process of the demo is still there");
        std::thread::yield_now();
    }
}

/// Starts the demo and waits until it has told everything.
fn running() -> Child {
    let mut child = mew(&["demo"]).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("the demo starts");
    let mut out = BufReader::new(child.stdout.take().expect("a pipe"));
    let told = out.by_ref().lines().map_while(Result::ok).any(|l| l.starts_with("Done after"));
    assert!(told, "the demo ended before it was done");
    // What it says afterwards must find a reader.
    std::thread::spawn(move || std::io::copy(&mut out, &mut std::io::sink()));
    child
}

#[test]
fn the_demo_keeps_its_promises() {
    // One after the other: they use the same ports.
    let taken = TcpListener::bind(("127.0.0.1", 9101)).expect("the port is free");
    let o = mew(&["demo", "--once"]).output().expect("the demo runs");
    assert!(!o.status.success() && text(&o).contains("port 9101"), "{}", text(&o));
    drop(taken);

    let o = mew(&["demo", "--once"]).output().expect("the demo runs");
    assert!(o.status.success(), "{}", text(&o));
    for line in ["3372 airports are equal", "5366 flights are equal", "0 inspections", "PolicyDenied", "Done after"] {
        assert!(text(&o).contains(line), "no {line:?} in\n{}", text(&o));
    }
    nobody_is_left();

    for signal in [rustix::process::Signal::INT, rustix::process::Signal::KILL] {
        let mut child = running();
        let pid = rustix::process::Pid::from_child(&child);
        rustix::process::kill_process(pid, signal).expect("the demo is there");
        let status = child.wait().expect("the demo ends");
        assert!(signal == rustix::process::Signal::KILL || status.success(), "{signal:?}: {status}");
        nobody_is_left();
    }
}
