//! What control tells: taken over at once, and confirmed. When control is away, what it told last stays in force.

use std::sync::Arc;
use std::time::Duration;

use rand::Rng;
use rustls::pki_types::CertificateRevocationListDer;
use tokio::sync::mpsc;
use tokio::time::sleep;
use tokio_stream::wrappers::ReceiverStream;

use super::channel::certificates;
use super::{Control, Error, files};
use crate::identity::request::blocking;
use crate::identity::rotate::pause;
use crate::identity::trust::Trust;
use crate::protocol::{self, InForce};

/// Between attempts at most: whoever was away must not be behind for long.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Listens to control until the process ends.
pub(super) async fn watch(control: Arc<Control>) {
    let mut failures = 0;
    loop {
        let mut renewed = control.renewed.subscribe();
        let ended = tokio::select! {
            // Another certificate: the way is made again with it.
            _ = renewed.changed() => Ok(()),
            ended = listen(&control, &mut failures) => ended,
        };
        if let Err(error) = ended {
            failures += 1;
            if matches!(error, Error::Control { is_refusal: true, .. }) {
                control.refused.notify_one();
            }
            let cause = std::error::Error::source(&error).map(ToString::to_string);
            tracing::warn!(%error, cause, failures, "control tells nothing; what it told last stays in force");
            let jitter = rand::rng().random_range(0.0..=1.0);
            sleep(pause(failures, jitter).min(LONGEST_PAUSE)).await;
        }
    }
}

async fn listen(control: &Control, failures: &mut u32) -> Result<(), Error> {
    let (confirm, confirmed) = mpsc::channel(4);
    let failed = |status: tonic::Status| Error::control("watch", &status);
    let told = control.way()?.watch(ReceiverStream::new(confirmed)).await.map_err(failed)?;
    let mut told = told.into_inner();
    let (mut used, mut version) = (control.used.subscribe(), 0);
    loop {
        tokio::select! {
            // Nobody takes the other end away: it is in `control`.
            _ = used.changed() => {}
            trust = told.message() => {
                let trust = trust.map_err(failed)?.ok_or(Error::Ended)?;
                (*failures, version) = (0, trust.version);
                take_over(control, trust).await?;
            }
        }
        let said = InForce { version, issuer: control.issuer_in_use() };
        confirm.send(said).await.map_err(|_gone| Error::Ended)?;
    }
}

/// What is told, as far as it can be read.
pub(super) fn read(told: protocol::Trust, grace: Duration) -> Result<Trust, Error> {
    let roots = certificates(told.roots);
    let lists: Vec<_> = told.revocation_lists.into_iter().map(CertificateRevocationListDer::from).collect();
    let trust = Trust::of_roots(roots)?.with_lists(&lists, grace)?;
    Ok(Trust { version: told.version, issuer: told.issuer, ..trust })
}

async fn take_over(control: &Control, told: protocol::Trust) -> Result<(), Error> {
    let trust = read(told, control.grace)?;
    if trust.roots != control.trust.borrow().roots {
        let (directory, roots) = (control.directory.clone(), trust.roots.clone());
        blocking(move || files::write_roots(&directory, &roots)).await?;
        tracing::info!(roots = trust.roots.len(), "trust bundle has changed");
    }
    tracing::debug!(version = trust.version, "control has told whom to trust");
    control.trust.send_replace(Arc::new(trust));
    Ok(())
}
