//! Common mistakes: each is refused with what is wrong, where, and what to do, and nothing is said twice.

use std::fs;
use std::process::{Command, Output};

fn mew(args: &[&str]) -> Output {
    let mut c = Command::new(env!("CARGO_BIN_EXE_mew"));
    c.args(args).env_remove("MEW_STATE").env_remove("MEW_ADDRESS").env_remove("RUST_LOG");
    // Nobody's cluster.
    c.env("KUBECONFIG", "/nowhere/kubeconfig").env_remove("KUBERNETES_SERVICE_HOST");
    c.output().expect("it starts")
}

fn refused(args: &[&str], words: &[&str]) {
    let o = mew(args);
    let said = String::from_utf8_lossy(&o.stderr).into_owned();
    assert!(!o.status.success(), "{args:?}: {said}");
    for w in words {
        assert_eq!(said.matches(w).count(), 1, "{args:?} does not say {w:?} once: {said}");
    }
}

#[test]
fn an_address_is_a_host_and_a_port() {
    let query = "MATCH x: any RETURN COUNT(x)";
    for wrong in ["foo", "http://127.0.0.1:9000", ":80", "127.0.0.1:http"] {
        let words = [wrong, "is not <host>:<port>"];
        refused(&["query", "--address", wrong, query], &words);
        refused(&["store", "backup", "--address", wrong], &words);
        refused(&["held", "--address", wrong], &words);
    }
    refused(&["query", "--address", "127.0.0.1:1", query], &["no kernel answers at 127.0.0.1:1", "Connection refused"]);
}

#[test]
fn what_is_not_there_is_named() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = |name: &str| dir.path().join(name).display().to_string();
    let state = path("state");
    refused(&["get", "syncs", "--state", &state], &["is `mew run --state", "No such file or directory"]);
    refused(&["get", "syncs"], &["no kubeconfig can be read", "--state", "No such file or directory"]);
    let o = mew(&["inject", "--trust-domain", "here.example"]);
    let said = String::from_utf8_lossy(&o.stderr).into_owned();
    assert!(said.contains("--roots") && !said.contains("--state"), "it names an option that inject has not: {said}");
    fs::write(path("file"), "").expect("a file");
    refused(&["crds", "--write", &path("file/crds")], &[&path("file/crds")]);
    refused(
        &["run", "--manifests", ".", "--state", &state, "--trust-domain", "A_b"],
        &["a trust domain is lower-case"],
    );
    let operator = ["agent", "--kernel", "k", "--data", &state, "--ontology", &state, "--operator", "here:there"];
    refused(&operator, &["--operator \"here:there\" has no port"]);
}

#[test]
fn files_without_anything_to_check_are_not_called_good() {
    let dir = tempfile::tempdir().expect("a directory");
    let here = dir.path().display().to_string();
    refused(&["validate", &here], &[&here, "no file in it"]);
    fs::write(dir.path().join("typo.yaml"), "kind: Syncc\nmetadata: {name: a}\n").expect("a file");
    fs::write(dir.path().join(".hidden.yaml"), "{").expect("a file");
    let o = mew(&["validate", &here]);
    let said = String::from_utf8_lossy(&o.stdout).into_owned();
    assert!(o.status.success(), "{}", String::from_utf8_lossy(&o.stderr));
    assert!(said.contains("typo.yaml: no Remote, Sync") && !said.contains(": ok"), "{said}");
    fs::write(dir.path().join("a.ontology"), "ontology A { node T { a: Strin } }").expect("a file");
    refused(&["validate", &here], &["error: unknown scalar type Strin", "a.ontology"]);
}
