//! The watches: what they see goes to the task that plans, in order. Whether something was withdrawn, or went with its
//! CustomResourceDefinition, is judged here.

use crate::declared::{Change, Listed, Of};
use crate::definitions::{Definition, Definitions};
use crate::doubt;
use futures::StreamExt;
use futures::future::join_all;
use jiff::Timestamp;
use kube::api::{Api, ApiResource, DynamicObject, GroupVersionKind};
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Client, ResourceExt};
use mew_crds::{GROUP, VERSION};
use serde::de::DeserializeOwned;
use std::collections::BTreeSet;
use std::mem::take;
use std::time::Instant;
use tokio::sync::mpsc::Sender;

/// The API server ends a watch after this, and a dead connection is noticed 30 seconds later at the latest: a withdrawal must
/// not wait behind one for minutes.
const WATCH_SECONDS: u32 = 60;
/// Objects of a list that come at once, and events that are looked at together: they are in memory as the API server sent
/// them, which is several times what is kept.
const PAGE: usize = 500;

/// A copy of the object, as `kubectl apply` had it.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// What all watches share.
struct Watches<'a> {
    client: &'a Client,
    /// When the first leader ever began.
    in_use: Option<Timestamp>,
    to: &'a Sender<Change>,
}

/// Watches all kinds in these namespaces, or in all if there are none; ends when nobody wants to know any more.
pub async fn watch(client: Client, namespaces: Vec<String>, in_use: Option<Timestamp>, to: Sender<Change>) {
    let w = &Watches { client: &client, in_use, to: &to };
    let definitions = ["remotes", "syncs", "federationpolicies"].map(|plural| Definitions::new(&client, plural));
    let [remotes, syncs, policies] = &definitions;
    let all = if namespaces.is_empty() { vec![None] } else { namespaces.into_iter().map(Some).collect() };
    let watches = all.into_iter().map(|ns| async move {
        let ns = ns.as_deref();
        tokio::join!(
            w.one(ns, "Remote", "remotes", remotes, Change::Remote),
            w.one(ns, "Sync", "syncs", syncs, Change::Sync),
            w.one(ns, "FederationPolicy", "federationpolicies", policies, Change::Policy),
        )
    });
    join_all(watches).await;
}

impl Watches<'_> {
    async fn one<K: DeserializeOwned>(
        &self,
        namespace: Option<&str>,
        kind: &str,
        plural: &str,
        definitions: &Definitions,
        change: impl Fn(Of<K>) -> Change,
    ) {
        let resource = ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(GROUP, VERSION, kind), plural);
        let api: Api<DynamicObject> = match namespace {
            Some(ns) => Api::namespaced_with(self.client.clone(), ns, &resource),
            None => Api::all_with(self.client.clone(), &resource),
        };
        let prefix = namespace.map_or_else(String::new, |ns| format!("{ns}/"));
        let mut lists = Lists::new(prefix, self.in_use);
        let config = watcher::Config::default().timeout(WATCH_SECONDS).page_size(PAGE as u32);
        'again: loop {
            // The list is asked for only after its `Init` has passed here.
            let events = watcher(api.clone(), config.clone()).default_backoff().then(move |e| async move {
                let begins = matches!(e, Ok(Event::Init));
                (e, if begins { Some(definitions.ask(Instant::now()).await) } else { None })
            });
            let mut bursts = events.ready_chunks(PAGE).boxed();
            while let Some(burst) = bursts.next().await {
                // Asked once, after all of these have come. Their order does not matter: what it is compared with was so before the
                // list by which the objects are known.
                let asks = |(e, _): &(Result<Event<_>, _>, _)| matches!(e, Ok(Event::Delete(_) | Event::InitDone));
                let now = if burst.iter().any(asks) { Some(definitions.ask(Instant::now()).await) } else { None };
                for (e, begun) in burst {
                    let seen = match e {
                        Ok(Event::Apply(o)) => put(o),
                        Ok(Event::Delete(o)) => {
                            Of::Deleted { name: name(&o), withdrawn: lists.is_withdrawn(now.as_ref()) }
                        }
                        Ok(Event::Init) => {
                            if !lists.begin(begun) {
                                continue;
                            }
                            Of::Away
                        }
                        Ok(Event::InitApply(o)) => {
                            lists.names.insert(name(&o));
                            put(o)
                        }
                        Ok(Event::InitDone) => {
                            // It was asked for because of this event.
                            let Some(now) = &now else { continue };
                            let Some(l) = lists.complete(now) else {
                                tracing::warn!(
                                    kind,
                                    "its CustomResourceDefinition came anew during a list, which is made again"
                                );
                                continue 'again;
                            };
                            Of::Listed(l)
                        }
                        // What is known stays; the watch is made again.
                        Err(e) => {
                            tracing::warn!(kind, error = %e, "watch");
                            continue;
                        }
                    };
                    if self.to.send(change(seen)).await.is_err() {
                        return;
                    }
                }
            }
            return;
        }
    }
}

