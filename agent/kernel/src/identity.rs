//! Who a kernel is, and the local ids that it gives.

use mew_model::{KernelKey, name};

/// Who this kernel is.
#[derive(Clone, Debug)]
pub struct Identity {
    pub kernel_id: String,
    pub key: KernelKey,
    /// Distinguishes local ids of different incarnations.
    tag: String,
}

impl Identity {
    pub fn new(kernel_id: &str, incarnation: &str) -> Self {
        // Six characters of base 32: two incarnations of one kernel share a tag once in 2^30.
        let n = name::number(incarnation);
        let tag = (0..6).map(|i| b"0123456789abcdefghjkmnpqrstvwxyz"[(n >> (5 * i) & 31) as usize] as char).collect();
        Identity { kernel_id: kernel_id.to_owned(), key: KernelKey::of(kernel_id), tag }
    }

    /// `e<tag>_<number>`: an identifier of the language, unique across incarnations.
    pub fn local_id(&self, ent: u32) -> String {
        format!("e{}_{ent}", self.tag)
    }

    pub fn parse_local(&self, id: &str) -> Option<u32> {
        id.strip_prefix('e')?.strip_prefix(&self.tag)?.strip_prefix('_')?.parse().ok()
    }
}
