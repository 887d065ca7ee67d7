//! How long a pair session may live: not longer than the certificates that it was made with, neither of which is
//! revoked, nor than it is wanted.

use std::future::Future;
use std::time::Duration;

use time::OffsetDateTime;
use tokio::time::sleep;

use super::Ended;
use crate::connection::bonds::Bond;

/// A wall clock that jumps, or a machine that slept, is noticed this soon.
const LONGEST_WAIT: Duration = Duration::from_secs(30);

/// Runs a session to its end.
pub(super) async fn live(
    session: impl Future<Output = Ended>,
    expires: OffsetDateTime,
    (unwanted, bond): (impl Future<Output = ()>, &Bond),
) -> Ended {
    tokio::select! {
        biased;
        () = unwanted => Ended::Here,
        () = bond.broken() => Ended::Revoked,
        () = reached(expires) => Ended::Expired,
        ended = session => ended,
    }
}

async fn reached(moment: OffsetDateTime) {
    while let Some(left) = left(moment, OffsetDateTime::now_utc()) {
        sleep(left.min(LONGEST_WAIT)).await;
    }
}

/// `None` when there is none left.
fn left(moment: OffsetDateTime, now: OffsetDateTime) -> Option<Duration> {
    Duration::try_from(moment - now).ok().filter(|left| !left.is_zero())
}

#[cfg(test)]
mod tests {
    use std::future::pending;
    use std::sync::Arc;

    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::connection::bonds::Bonds;

    #[test]
    fn time_is_over_at_the_moment_itself() {
        let now = OffsetDateTime::now_utc();
        assert_eq!(left(now + Duration::from_secs(1), now), Some(Duration::from_secs(1)));
        assert_eq!(left(now, now), None);
        assert_eq!(left(now - Duration::from_secs(1), now), None);
    }

    #[tokio::test]
    async fn a_session_ends_when_its_certificates_do_or_it_is_unwanted() {
        let (past, future) = (OffsetDateTime::now_utc(), OffsetDateTime::now_utc() + Duration::from_secs(3600));
        let (unwanted, bonds) = (CancellationToken::new(), Bonds::default());
        let bond = bonds.bond();
        bond.tie(&["0a".parse().unwrap()]).unwrap();
        assert!(matches!(live(pending(), past, (unwanted.cancelled(), &bond)).await, Ended::Expired));
        assert!(matches!(live(async { Ended::Stalled }, future, (unwanted.cancelled(), &bond)).await, Ended::Stalled));
        bonds.revoke(Arc::new(|_serial| true));
        assert!(matches!(live(pending(), future, (unwanted.cancelled(), &bond)).await, Ended::Revoked));
        unwanted.cancel();
        assert!(matches!(live(pending(), future, (unwanted.cancelled(), &bond)).await, Ended::Here));
    }
}