/// The lists of one watch, and what the definition was meanwhile.
struct Lists {
    prefix: String,
    in_use: Option<Timestamp>,
    names: BTreeSet<String>,
    is_first: bool,
    /// Before the list that is on its way was asked for.
    begun: Option<Definition>,
    /// While the last one was made: what is known to be there was of this definition.
    before: Option<Definition>,
}

impl Lists {
    fn new(prefix: String, in_use: Option<Timestamp>) -> Self {
        Lists { prefix, in_use, names: BTreeSet::new(), is_first: true, begun: None, before: None }
    }

    /// Whether the definition is away that was there for a list before: while it is, lists fail, and nothing else says so.
    fn begin(&mut self, definition: Option<Definition>) -> bool {
        self.names.clear();
        let is_away = !self.is_first && definition == Some(Definition::Gone);
        self.begun = definition;
        is_away
    }

    /// What a complete list means, by the definition as it is now. `None` if it came while the list was made: what the one before
    /// it took along would seem to be withdrawn, so that list only says of which definition the objects may be.
    fn complete(&mut self, now: &Definition) -> Option<Listed> {
        let begun = self.begun.take();
        if *now != Definition::Gone && !has_stayed(begun.as_ref(), now) {
            self.before = begun.or(self.before.take());
            return None;
        }
        let (instant, wall) = (Instant::now(), Timestamp::now());
        // While it goes, lists are complete and shrink.
        let is_orphaned = *now == Definition::Gone || self.before.is_some() && !has_stayed(self.before.as_ref(), now);
        let l = Listed {
            prefix: self.prefix.clone(),
            names: take(&mut self.names),
            is_first: take(&mut self.is_first),
            is_orphaned,
            back: (*now != Definition::Gone).then_some(instant),
            wall,
            doubt: doubt::of_list(now, self.in_use, wall, instant),
        };
        self.before = Some(now.clone());
        Some(l)
    }

    /// Whether somebody deleted an object, and not the API server because its definition goes.
    fn is_withdrawn(&self, now: Option<&Definition>) -> bool {
        now.is_some_and(|now| has_stayed(self.before.as_ref(), now))
    }
}

/// Whether it is there, and has been all the time.
fn has_stayed(was: Option<&Definition>, now: &Definition) -> bool {
    matches!((was, now), (Some(Definition::Here { uid: was, .. }), Definition::Here { uid, .. }) if was == uid)
}

fn name(o: &DynamicObject) -> String {
    format!("{}/{}", o.namespace().unwrap_or_default(), o.name_any())
}

fn put<K: DeserializeOwned>(mut o: DynamicObject) -> Of<K> {
    // Larger than the rest, and nothing is planned by them.
    o.metadata.managed_fields = None;
    if let Some(a) = &mut o.metadata.annotations {
        a.remove(LAST_APPLIED);
    }
    let name = name(&o);
    let object = serde_json::to_value(o).and_then(serde_json::from_value::<K>);
    Of::Put { name, object: object.map(Box::new).map_err(|e| e.to_string()) }
}

