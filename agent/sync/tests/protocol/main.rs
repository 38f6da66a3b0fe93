//! A peer that does not keep to the protocol, against one link: it is refused with a reason or passed over, the kernel has
//! nothing of it, and the other flows of the connection go on.

mod batches;
#[path = "../common/mod.rs"]
mod common;
mod copied;
#[path = "../../../../tests/tests/damage/mod.rs"]
mod damage;
mod damaged;
mod flows;
mod peer;
mod sessions;
mod side;
