//! Waiting for a state, never for a time: every wait names what it waits for and has a bound.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::settings;
use crate::teardown;

/// How long a program may take to reach the state it is waited for in.
pub fn patience() -> Duration {
    bound(Duration::from_secs(20))
}

/// `natively`, stretched by how slow this machine is said to be.
pub fn bound(natively: Duration) -> Duration {
    natively * settings::slowness()
}

/// Looks until `look` finds something, and gives up with the name of what it waited for after `limit`.
pub fn until<T>(what: &str, limit: Duration, mut look: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let start = Instant::now();
    loop {
        drop(teardown::open());
        if let Some(found) = look()? {
            return Ok(found);
        }
        if start.elapsed() > limit {
            bail!("waited {limit:?} in vain for {what}");
        }
        pause();
    }
}

/// The pause between two looks: long enough to leave the processor to the program that is waited for.
#[expect(clippy::disallowed_methods, reason = "the one pause of the suites, between two looks at a state")]
fn pause() {
    thread::sleep(Duration::from_millis(10));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_what_appears_after_some_looks() {
        let mut looks = 0;
        let found = until("the third look", Duration::from_secs(5), || {
            looks += 1;
            Ok((looks == 3).then_some(looks))
        });
        assert_eq!(found.unwrap(), 3);
    }

    #[test]
    fn names_what_never_came() {
        let error = until::<()>("a miracle", Duration::ZERO, || Ok(None)).unwrap_err();
        assert!(error.to_string().contains("a miracle"), "{error}");
    }

    #[test]
    fn stops_at_once_when_looking_fails() {
        let error = until::<()>("anything", Duration::from_secs(60), || bail!("it died")).unwrap_err();
        assert_eq!(error.to_string(), "it died");
    }
}