#[cfg(test)]
mod tests {
    use super::{Lists, has_stayed};
    use crate::declared::Listed;
    use crate::definitions::Definition;
    use crate::definitions::Definition::Gone;

    fn here(uid: &str) -> Definition {
        Definition::Here { uid: uid.to_owned(), created: None }
    }

    fn lists() -> Lists {
        Lists::new("shop/".to_owned(), None)
    }

    /// One that names these objects: before it the definition was this, and after it that.
    fn list(l: &mut Lists, names: &[&str], begun: &Definition, now: &Definition) -> Option<Listed> {
        l.begin(Some(begun.clone()));
        l.names.extend(names.iter().map(|n| format!("shop/{n}")));
        l.complete(now)
    }

    /// Of how many objects, whether it is the first, and whether what is missing went with its definition.
    fn says(l: Option<Listed>) -> Option<(usize, bool, bool)> {
        l.map(|l| (l.names.len(), l.is_first, l.is_orphaned))
    }

    #[test]
    fn what_goes_while_its_definition_stays_is_withdrawn() {
        let mut l = lists();
        assert!(!l.is_withdrawn(Some(&here("a"))), "nothing is known to be there");
        assert_eq!(says(list(&mut l, &["x", "y"], &here("a"), &here("a"))), Some((2, true, false)));
        assert!(l.is_withdrawn(Some(&here("a"))));
        assert!(!l.is_withdrawn(Some(&Gone)) && !l.is_withdrawn(Some(&here("b"))) && !l.is_withdrawn(None));
        assert_eq!(says(list(&mut l, &["y"], &here("a"), &here("a"))), Some((1, false, false)));
    }

    #[test]
    fn what_goes_with_its_definition_is_not() {
        let mut l = lists();
        list(&mut l, &["x"], &here("a"), &here("a")).expect("nothing has changed");
        // It goes, while the list is made or before.
        assert_eq!(says(list(&mut l, &["x"], &here("a"), &Gone)), Some((1, false, true)));
        assert_eq!(says(list(&mut l, &[], &Gone, &Gone)), Some((0, false, true)));
        assert!(!l.is_withdrawn(Some(&here("b"))));
        assert_eq!(says(list(&mut l, &[], &here("b"), &here("b"))), Some((0, false, true)));
        assert!(l.is_withdrawn(Some(&here("b"))), "it is there again");
        assert_eq!(says(list(&mut l, &[], &here("b"), &here("b"))), Some((0, false, false)));
    }

    #[test]
    fn a_list_that_fails_for_want_of_a_definition_says_so() {
        let mut l = lists();
        assert!(!l.begin(Some(Gone)), "a first list says itself what it may lack");
        list(&mut l, &["x"], &here("a"), &here("a")).expect("nothing has changed");
        assert!(l.begin(Some(Gone)) && l.begin(Some(Gone)) && !l.begin(Some(here("b"))));
    }

    /// Whoever asks only after the list is told of a definition that the listed objects are not of.
    #[test]
    fn a_definition_that_is_replaced_during_a_list_withdraws_nothing() {
        for is_first in [true, false] {
            let mut l = lists();
            if !is_first {
                list(&mut l, &["x"], &here("a"), &here("a")).expect("nothing has changed");
            }
            assert_eq!(says(list(&mut l, &["x"], &here("a"), &here("b"))), None, "it is made again");
            assert!(!l.is_withdrawn(Some(&here("b"))));
            assert_eq!(says(list(&mut l, &[], &here("b"), &here("b"))), Some((0, is_first, true)));
            assert!(l.is_withdrawn(Some(&here("b"))));
        }
        // One that comes back just after somebody has asked may have listed what it has, or what was before.
        let mut l = lists();
        assert_eq!(says(list(&mut l, &["x"], &Gone, &here("b"))), None);
        assert_eq!(says(list(&mut l, &["x"], &here("b"), &here("b"))), Some((1, true, true)));
        assert!(has_stayed(Some(&here("b")), &here("b")) && !has_stayed(Some(&Gone), &Gone));
    }
}
