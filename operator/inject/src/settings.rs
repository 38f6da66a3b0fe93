//! What holds for all agents that are injected.

use crate::{Refusal, quantity};
use mew_crds::common::is_trust_domain;

#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    pub trust_domain: String,
    /// `<host>:<port>` under which agents reach their operator.
    pub operator: String,
    pub image: String,
    /// Absent: the API server's choice, which follows from the image's tag.
    pub pull_policy: Option<String>,
    /// Of pods that ask for nothing else.
    pub resources: Resources,
    /// Public roots of the trust domain, PEM.
    pub roots: String,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Resources {
    pub cpu: Bounds,
    pub memory: Bounds,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Bounds {
    pub request: Option<String>,
    pub limit: Option<String>,
}

/// Annotations of an object have 256 KiB together; a bundle of roots has some of it.
const ROOTS_BYTES: usize = 64 << 10;
const PULL_POLICIES: [&str; 3] = ["Always", "IfNotPresent", "Never"];

impl Settings {
    /// What is wrong with them, apart from the roots. The fields are the flags that set them.
    pub fn check(&self) -> Vec<Refusal> {
        let mut wrong = Vec::new();
        let mut that = |ok: bool, field: &str, message: String| {
            if !ok {
                wrong.push(Refusal { field: field.to_owned(), message });
            }
        };
        let domain = &self.trust_domain;
        that(
            is_trust_domain(domain),
            "--trust-domain",
            format!("{domain:?} is no trust domain such as eu.example.com"),
        );
        that(
            is_word(&self.image),
            "--agent-image",
            format!("{:?} is no image such as example.com/mew:1.2.3", self.image),
        );
        that(is_address(&self.operator), "--agent-operator", format!("{:?} is not <host>:<port>", self.operator));
        let policy = self.pull_policy.as_deref();
        let known = policy.is_none_or(|p| PULL_POLICIES.contains(&p));
        let which = policy.unwrap_or_default();
        that(known, "--agent-pull-policy", format!("{which:?} is none of {}", PULL_POLICIES.join(", ")));
        for (name, bounds) in [("cpu", &self.resources.cpu), ("memory", &self.resources.memory)] {
            for (end, given) in [("request", &bounds.request), ("limit", &bounds.limit)] {
                let Some(text) = given else { continue };
                let positive = quantity::parse(text).is_some_and(|a| a > 0.0);
                that(positive, &format!("--agent-{name}-{end}"), format!("{text:?} is no quantity"));
            }
            that(bounds.in_order(), &format!("--agent-{name}-request"), "is more than the limit".to_owned());
        }
        wrong
    }
}

/// What is wrong with roots, which are written into pods, where everybody can read them.
pub fn check_roots(pem: &str) -> Option<Refusal> {
    let message = if !pem.contains("-----BEGIN CERTIFICATE-----") {
        "holds no certificate in PEM".to_owned()
    } else if pem.contains("PRIVATE KEY") {
        "holds a private key, and only certificates belong there".to_owned()
    } else if pem.len() > ROOTS_BYTES {
        format!("has {} bytes; at most {ROOTS_BYTES} fit", pem.len())
    } else {
        return None;
    };
    Some(Refusal { field: "--roots".to_owned(), message })
}

fn is_word(s: &str) -> bool {
    !s.is_empty() && s.bytes().all(|b| b.is_ascii_graphic())
}

fn is_address(s: &str) -> bool {
    let Some((host, port)) = s.rsplit_once(':') else { return false };
    let inner = host.strip_prefix('[').and_then(|h| h.strip_suffix(']'));
    let good = |b: u8| b.is_ascii_alphanumeric() || b"-._".contains(&b) || (inner.is_some() && b == b':');
    port.parse::<u16>().is_ok_and(|p| p > 0)
        && inner.map_or(!host.is_empty(), |i| !i.is_empty())
        && inner.unwrap_or(host).bytes().all(good)
}

impl Bounds {
    /// Whether the limit is no less than the request.
    pub fn in_order(&self) -> bool {
        let amount = |q: &Option<String>| q.as_deref().and_then(quantity::parse);
        match (amount(&self.request), amount(&self.limit)) {
            (Some(request), Some(limit)) => request <= limit,
            _ => true,
        }
    }

    /// What is asked for, and the rest by default. One end that is asked for moves the other one if need be: its author did
    /// not set that one and cannot be told that it is wrong.
    pub fn or(&self, default: &Bounds) -> Bounds {
        let mut out = Bounds {
            request: self.request.clone().or_else(|| default.request.clone()),
            limit: self.limit.clone().or_else(|| default.limit.clone()),
        };
        if !out.in_order() {
            match &self.request {
                Some(r) => out.limit = Some(r.clone()),
                None => out.request = out.limit.clone(),
            }
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::{Bounds, Resources, Settings, check_roots};

    fn bounds(request: &str, limit: &str) -> Bounds {
        let some = |s: &str| (!s.is_empty()).then(|| s.to_owned());
        Bounds { request: some(request), limit: some(limit) }
    }

    #[test]
    fn the_end_that_is_asked_for_moves_the_other_one() {
        let default = bounds("64Mi", "512Mi");
        for (asked, got) in [
            (bounds("", ""), bounds("64Mi", "512Mi")),
            (bounds("128Mi", ""), bounds("128Mi", "512Mi")),
            (bounds("1Gi", ""), bounds("1Gi", "1Gi")),
            (bounds("", "32Mi"), bounds("32Mi", "32Mi")),
            (bounds("", "1Gi"), bounds("64Mi", "1Gi")),
            (bounds("1Gi", "2Gi"), bounds("1Gi", "2Gi")),
        ] {
            assert_eq!(asked.or(&default), got, "{asked:?}");
        }
        assert_eq!(bounds("", "").or(&bounds("50m", "")), bounds("50m", ""), "no limit stays none");
    }

    #[test]
    fn wrong_settings_are_named_by_their_flags() {
        let good = Settings {
            trust_domain: "eu.example.com".into(),
            operator: "mew-operator.mew-system.svc:9443".into(),
            image: "example.com/mew:1".into(),
            pull_policy: Some("IfNotPresent".into()),
            resources: Resources { cpu: bounds("50m", ""), memory: bounds("64Mi", "512Mi") },
            roots: "-----BEGIN CERTIFICATE-----\n".into(),
        };
        for fine in [good.clone(), Settings { operator: "[2001:db8::1]:9443".into(), ..good.clone() }] {
            assert!(fine.check().is_empty(), "{:?}", fine.check());
        }
        let memory = |b: Bounds| Resources { memory: b, ..good.resources.clone() };
        for (flag, bad) in [
            ("--trust-domain", Settings { trust_domain: "EU".into(), ..good.clone() }),
            ("--agent-image", Settings { image: String::new(), ..good.clone() }),
            ("--agent-image", Settings { image: "mew 1".into(), ..good.clone() }),
            ("--agent-operator", Settings { operator: "mew-operator".into(), ..good.clone() }),
            ("--agent-operator", Settings { operator: "$(HOST):9443".into(), ..good.clone() }),
            ("--agent-operator", Settings { operator: "host:99999".into(), ..good.clone() }),
            ("--agent-operator", Settings { operator: ":9443".into(), ..good.clone() }),
            ("--agent-pull-policy", Settings { pull_policy: Some("Sometimes".into()), ..good.clone() }),
            ("--agent-memory-limit", Settings { resources: memory(bounds("", "much")), ..good.clone() }),
            ("--agent-memory-request", Settings { resources: memory(bounds("1Gi", "1Mi")), ..good.clone() }),
        ] {
            let wrong = bad.check();
            assert!(wrong.len() == 1 && wrong[0].field == flag, "{flag}: {wrong:?}");
        }
    }

    #[test]
    fn roots_are_certificates_and_not_too_many() {
        let good = "-----BEGIN CERTIFICATE-----\n";
        assert_eq!(check_roots(good), None);
        for bad in ["", "ca.crt", &format!("{good}-----BEGIN PRIVATE KEY-----"), &good.repeat(5000)] {
            assert!(check_roots(bad).is_some_and(|r| r.field == "--roots"), "{} bytes", bad.len());
        }
    }
}
