use mew_lang::diagnostic::Diagnostic;
use mew_lang::eval::EvalError;
use mew_model::ontology::Violation;
use mew_store::StoreError;
use std::sync::Arc;
use thiserror::Error;

/// Why a statement did nothing. A transaction that meets one is rolled back whole.
#[derive(Debug, Error, Clone)]
pub enum KernelError {
    /// The text is wrong; the diagnostics point into it.
    #[error("{}", .0.iter().map(|d| d.message.as_str()).collect::<Vec<_>>().join("; "))]
    Text(Vec<Diagnostic>),
    #[error(transparent)]
    Eval(EvalError),
    /// A rule of the ontology forbids it.
    #[error("{0}")]
    Violation(Violation),
    /// Whether it is a target or stands in an expression.
    #[error("{0} not found")]
    NotFound(String),
    #[error("{0}")]
    Transaction(&'static str),
    #[error("{0}")]
    Limit(String),
    /// Of a script that runs for rows: which of them, from 0, and why.
    #[error("row {0}: {1}")]
    Row(usize, Box<KernelError>),
    /// The store could not keep it; shared, because one failed commit fails all that were in it.
    #[error("{0}")]
    Store(Arc<StoreError>),
}

impl From<EvalError> for KernelError {
    fn from(e: EvalError) -> Self {
        match e {
            EvalError::NotFound(what) => KernelError::NotFound(what),
            e => KernelError::Eval(e),
        }
    }
}

impl From<StoreError> for KernelError {
    fn from(e: StoreError) -> Self {
        KernelError::Store(Arc::new(e))
    }
}

impl From<Violation> for KernelError {
    fn from(v: Violation) -> Self {
        KernelError::Violation(v)
    }
}

impl KernelError {
    /// Whether the disk, not the request, is at fault: the same request may work later.
    pub fn is_store(&self) -> bool {
        matches!(self.cause(), KernelError::Store(_))
    }

    /// What is wrong, in whichever row it is.
    pub fn cause(&self) -> &KernelError {
        match self {
            KernelError::Row(_, why) => why.cause(),
            e => e,
        }
    }
}
