//! What names in a script stand for.

use mew_model::Value;
use std::collections::BTreeMap;

/// Values of `$name`, by name. There are few, and a row looks all of them up.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Params(Vec<(String, Value)>);

impl Params {
    pub fn new() -> Params {
        Params::default()
    }

    /// In place of what had the name before.
    pub fn insert(&mut self, name: String, v: Value) {
        match self.find(&name) {
            Ok(at) => self.0[at].1 = v,
            Err(at) => self.0.insert(at, (name, v)),
        }
    }

    pub fn get(&self, name: &str) -> Option<&Value> {
        self.find(name).ok().map(|at| &self.0[at].1)
    }

    pub fn contains_key(&self, name: &str) -> bool {
        self.find(name).is_ok()
    }

    /// Where a name's value is, for [`Params::set`], until another name comes.
    pub(crate) fn place(&self, name: &str) -> Option<usize> {
        self.find(name).ok()
    }

    pub(crate) fn set(&mut self, place: usize, v: Value) {
        if let Some(p) = self.0.get_mut(place) {
            p.1 = v;
        }
    }

    fn find(&self, name: &str) -> Result<usize, usize> {
        self.0.binary_search_by(|p| p.0.as_str().cmp(name))
    }
}

/// Of two with the same name the later counts.
impl FromIterator<(String, Value)> for Params {
    fn from_iter<T: IntoIterator<Item = (String, Value)>>(all: T) -> Params {
        let by_name: BTreeMap<String, Value> = all.into_iter().collect();
        Params(by_name.into_iter().collect())
    }
}

impl<const N: usize> From<[(String, Value); N]> for Params {
    fn from(all: [(String, Value); N]) -> Params {
        all.into_iter().collect()
    }
}

/// Entities that earlier statements of the script bound.
pub type Bound = BTreeMap<String, u32>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_later_of_two_values_counts() {
        let of = |name: &str, v: i64| (name.to_owned(), Value::Int(v));
        let mut p: Params = [of("b", 1), of("a", 2), of("b", 3)].into();
        assert_eq!([p.get("a"), p.get("b"), p.get("c")], [Some(&Value::Int(2)), Some(&Value::Int(3)), None]);
        p.insert("a".into(), Value::Int(4));
        p.insert("c".into(), Value::Int(5));
        let place = p.place("b").expect("it is there");
        p.set(place, Value::Int(6));
        assert_eq!(p, [of("c", 5), of("a", 4), of("b", 6)].into());
        assert!(p.contains_key("c") && !p.contains_key("d"));
    }
}
