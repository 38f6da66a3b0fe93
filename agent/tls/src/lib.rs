//! The only user of rustls: who a peer is, and that it is who it says.
//!
//! TLS 1.3. Between kernels, and between kernels and operators, the order is fixed: read the identity from the certificate's
//! only `spiffe://` name → take the roots configured for *that* trust domain → chain to those only → the identity must be one
//! that is expected. No common names, no system roots, no resumption (it would skip the checks). Only [`https_config`] is for
//! clients of another kind, which know this side by its names.

mod ca;
mod given;
mod identity;
mod listen;
mod serve;
mod verify;

pub use ca::{Authority, CaError, KeyPairPem, fingerprint, fingerprints, new_request, not_after_ms, validity_ms};
pub use given::{NotUsable, check_given};
pub use identity::{SpiffeId, certificate_identity};
pub use listen::{BACKLOG, bind, listen};
pub use serve::{MtlsStream, Peer, connect, incoming};
pub use verify::{
    Failure, Material, TlsError, Trust, client_config, failure_of, https_config, root_of_chain, server_config,
};

/// Must run once before anything that uses TLS, also through other libraries.
pub fn install_provider() {
    // Only fails if one is installed already.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
}
