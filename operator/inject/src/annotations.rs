//! What a pod asks for, read strictly: a wrong or unknown annotation is refused by its name, with what is allowed.

use crate::settings::{Bounds, Resources};
use crate::{Refusal, annotation_field, cut, label_field, quantity};
use mew_crds::annotations::{KERNEL, PREFIX, pod as names};
use mew_crds::common::is_object_name;
use mew_lang::diagnostic::nearest;
use serde_json::{Map, Value};

pub enum Storage {
    /// A PersistentVolumeClaim.
    Claim(String),
    /// A volume that the pod has anyway.
    Volume(String),
    /// Gone with the pod; with a size at most.
    Ephemeral(Option<String>),
}

/// Whether all pods of the label are one kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    Shared,
    PerPod,
}

pub struct Ports {
    pub client: u16,
    pub federation: u16,
    pub health: u16,
}

/// A key of a ConfigMap.
pub struct Ontology {
    pub map: String,
    pub key: String,
}

pub struct Wishes {
    pub scope: Scope,
    /// The number of the first pod of a StatefulSet, if it is said.
    pub ordinals_start: Option<u32>,
    pub storage: Storage,
    pub ontology: Ontology,
    /// Secrets of the pod's namespace.
    pub certificates: Vec<String>,
    pub resources: Resources,
    pub ports: Ports,
    pub log_level: &'static str,
}

const LOG_LEVELS: [(&str, &str); 5] =
    [("error", "error"), ("warn", "warn"), ("info", "info"), ("debug", "debug"), ("trace", "trace")];
const ONTOLOGY_KEY: &str = "ontology";
/// One for each organisation that wants a certificate of its own issuer; more are a mistake rather than a wish.
const MOST_CERTIFICATES: usize = 8;
const CLIENT_PORT: u16 = 9000;
const FEDERATION_PORT: u16 = 9001;
const HEALTH_PORT: u16 = 9464;
/// Below, a process needs a privilege that the agent does not have.
const FIRST_PORT: u16 = 1024;
/// No agent runs in less. Mostly it is `512m` that should have been `512Mi`.
const LEAST_MEMORY: f64 = (16 << 20) as f64;
const LEAST_CPU: f64 = 0.001;
/// Two segments of the log, and the same again for compaction.
const LEAST_STORAGE: f64 = (256 << 20) as f64;

/// Whether the pod wants no agent in spite of its label.
pub fn opts_out(given: &Map<String, Value>) -> Result<bool, Refusal> {
    let mut r = Reader { given, refusals: Vec::new() };
    let inject = r.choice(names::INJECT, &[("true", true), ("false", false)], true);
    r.refusals.pop().map_or(Ok(!inject), Err)
}

/// Whether the pod says anything about the agent that it wants.
pub fn ask(given: &Map<String, Value>) -> bool {
    given.keys().any(|k| k.starts_with(PREFIX) && k != names::INJECT && k != names::ROOTS)
}

pub fn read(label: &str, given: &Map<String, Value>) -> Result<Wishes, Vec<Refusal>> {
    let mut r = Reader { given, refusals: Vec::new() };
    if !is_dns_label(label) {
        let message = format!(
            "{:?} is no name of a kernel: lower-case letters, digits and '-' between them, at most 63",
            cut(label)
        );
        r.refusals.push(Refusal { field: label_field(KERNEL), message });
    }
    r.only_known();
    let storage = r.storage();
    let ontology = r.ontology();
    let certificates = r.certificates();
    let scope = r.choice(names::KERNEL_SCOPE, &[("shared", Scope::Shared), ("per-pod", Scope::PerPod)], Scope::Shared);
    let ordinals_start = r.ordinals_start(scope);
    let cpu = r.bounds((names::CPU_REQUEST, names::CPU_LIMIT), LEAST_CPU, "1m", "500m or 0.5");
    let memory = r.bounds((names::MEMORY_REQUEST, names::MEMORY_LIMIT), LEAST_MEMORY, "16Mi", "256Mi");
    let ports = r.ports();
    let log_level = r.choice(names::LOG_LEVEL, &LOG_LEVELS, "info");
    match (storage, ontology) {
        (Some(storage), Some(ontology)) if r.refusals.is_empty() => {
            let resources = Resources { cpu, memory };
            Ok(Wishes { scope, ordinals_start, storage, ontology, certificates, resources, ports, log_level })
        }
        _ => Err(r.refusals),
    }
}

