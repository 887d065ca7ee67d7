//! What is known of each public name. The keeper writes it; connections, `enforcer identity` and the metrics read it.

use std::collections::HashMap;
use std::sync::Arc;

use rustls::ServerConfig;
use time::OffsetDateTime;
use tokio::sync::watch;

use super::chain::Held;

/// The public names of this node. Clones are the same ones.
#[derive(Clone, Debug)]
pub struct Names(watch::Receiver<Table>);

type Table = Arc<HashMap<String, Known>>;

/// What is known of one name.
#[derive(Clone, Debug, Default)]
pub struct Known {
    /// Its certificate, an expired one too.
    pub held: Option<Arc<Held>>,
    /// When another one is asked for.
    pub renewal: Option<OffsetDateTime>,
    /// Why there is none, or no newer one. Printable.
    pub failure: Option<String>,
    /// Attempts that failed since the agent started.
    pub failures: u64,
    /// How the authority is answered that wants to see who has the name.
    pub(super) challenge: Option<Arc<ServerConfig>>,
}

impl Names {
    pub(super) fn new() -> (Writer, Self) {
        let (writer, names) = watch::channel(Table::default());
        (Writer(writer), Self(names))
    }

    /// No names.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn none() -> Self {
        Self::new().1
    }

    /// How a client is answered that calls this name. `None`: there is no valid certificate for it.
    #[must_use]
    pub fn serve(&self, name: &str) -> Option<Arc<ServerConfig>> {
        self.serve_at(name, OffsetDateTime::now_utc())
    }

    fn serve_at(&self, name: &str, now: OffsetDateTime) -> Option<Arc<ServerConfig>> {
        let known = self.0.borrow();
        let held = known.get(name)?.held.as_ref()?;
        (now < held.not_after).then(|| Arc::clone(&held.config))
    }

    /// How the authority is answered that looks who has this name. `None`: it was not asked to.
    #[must_use]
    pub fn prove(&self, name: &str) -> Option<Arc<ServerConfig>> {
        self.0.borrow().get(name)?.challenge.clone()
    }

    /// What is known of a name.
    #[must_use]
    pub fn known(&self, name: &str) -> Known {
        self.0.borrow().get(name).cloned().unwrap_or_default()
    }

    /// All names, in alphabetical order.
    #[must_use]
    pub fn all(&self) -> Vec<(String, Known)> {
        let known = Arc::clone(&self.0.borrow());
        let mut all: Vec<_> = known.iter().map(|(name, known)| (name.clone(), known.clone())).collect();
        all.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
        all
    }
}

/// The writing end of [`Names`].
#[derive(Debug)]
pub(super) struct Writer(watch::Sender<Table>);

impl Writer {
    pub(super) fn change(&self, name: &str, change: impl FnOnce(&mut Known)) {
        self.0.send_modify(|table| change(Arc::make_mut(table).entry(name.to_owned()).or_default()));
    }

    pub(super) fn has_certificate(&self, name: &str) -> bool {
        self.0.borrow().get(name).is_some_and(|known| known.held.is_some())
    }

    /// The authority may look who has the name, until the result is dropped.
    pub(super) fn stage<'a>(&'a self, name: &'a str, answer: Arc<ServerConfig>) -> Staged<'a> {
        self.change(name, |known| known.challenge = Some(answer));
        Staged { writer: self, name }
    }
}

/// An answer that the authority may look for.
pub(super) struct Staged<'a> {
    writer: &'a Writer,
    name: &'a str,
}

impl Drop for Staged<'_> {
    fn drop(&mut self) {
        self.writer.change(self.name, |known| known.challenge = None);
    }
}

#[cfg(test)]
mod tests {
    use time::Duration;

    use super::super::challenge::answer;
    use super::super::tests::{held, leaf};
    use super::*;

    #[test]
    fn a_name_is_served_while_its_certificate_is_valid() {
        let (writer, names) = Names::new();
        assert!(names.serve("www.example.org").is_none());
        let certificate = Arc::new(held("www.example.org", &leaf("www.example.org", |_| {})));
        let end = certificate.not_after;
        writer.change("www.example.org", |known| known.held = Some(certificate));
        assert!(names.serve("www.example.org").is_some() && names.serve("example.org").is_none());
        assert!(names.serve_at("www.example.org", end - Duration::SECOND).is_some());
        assert!(names.serve_at("www.example.org", end).is_none());
        assert!(names.prove("www.example.org").is_none());
        assert_eq!(names.all().len(), 1);
    }

    #[test]
    fn the_authority_is_answered_as_long_as_it_was_asked_to_look() {
        let (writer, names) = Names::new();
        let staged = writer.stage("www.example.org", answer("www.example.org", &[7; 32]).unwrap());
        assert!(names.prove("www.example.org").is_some() && names.prove("example.org").is_none());
        assert!(names.serve("www.example.org").is_none(), "nobody else is");
        drop(staged);
        assert!(names.prove("www.example.org").is_none());
    }
}
