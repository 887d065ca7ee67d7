//! Where certificates come from: the authority in this process, or somebody else.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use time::OffsetDateTime;

use super::request::blocking;
use super::trust::{Malformed, Trust, Trusted};
use crate::ca::{Authority, Issued, SigningRequest};

/// An answer that a source is asked for.
pub type Pending<'a> = Pin<Box<dyn Future<Output = Result<Issued, Refused>> + Send + 'a>>;
/// Why a source does not issue a certificate.
pub type Refused = Box<dyn std::error::Error + Send + Sync>;

/// Where certificates come from.
pub trait Source: Send + Sync {
    /// Has a key certified. What comes out is checked by whoever asks.
    fn issue(&self, request: SigningRequest) -> Pending<'_>;

    /// Whom to trust.
    fn trusted(&self) -> Trusted;

    /// Every workload uses certificates of this authority alone from now on, and no handshake with one of another is
    /// under way. Empty: they are of several.
    fn uses(&self, _issuer: &str) {}
}

/// The authority in this process.
pub struct Local {
    authority: Arc<dyn Authority>,
    trusted: Trusted,
}

impl Local {
    /// Trusts the authority's own bundle.
    ///
    /// # Errors
    ///
    /// [`Malformed`], when the bundle cannot be read.
    pub fn new(authority: Arc<dyn Authority>) -> Result<Self, Malformed> {
        let trusted = Trusted::always(Trust::of_roots(authority.bundle())?);
        Ok(Self { authority, trusted })
    }
}

impl Source for Local {
    fn issue(&self, request: SigningRequest) -> Pending<'_> {
        let authority = Arc::clone(&self.authority);
        Box::pin(async move {
            blocking(move || authority.issue(&request, OffsetDateTime::now_utc())).await.map_err(Into::into)
        })
    }

    fn trusted(&self) -> Trusted {
        self.trusted.clone()
    }
}