/// A label of DNS, as names of pods' volumes and of kernels are.
fn is_dns_label(s: &str) -> bool {
    s.len() <= 63 && !s.contains('.') && is_object_name(s)
}

fn is_key(s: &str) -> bool {
    let good = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
    (1..=253).contains(&s.len()) && s.bytes().all(good) && s != "." && s != ".."
}

/// Collects what is wrong; each reader then goes on with a default, so that everything is said at once.
struct Reader<'a> {
    given: &'a Map<String, Value>,
    refusals: Vec<Refusal>,
}

impl<'a> Reader<'a> {
    fn refuse(&mut self, name: &str, message: String) {
        self.refusals.push(Refusal { field: annotation_field(name), message });
    }

    fn only_known(&mut self) {
        let given = self.given;
        for name in given.keys().filter(|k| k.starts_with(PREFIX) && !names::ALL.contains(&k.as_str())) {
            let short = |n: &'static str| n.strip_prefix(PREFIX).unwrap_or(n);
            let word = name.strip_prefix(PREFIX).unwrap_or(name);
            let rest = match nearest(word, names::ALL.map(short)) {
                Some(n) => format!("did you mean {PREFIX}{n}?"),
                None => format!("known are {}", names::ALL.map(short).join(", ")),
            };
            self.refuse(&cut(name), format!("is not known; {rest}"));
        }
    }

