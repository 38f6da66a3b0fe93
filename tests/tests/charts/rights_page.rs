//! `docs/rbac.md`: every right that the charts give, with the comment that stands before it in the template.

use crate::papers::words;
use crate::{Chart, committed};
use anyhow::{Result, anyhow};
use mew_tests::dirs::root;
use serde_json::Value;

const PAGE: &str = "docs/rbac.md";
const HEAD: &str = "<!-- Generated from the charts by `MEW_WRITE_GOLDEN=1 cargo test -p mew-tests --test charts`; do not edit. -->
# Rights

What each of us may do on the API server. `tests/tests/rbac.rs` runs the operator under exactly these rights, on API servers that write down every
request: none is denied, and none of the rights is left over. There is no wildcard, no right on pods, nodes or workloads, none to read a Secret that
the operator did not make, and no way to more rights.

An agent has no right at all, and asks the API server for nothing.
";
const EVERYWHERE: &str = "
## The operator, for all namespaces

As the chart is without `watchNamespaces`. Those with names of objects hold for these alone.

";
const SOME: &str = "
## The operator, for a list of namespaces

With `watchNamespaces`, here `team-a` and `team-b`: what is cluster-wide has no namespace to be limited to.

";
const PEOPLE: &str = "
## People

mew-crds adds these to the cluster's own roles. A Remote says what its peer may do, a policy what anybody may do at all: who has `edit` alone cannot
open a flow that no policy allows.

| role | resources | verbs |
|---|---|---|
";

#[test]
fn the_page_of_rights_is_as_generated() -> Result<()> {
    let operator = Chart::named("mew-operator")?;
    let mut page = HEAD.to_owned();
    for (heading, case) in [(EVERYWHERE, "default"), (SOME, "namespaced")] {
        page += heading;
        page += "| where | resources | names | verbs | what for |\n|---|---|---|---|---|\n";
        page += &table(&operator.render(operator.namespace, &[&operator.case(case)?.values])?, operator.namespace)?;
    }
    page += PEOPLE;
    page += &people(&Chart::named("mew-crds")?.render("mew-system", &[])?)?;
    committed(&root().join(PAGE), &page)
}

/// Roles and ClusterRoles as they are rendered, and what they are.
fn roles(text: &str) -> Result<Vec<(&str, Value)>> {
    let is_role = |d: &&str| d.contains("\nkind: Role\n") || d.contains("\nkind: ClusterRole\n");
    let mut all = Vec::new();
    for document in text.split("---\n").filter(is_role) {
        all.push((document, serde_saphyr::from_str(document).map_err(|e| anyhow!("{e}"))?));
    }
    Ok(all)
}

fn table(text: &str, own: &str) -> Result<String> {
    let mut table = String::new();
    for (document, role) in roles(text)? {
        let place = match role["metadata"]["namespace"].as_str() {
            None => "cluster",
            Some(n) if n == own => "its own namespace",
            Some(n) => n,
        };
        let rules = role["rules"].as_array().into_iter().flatten();
        for (rule, why) in rules.zip(comments(document)) {
            let (names, verbs) = (words(&rule["resourceNames"]), words(&rule["verbs"]));
            table += &format!("| {place} | {} | {names} | {verbs} | {why} |\n", resources(rule));
        }
    }
    Ok(table)
}

/// Of the cluster's own role that each is added to.
fn people(text: &str) -> Result<String> {
    let mut table = String::new();
    for (_, role) in roles(text)? {
        let labels = role["metadata"]["labels"].as_object();
        let to = labels.and_then(|l| l.keys().find_map(|k| k.strip_prefix("rbac.authorization.k8s.io/aggregate-to-")));
        for rule in role["rules"].as_array().into_iter().flatten() {
            table += &format!("| {} | {} | {} |\n", to.unwrap_or_default(), resources(rule), words(&rule["verbs"]));
        }
    }
    Ok(table)
}

/// With their group, as `kubectl` takes them.
fn resources(rule: &Value) -> String {
    let group = match rule["apiGroups"][0].as_str() {
        None | Some("") => String::new(),
        Some(g) => format!(".{g}"),
    };
    let all: Vec<String> = words(&rule["resources"]).split(", ").map(|r| format!("{r}{group}")).collect();
    all.join(", ")
}

/// The comment before each rule; a rule without one belongs to that of the rule before it.
fn comments(document: &str) -> Vec<String> {
    let (mut all, mut comment, mut said) = (Vec::new(), Vec::new(), String::new());
    let rules = document.split_once("\nrules:\n").map_or("", |(_, rules)| rules);
    for line in rules.lines().map(str::trim) {
        if let Some(words) = line.strip_prefix('#') {
            comment.push(words.trim());
        } else if line.starts_with("- apiGroups:") {
            if !comment.is_empty() {
                said = comment.join(" ");
                comment.clear();
            }
            all.push(said.clone());
        }
    }
    all
}
