//! Rights, as the chart gives them, beside requests, as the API server has written them down.

use anyhow::{Result, ensure};
use mew_tests::apiserver::ApiServer;
use serde_json::Value;
use std::collections::BTreeSet;
use std::fmt;

/// One verb on one resource, in one place, under one name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Right {
    /// A namespace; `None` is everywhere.
    pub place: Option<String>,
    pub group: String,
    /// With its subresource.
    pub resource: String,
    /// `None` is any.
    pub name: Option<String>,
    pub verb: String,
}

impl fmt::Display for Right {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Right { place, group, resource, name, verb } = self;
        let (place, name) = (place.as_deref().unwrap_or("all namespaces"), name.as_deref().unwrap_or("any"));
        write!(f, "{verb} {resource}.{group} {name} in {place}")
    }
}

/// A request of the account that is looked at.
#[derive(Debug)]
pub struct Request {
    verb: String,
    group: String,
    resource: String,
    namespace: String,
    name: String,
    code: u64,
    is_allowed: bool,
}

fn words(v: &Value) -> Vec<String> {
    v.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}

/// All rights of the roles among these objects. The chart binds each role to its one account.
pub fn rights(objects: &[Value]) -> BTreeSet<Right> {
    let mut all = BTreeSet::new();
    for role in objects.iter().filter(|o| o["kind"] == "Role" || o["kind"] == "ClusterRole") {
        let place = role["metadata"]["namespace"].as_str().map(str::to_owned);
        for rule in role["rules"].as_array().into_iter().flatten() {
            let names: Vec<Option<String>> = match words(&rule["resourceNames"]) {
                none if none.is_empty() => vec![None],
                some => some.into_iter().map(Some).collect(),
            };
            for group in words(&rule["apiGroups"]) {
                for resource in words(&rule["resources"]) {
                    for verb in words(&rule["verbs"]) {
                        all.extend(names.iter().map(|name| Right {
                            place: place.clone(),
                            group: group.clone(),
                            resource: resource.clone(),
                            name: name.clone(),
                            verb: verb.clone(),
                        }));
                    }
                }
            }
        }
    }
    all
}

/// What this user asked for so far.
pub fn requests(api: &ApiServer, user: &str) -> Result<Vec<Request>> {
    let of_user = |e: &&Value| e["user"]["username"] == user;
    Ok(api.audit()?.iter().filter(of_user).map(request).collect())
}

fn request(event: &Value) -> Request {
    let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
    let object = &event["objectRef"];
    let sub = text(&object["subresource"]);
    let resource = text(&object["resource"]);
    Request {
        verb: text(&event["verb"]),
        group: text(&object["apiGroup"]),
        resource: if sub.is_empty() { resource } else { format!("{resource}/{sub}") },
        namespace: text(&object["namespace"]),
        name: text(&object["name"]),
        code: event["responseStatus"]["code"].as_u64().unwrap_or_default(),
        is_allowed: event["annotations"]["authorization.k8s.io/decision"] == "allow",
    }
}

impl Request {
    /// By the authorizer, or by whoever else says 403.
    fn is_denied(&self) -> bool {
        !self.is_allowed || self.code == 403
    }

    fn uses(&self, right: &Right) -> bool {
        // A server-side apply is a patch, and needs the right to create too if it makes its object.
        let makes = self.verb == "patch" && self.code == 201 && right.verb == "create";
        (self.verb == right.verb || makes)
            && (&self.group, &self.resource) == (&right.group, &right.resource)
            && right.place.as_ref().is_none_or(|p| *p == self.namespace)
            && right.name.as_ref().is_none_or(|n| *n == self.name)
    }
}

/// No request was denied, and no right is left over.
pub fn judge(rights: &BTreeSet<Right>, requests: &[Request]) -> Result<()> {
    let denied: Vec<String> = requests.iter().filter(|r| r.is_denied()).map(|r| format!("{r:?}")).collect();
    ensure!(denied.is_empty(), "denied:\n{}", denied.join("\n"));
    let unused: Vec<String> =
        rights.iter().filter(|right| !requests.iter().any(|r| r.uses(right))).map(Right::to_string).collect();
    ensure!(unused.is_empty(), "given, and never used:\n{}", unused.join("\n"));
    Ok(())
}
