//! A page of the documentation as it can be followed: its shell blocks, the commands that it shows at a prompt, and what it says
//! that they print.

use anyhow::{Context, Result};
use std::net::Ipv4Addr;

#[derive(Debug, Default, PartialEq)]
pub struct Step {
    /// Of its section.
    pub heading: String,
    pub script: String,
    /// Lines that are printed, in this order.
    pub shows: Vec<String>,
    /// Typed only to look: it may be typed again until there is what the page shows.
    pub looks: bool,
}

/// The steps of all numbered sections, from this one on.
pub fn steps(page: &str, first: u32) -> Result<Vec<Step>> {
    let (mut all, mut heading, mut counts) = (Vec::<Step>::new(), "", false);
    let mut lines = page.lines();
    while let Some(line) = lines.next() {
        if let Some(text) = line.strip_prefix("## ") {
            let number = text.split_once('.').and_then(|(n, _)| n.parse::<u32>().ok());
            (heading, counts) = (text, number.is_some_and(|n| n >= first));
        } else if let Some(language) = line.strip_prefix("```") {
            let block: Vec<&str> = lines.by_ref().take_while(|l| !l.starts_with("```")).collect();
            if counts && language == "sh" {
                all.push(Step { heading: heading.to_owned(), script: block.join("\n"), ..Step::default() });
            }
        } else if let Some(text) = line.strip_prefix("    ").filter(|_| counts) {
            match text.strip_prefix("$ ") {
                Some(command) => {
                    let looks = command.starts_with("kubectl ") && command.contains(" get ");
                    let (heading, script) = (heading.to_owned(), command.to_owned());
                    all.push(Step { heading, script, looks, ..Step::default() });
                }
                None => {
                    let step = all.last_mut().with_context(|| format!("nothing prints {text:?}"))?;
                    step.shows.push(text.to_owned());
                }
            }
        }
    }
    Ok(all)
}

impl Step {
    /// The first line that is shown and was not printed, after those before it.
    pub fn missing(&self, printed: &str) -> Option<&str> {
        let mut rest = printed.lines().map(shape);
        let is_missing = |shown: &&String| {
            let wanted = shape(shown);
            !rest.any(|l| l == wanted)
        };
        self.shows.iter().find(is_missing).map(String::as_str)
    }
}

/// A line without what differs from run to run: space between columns, ages, addresses, the ends of pods' names.
fn shape(line: &str) -> Vec<String> {
    line.split_whitespace().map(|word| without_addresses(&without_hash(&without_age(word)))).collect()
}

fn without_age(word: &str) -> String {
    let is_unit = |c: char| "smhdy".contains(c);
    let is_age = word.starts_with(|c: char| c.is_ascii_digit())
        && word.ends_with(is_unit)
        && word.chars().all(|c| c.is_ascii_digit() || is_unit(c));
    // A peer that does not want us may close the connection before or after it has said so; the page says both.
    if word == "TLSRefusedByPeer" {
        "Unreachable".to_owned()
    } else if is_age {
        "<age>".to_owned()
    } else {
        word.to_owned()
    }
}

/// Of the pod of a Deployment.
fn without_hash(word: &str) -> String {
    let is_hash = |s: &str| s.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
    if let Some((rest, pod)) = word.rsplit_once('-')
        && let Some((name, template)) = rest.rsplit_once('-')
        && pod.len() == 5
        && (8..=10).contains(&template.len())
        && is_hash(pod)
        && is_hash(template)
    {
        return format!("{name}-<pod>");
    }
    word.to_owned()
}

fn without_addresses(word: &str) -> String {
    let is_part = |c: char| c.is_ascii_digit() || c == '.';
    let (mut out, mut rest) = (String::new(), word);
    while let Some(begin) = rest.find(|c: char| c.is_ascii_digit()) {
        let end = rest[begin..].find(|c: char| !is_part(c)).map_or(rest.len(), |n| begin + n);
        out.push_str(&rest[..begin]);
        let number = &rest[begin..end];
        out.push_str(if number.parse::<Ipv4Addr>().is_ok() { "<address>" } else { number });
        rest = &rest[end..];
    }
    out + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str = "# A page\n\n## 1. Before\n\n```sh\nmake clusters\n```\n\n## 2. Then\n\nText.\n\n```sh\nhelm install x\necho done\n```\n
    done\n\nLook:\n\n    $ kubectl --context kind-east get pods\n    NAME                    AGE\n    x-6d5f7c9b8d-pm2rt      20s\n
    PEER\n    mew://172.18.0.3:30901/a.b\n\n```yaml\nkind: No\n```\n\n## Beyond\n\n```sh\nnot this\n```\n\n    $ nor this\n";

    fn parsed() -> Vec<Step> {
        steps(PAGE, 2).unwrap()
    }

    #[test]
    fn blocks_and_prompts_of_numbered_sections_are_steps() {
        let all = parsed();
        assert_eq!(all.len(), 2, "{all:?}");
        assert_eq!((all[0].heading.as_str(), all[0].script.as_str()), ("2. Then", "helm install x\necho done"));
        assert_eq!((all[0].shows.as_slice(), all[0].looks), (["done".to_owned()].as_slice(), false));
        assert_eq!((all[1].script.as_str(), all[1].looks), ("kubectl --context kind-east get pods", true));
        assert_eq!(all[1].shows.len(), 4);
        steps("## 1. A\n\n    printed by nobody\n", 1).unwrap_err();
    }

    #[test]
    fn what_differs_from_run_to_run_is_not_compared() {
        let look = &parsed()[1];
        let good = "NAME AGE\nother-7b9c5d6f4d-zq8wn 3s\nx-7b9c5d6f4d-zq8wn 3m2s\nPEER\nmew://10.89.0.7:30901/a.b\n";
        assert_eq!(look.missing(good), None);
        for (from, to) in [
            ("NAME AGE\n", ""),
            ("x-7b9c5d6f4d-zq8wn", "x-7b9c5d6f4d"),
            (":30901", ":30902"),
            ("/a.b", "/a.c"),
            ("PEER\nmew://10.89.0.7:30901/a.b\n", "mew://10.89.0.7:30901/a.b\nPEER\n"),
        ] {
            assert!(look.missing(&good.replace(from, to)).is_some(), "{from:?}");
        }
    }
}
