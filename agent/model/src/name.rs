//! Numbers derived from names. Both ends of a flow compute the same number from the same name, so stored bytes can
//! travel unread; a collision inside one ontology is refused when it loads.

use sha2::{Digest, Sha256};

/// Number of a type or attribute: the first four bytes of SHA-256 of its name.
pub type Number = u32;

fn digest(name: &str) -> [u8; 32] {
    Sha256::digest(name.as_bytes()).into()
}

pub fn number(name: &str) -> Number {
    let d = digest(name);
    Number::from_le_bytes([d[0], d[1], d[2], d[3]])
}

/// Names a kernel in versions: the first eight bytes of SHA-256 of its `kernel_id`. Eight, because a peer that could
/// choose a colliding id could pass its writes off as another's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KernelKey(pub u64);

impl KernelKey {
    pub fn of(kernel_id: &str) -> Self {
        let d = digest(kernel_id);
        KernelKey(u64::from_le_bytes([d[0], d[1], d[2], d[3], d[4], d[5], d[6], d[7]]))
    }
}

/// Lower-case hex of SHA-256, for digests that people compare.
pub fn hex_digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect()
}

/// The kernel that a `sync_id` names, if it names one: ids that kernels derive are `<kernel_id>/<local id>`, and the
/// ones an application sets have no slash.
pub fn kernel_of_sync_id(sync_id: &str) -> Option<&str> {
    sync_id.split_once('/').map(|(kernel, _)| kernel)
}