    fn text(&mut self, name: &str) -> Option<&'a str> {
        let value = self.given.get(name)?;
        if value.as_str().is_none() {
            self.refuse(name, format!("{} is not a string; quote it", cut(&value.to_string())));
        }
        value.as_str()
    }

    fn needed(&mut self, name: &str, choices: &str) -> Option<&'a str> {
        if !self.given.contains_key(name) {
            self.refuse(name, format!("is needed: {choices}"));
        }
        self.text(name)
    }

    fn choice<T: Copy>(&mut self, name: &str, choices: &[(&str, T)], default: T) -> T {
        let Some(text) = self.text(name) else { return default };
        if let Some((_, t)) = choices.iter().find(|(c, _)| *c == text) {
            return *t;
        }
        let all: Vec<String> = choices.iter().map(|(c, _)| format!("{c:?}")).collect();
        let hint = did_you_mean(text, choices.iter().map(|(c, _)| *c));
        self.refuse(name, format!("{:?} is not allowed; say {}{hint}", cut(text), all.join(" or ")));
        default
    }

    fn storage(&mut self) -> Option<Storage> {
        const NAME: &str = names::STORAGE;
        let choices = "\"claim:<PersistentVolumeClaim>\" or \"volume:<volume of the pod>\" keeps the kernel's data, \
                       \"ephemeral\" or \"ephemeral:<size>\" loses it with the pod";
        let text = self.needed(NAME, choices)?;
        let (kind, name) = text.split_once(':').map_or((text, None), |(k, n)| (k, Some(n)));
        match (kind, name) {
            ("claim", Some(n)) if is_object_name(n) => Some(Storage::Claim(n.to_owned())),
            ("volume", Some(n)) if is_dns_label(n) => Some(Storage::Volume(n.to_owned())),
            ("claim" | "volume", n) => {
                let what = if kind == "claim" { "a PersistentVolumeClaim" } else { "a volume" };
                self.refuse(NAME, format!("{:?} after {kind:?} is no name of {what}", cut(n.unwrap_or_default())));
                None
            }
            ("ephemeral", None) => Some(Storage::Ephemeral(None)),
            ("ephemeral", Some(size)) => {
                let size = self.amount(NAME, size, LEAST_STORAGE, "256Mi", "1Gi")?;
                Some(Storage::Ephemeral(Some(size)))
            }
            _ => {
                let hint = did_you_mean(kind, ["claim", "volume", "ephemeral"]);
                self.refuse(NAME, format!("{:?} is not allowed: {choices}{hint}", cut(text)));
                None
            }
        }
    }

    fn ontology(&mut self) -> Option<Ontology> {
        const NAME: &str = names::ONTOLOGY;
        let choices = "\"<ConfigMap>\", whose key is \"ontology\", or \"<ConfigMap>/<key>\"";
        let text = self.needed(NAME, choices)?;
        let (map, key) = text.split_once('/').unwrap_or((text, ONTOLOGY_KEY));
        if !is_object_name(map) || !is_key(key) {
            self.refuse(NAME, format!("{:?} is not allowed; say {choices}", cut(text)));
            return None;
        }
        Some(Ontology { map: map.to_owned(), key: key.to_owned() })
    }

    fn certificates(&mut self) -> Vec<String> {
        const NAME: &str = names::CERTIFICATES;
        let Some(text) = self.text(NAME) else { return Vec::new() };
        let all: Vec<String> = text.split(',').map(|n| n.trim().to_owned()).collect();
        if let Some(bad) = all.iter().find(|n| !is_object_name(n)) {
            let said = format!("{:?} is no name of a Secret; say \"<Secret>\" or several with commas", cut(bad));
            self.refuse(NAME, said);
        } else if let Some(twice) = all.iter().enumerate().find(|(i, n)| all[..*i].contains(n)).map(|(_, n)| n) {
            self.refuse(NAME, format!("{:?} is there twice", cut(twice)));
        } else if all.len() > MOST_CERTIFICATES {
            self.refuse(NAME, format!("{} Secrets; at most {MOST_CERTIFICATES} are allowed", all.len()));
        }
        all
    }

    fn ordinals_start(&mut self, scope: Scope) -> Option<u32> {
        const NAME: &str = names::ORDINALS_START;
        let text = self.text(NAME)?;
        let number = text.parse().ok().filter(|n: &u32| n.to_string() == text);
        if number.is_none() {
            self.refuse(NAME, format!("{:?} is no number such as 1", cut(text)));
        } else if scope == Scope::PerPod {
            self.refuse(
                NAME,
                format!("means nothing with {}: per-pod, where each pod has a kernel", names::KERNEL_SCOPE),
            );
        }
        number
    }

    fn bounds(&mut self, (request, limit): (&str, &str), least: f64, least_text: &str, such_as: &str) -> Bounds {
        let mut end = |name: &str| {
            let text = self.text(name)?;
            self.amount(name, text, least, least_text, such_as)
        };
        let bounds = Bounds { request: end(request), limit: end(limit) };
        if !bounds.in_order() {
            self.refuse(request, format!("is more than {limit}"));
        }
        bounds
    }

    fn amount(&mut self, name: &str, text: &str, least: f64, least_text: &str, such_as: &str) -> Option<String> {
        match quantity::parse(text) {
            None => self.refuse(name, format!("{:?} is no quantity such as {such_as}", cut(text))),
            Some(a) if a < least => {
                // A thousandth of a byte is never meant.
                let hint = match text.strip_suffix('m') {
                    Some(n) if least > 1.0 => format!("; did you mean {:?}?", format!("{}Mi", cut(n))),
                    _ => String::new(),
                };
                self.refuse(name, format!("{:?} is less than {least_text}, the least that can work{hint}", cut(text)));
            }
            Some(_) => return Some(text.to_owned()),
        }
        None
    }

    fn ports(&mut self) -> Ports {
        let client = self.port(names::CLIENT_PORT, CLIENT_PORT);
        let federation = self.port(names::FEDERATION_PORT, FEDERATION_PORT);
        let health = self.port(names::HEALTH_PORT, HEALTH_PORT);
        for (name, port, other, taken) in [
            (names::FEDERATION_PORT, federation, names::CLIENT_PORT, client),
            (names::HEALTH_PORT, health, names::CLIENT_PORT, client),
            (names::HEALTH_PORT, health, names::FEDERATION_PORT, federation),
        ] {
            if port == taken {
                self.refuse(name, format!("{port} is the port of {other} too; say another one"));
            }
        }
        Ports { client, federation, health }
    }

    fn port(&mut self, name: &str, default: u16) -> u16 {
        let Some(text) = self.text(name) else { return default };
        let port = text.parse().ok().filter(|p: &u16| *p >= FIRST_PORT && p.to_string() == text);
        port.unwrap_or_else(|| {
            self.refuse(name, format!("{:?} is no port from {FIRST_PORT} to {}", cut(text), u16::MAX));
            default
        })
    }
}

fn did_you_mean<'c>(word: &str, candidates: impl IntoIterator<Item = &'c str>) -> String {
    nearest(word, candidates).map(|n| format!("; did you mean {n:?}?")).unwrap_or_default()
}
