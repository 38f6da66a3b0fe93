use super::{Case, mending};
use crate::pair::{Dials, Pair};
use crate::world::{World, at_both};
use anyhow::Result;

pub const CASE: Case = Case {
    name: "dialled-from-west",
    core: false,
    proves: "the other side opens the connection, by the other NodePort: the same Syncs, the same data",
    run,
};

const NAMESPACE: &str = "turned";

fn run(w: &mut World) -> Result<()> {
    w.install()?;
    mending(
        || {
            let p = Pair::start(w, NAMESPACE, Dials::West)?;
            p.flows_west()?;
            p.flows_east()?;
            p.same()
        },
        || at_both(w, |c| c.delete_namespace(NAMESPACE)).map(drop),
    )
}
