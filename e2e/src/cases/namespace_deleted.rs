use super::{Case, mending};
use crate::pair::{Dials, Pair};
use crate::world::{World, at_both};
use anyhow::{Result, ensure};

pub const CASE: Case = Case {
    name: "namespace-deleted",
    core: false,
    proves: "a namespace with everything in it is deleted while its peer is dead: nothing waits for anybody",
    run,
};

const NAMESPACE: &str = "doomed";

fn run(w: &mut World) -> Result<()> {
    w.install()?;
    mending(
        || {
            let p = Pair::start(w, NAMESPACE, Dials::East)?;
            p.west.scale(0)?;
            p.west.wait_for_no_pods()?;
            p.east.shows("remote", p.east.peer, "False", "Unreachable")?;
            for (kind, names) in [("sync", p.east.syncs), ("remote", &[p.east.peer][..])] {
                for name in names {
                    let o = p.east.object(kind, name)?;
                    ensure!(o["metadata"].get("finalizers").is_none(), "{kind} {name} has a finalizer");
                }
            }
            w.east.delete_namespace(NAMESPACE)?;
            ensure!(w.east.find("namespace", "", NAMESPACE)?.is_none(), "the namespace is still there");
            Ok(())
        },
        || at_both(w, |c| c.delete_namespace(NAMESPACE)).map(drop),
    )
}
