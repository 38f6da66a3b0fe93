//! System records: rows of the built-in types of the language. They are no entities: whoever keeps them makes them when
//! they are read, so nothing can write, link or send them.

use crate::error::KernelError;
use crate::tx::Tx;
use bytes::Bytes;
use mew_model::ontology::Type;
use mew_model::{Draft, KernelKey};
use mew_store::{Loc, Stored};
use std::ops::ControlFlow;

/// Takes one record, and says whether more are wanted.
pub type Take<'t> = &'t mut dyn FnMut(Draft) -> Result<ControlFlow<()>, KernelError>;

/// Gives the records of a type, as they are for the transaction, until no more are wanted. It runs while commits wait: it
/// must not wait for one.
pub type Records = dyn Fn(&Tx<'_>, &Type, Take<'_>) -> Result<ControlFlow<()>, KernelError> + Send + Sync;

/// A record in the form that expressions read. No entity has its number.
pub(crate) fn as_row(record: &Draft) -> Stored {
    Stored {
        ent: u32::MAX,
        seq: 0,
        origin: KernelKey(0),
        crc: 0,
        bytes: Bytes::from(record.encode()),
        place: Loc::NONE,
    }
}
