//! When an authority is asked again: pure functions of the time, what happened, and chance.

use std::time::Duration;

use time::OffsetDateTime;

use super::error::Again;
use crate::identity::rotate::backoff;

/// When a certificate is renewed, as a part of its life; moved by up to [`JITTER`] of it.
const RENEWAL: f64 = 2.0 / 3.0;
const JITTER: f64 = 0.05;
/// Between two certificates of one name, however short their life.
const SHORTEST_PAUSE: Duration = Duration::from_secs(60);
/// An authority may ask to be left alone for as long as this.
pub(super) const LONGEST_REQUEST: Duration = Duration::from_secs(24 * 60 * 60);

/// When a certificate is renewed. `jitter` is in -1..=1.
pub(super) fn renewal_at((not_before, not_after): (OffsetDateTime, OffsetDateTime), jitter: f64) -> OffsetDateTime {
    not_before + (not_after - not_before) * (RENEWAL + JITTER * jitter.clamp(-1.0, 1.0))
}

/// The same for one that has just come.
pub(super) fn next_renewal(
    validity: (OffsetDateTime, OffsetDateTime),
    jitter: f64,
    now: OffsetDateTime,
) -> OffsetDateTime {
    renewal_at(validity, jitter).max(now + SHORTEST_PAUSE)
}

/// Between attempts, after so many in a row that failed: longer each time, and as long at least as the authority wants.
/// `jitter` is in 0..=1. Let's Encrypt takes five failed validations of a name in an hour.
pub(super) fn pause(again: Again, failures: u32, wanted: Option<Duration>, jitter: f64) -> Duration {
    let bounds = match again {
        Again::Soon => (Duration::from_secs(1), Duration::from_secs(5 * 60)),
        Again::Later => (Duration::from_secs(4 * 60), Duration::from_secs(6 * 60 * 60)),
    };
    let jitter = jitter.clamp(0.0, 1.0);
    // Not before the time that was asked for, and not everybody at once after it.
    let wanted = wanted.map_or(Duration::ZERO, |wanted| wanted.min(LONGEST_REQUEST).mul_f64(1.0 + 0.1 * jitter));
    backoff(bounds, failures, jitter).max(wanted)
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::*;

    #[test]
    fn a_certificate_is_renewed_at_two_thirds_of_its_life() {
        let days = (datetime!(2026-01-01 00:00 UTC), datetime!(2026-04-01 00:00 UTC));
        assert_eq!(renewal_at(days, 0.0), datetime!(2026-03-02 00:00 UTC));
        assert!(renewal_at(days, -1.0) < renewal_at(days, 0.0) && renewal_at(days, 9.0) < days.1);
        let short = (datetime!(2026-01-01 00:00 UTC), datetime!(2026-01-07 00:00 UTC));
        assert_eq!(renewal_at(short, 0.0), datetime!(2026-01-05 00:00 UTC));
        let seconds = (datetime!(2026-01-01 00:00 UTC), datetime!(2026-01-01 00:00:30 UTC));
        assert_eq!(next_renewal(seconds, 0.0, seconds.0), datetime!(2026-01-01 00:01 UTC), "not all the time");
    }

    #[test]
    fn attempts_come_further_apart_up_to_a_bound() {
        let pauses = |again| [1, 2, 3, 9, 99, u32::MAX].map(|failures| pause(again, failures, None, 1.0).as_secs());
        assert_eq!(pauses(Again::Soon), [1, 2, 4, 256, 300, 300]);
        assert_eq!(pauses(Again::Later), [240, 480, 960, 21_600, 21_600, 21_600]);
        assert_eq!(pause(Again::Soon, 1, None, 0.0), Duration::from_millis(500));
    }

    #[test]
    fn the_authority_may_ask_for_more_and_not_for_ever() {
        let wanted = |seconds| pause(Again::Soon, 1, Some(Duration::from_secs(seconds)), 0.0).as_secs();
        assert_eq!([wanted(0), wanted(100), wanted(u64::MAX)], [0, 100, 86_400]);
        assert!(pause(Again::Later, 9, Some(Duration::from_secs(1)), 1.0) > Duration::from_secs(3600));
        assert!(pause(Again::Soon, 1, Some(Duration::from_secs(u64::MAX)), 1.0) > LONGEST_REQUEST);
    }
}
