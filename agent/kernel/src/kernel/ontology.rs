//! The ontology of a kernel. The text of the one that everything in the store was written under is kept in it, so that what
//! another one would take away is found out also when it comes with a restart.

use super::Kernel;
use crate::error::KernelError;
use mew_lang::parse_ontology;
use mew_model::Ontology;
use mew_store::{Place, StoreError};
use std::sync::Arc;

/// Unlike a file beside the store, it goes where the log goes: into backups, and to whoever restores one.
const FACT_ONTOLOGY: &[u8] = b"ontology";
/// Entities that are named, of those that do not fit: people need an example, and there may be millions.
const NAMED: usize = 5;

/// Why a kernel cannot have the ontology that its store was opened under. Nothing was written.
pub struct Unfit {
    /// The one that it had, with its text, if that is known.
    pub before: Option<(String, Ontology)>,
    pub why: Vec<String>,
    /// It is for what the store holds, and not for a disk that refuses to take the text.
    pub by_data: bool,
}

impl Kernel {
    pub fn ontology(&self) -> Arc<Ontology> {
        self.store.view().ontology().clone()
    }

    /// Takes an ontology that only adds, and its text; otherwise names what it would take away, and keeps the old one.
    pub fn set_ontology(&self, text: &str, o: Ontology) -> Result<(), Vec<String>> {
        let refused = self.ontology().refused_changes(&o);
        if !refused.is_empty() {
            return Err(refused);
        }
        // First: nothing may be written under an ontology that the store does not know.
        self.keep_text(text).map_err(|e| vec![e.to_string()])?;
        self.store.set_ontology(Arc::new(o)).map_err(|e| vec![e.to_string()])
    }

    /// To be asked once, before anything else, when the store was opened under the ontology of this text. One that only adds
    /// to the one before is taken as it would be while the kernel runs; of any other one, all that the store holds must fit
    /// it. `None` says that it does. A text that is kept and cannot be read is one that is unknown, and `unread` hears why: what
    /// else is in the store may be readable, and somebody wants to read it.
    pub fn adopt(&self, text: &str, unread: impl FnOnce(StoreError)) -> Option<Unfit> {
        let kept = self.store.view().fact(FACT_ONTOLOGY).unwrap_or_else(|e| {
            unread(e);
            None
        });
        if kept.as_deref() == Some(text.as_bytes()) {
            return None;
        }
        let before = kept.and_then(|b| {
            let text = String::from_utf8(b.to_vec()).ok()?;
            // Another version of this program may have understood what this one does not.
            parse_ontology(&text).ok().map(|o| (text, o))
        });
        let mut why = before.as_ref().map(|(_, o)| o.refused_changes(&self.ontology())).unwrap_or_default();
        if before.is_none() || !why.is_empty() {
            let misfits = self.misfits();
            if !misfits.is_empty() {
                why.extend(misfits);
                return Some(Unfit { before, why, by_data: true });
            }
        }
        let e = self.keep_text(text).err()?;
        Some(Unfit { before, why: vec![e.to_string()], by_data: false })
    }

    fn keep_text(&self, text: &str) -> Result<(), KernelError> {
        // Who is refused for something else asks again and again.
        if self.store.view().fact(FACT_ONTOLOGY).is_ok_and(|kept| kept.as_deref() == Some(text.as_bytes())) {
            return Ok(());
        }
        let text = text.as_bytes().to_vec();
        let kept = self.write(0, move |tx| {
            tx.set_fact(FACT_ONTOLOGY.to_vec(), text);
            Ok(())
        });
        kept.map(|_| ())
    }

    /// What of the data the ontology does not allow, or cannot be held against it; the first of it.
    fn misfits(&self) -> Vec<String> {
        let view = self.view();
        let tx = self.tx(&view, 0);
        let (mut place, mut chunk, mut out) = (Place::default(), Vec::new(), Vec::new());
        loop {
            match self.feed(&mut place, &mut chunk) {
                Ok(true) => {}
                Ok(false) => return out,
                // There is no way on from here.
                Err(e) => {
                    out.push(format!("what is stored cannot be read to its end: {e}"));
                    return out;
                }
            }
            for s in chunk.drain(..) {
                let Err(e) = tx.check_stored(&s) else { continue };
                if out.len() == NAMED {
                    out.push("and there is more".to_owned());
                    return out;
                }
                let (id, what) =
                    (self.identity.local_id(s.ent), if e.is_store() { "cannot be checked" } else { "does not fit" });
                out.push(format!("#{id} {what}: {e}"));
            }
        }
    }
}
