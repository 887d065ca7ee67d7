//! Whatever comes first.

use enforcer_ebpf::{DIRECTION_INBOUND, Endpoint, STAGE_ACCEPTED};
use rustls::CipherSuite;
use time::OffsetDateTime;

use super::*;
use crate::connection::pair::{Keys, Offer, Role, Takes};

fn connection(port: u16) -> Connection {
    Connection { source: "10.0.0.1:4000".parse().unwrap(), destination: ([10, 0, 0, 2], port).into() }
}

fn accepted(connection: Connection) -> Accepted {
    let held = Held {
        netns: 1,
        cgroup: 0,
        source: Endpoint::from(connection.source),
        destination: Endpoint::from(connection.destination),
        direction: DIRECTION_INBOUND,
        stage: STAGE_ACCEPTED,
        process: 7,
        descriptor: 5,
    };
    Accepted { cookie: 9, held, _place: None }
}

#[tokio::test]
async fn offer_and_accepted_connection_meet_in_either_order() {
    let accepts = Accepts::default();
    assert!(!accepts.accepted(accepted(connection(1))));
    assert_eq!(cookie(accepts.wait(connection(1)).await), 9);
    let accept = async {
        tokio::task::yield_now().await;
        assert!(accepts.accepted(accepted(connection(2))));
    };
    let (found, ()) = tokio::join!(accepts.wait(connection(2)), accept);
    assert_eq!(cookie(found), 9);
    assert!(accepts.locked().is_empty());
}

#[tokio::test]
async fn a_withdrawn_offer_leaves_nothing_and_a_second_one_is_refused() {
    let accepts = Accepts::default();
    {
        let mut first = std::pin::pin!(accepts.wait(connection(1)));
        assert!(poll_once(first.as_mut()).await.is_none());
        assert_eq!(accepts.wait(connection(1)).await.err(), Some(Reason::OfferRepeated));
    }
    assert!(accepts.locked().is_empty());
    assert!(!accepts.accepted(accepted(connection(1))));
    assert!(accepts.give_up(connection(1), 8).is_none(), "another socket with the same addresses");
    assert!(accepts.give_up(connection(1), 9).is_some());
}

async fn poll_once<T>(mut future: std::pin::Pin<&mut impl Future<Output = T>>) -> Option<T> {
    std::future::poll_fn(|cx| match future.as_mut().poll(cx) {
        std::task::Poll::Ready(value) => std::task::Poll::Ready(Some(value)),
        std::task::Poll::Pending => std::task::Poll::Ready(None),
    })
    .await
}

fn cookie(end: Result<End, Reason>) -> u64 {
    match end {
        Ok(End::Application(accepted)) => accepted.cookie,
        Ok(End::Relay(_)) => panic!("the relay has not accepted it"),
        Err(reason) => panic!("{reason}"),
    }
}

/// Puts an offer to whoever accepts, and returns what becomes of it.
async fn put(accepts: &Accepts, connection: Connection) -> Result<(), Reason> {
    let End::Relay(relay) = accepts.wait(connection).await? else { panic!("the application has not accepted it") };
    let suite = CipherSuite::TLS13_AES_128_GCM_SHA256;
    let offered = Offered {
        offer: Offer { by: Role::Client, number: 1, connection },
        keys: Keys::new(suite, &[0; 56]).unwrap(),
        again: false,
    };
    let name = |account| format!("spiffe://example.org/ns/default/sa/{account}").parse().unwrap();
    let facts = Facts {
        group: None,
        local_serial: "01".parse().unwrap(),
        peer_serial: "02".parse().unwrap(),
        expires: OffsetDateTime::UNIX_EPOCH,
        takes: Takes::Relayed,
    };
    let (answer, answered) = oneshot::channel();
    let taken = relay.send(Put { offered, pair: Pair { local: name("a"), remote: name("b") }, facts, answer });
    taken.map_err(|_gone| Reason::EndedBeforeKeys)?;
    answered.await.unwrap()
}

#[tokio::test]
async fn the_relay_takes_an_offer_and_then_no_other() {
    let accepts = Accepts::default();
    for is_first in [true, false] {
        let relay = async {
            if !is_first {
                tokio::task::yield_now().await;
            }
            let mut relayed = accepts.relayed(connection(1));
            let put = relayed.offered().await.unwrap();
            assert_eq!(put.offered.offer.number, 1);
            assert!(accepts.is_carried(connection(1)));
            assert_eq!(accepts.wait(connection(1)).await.err(), Some(Reason::OfferRepeated));
            put.answer.send(Ok(())).unwrap();
        };
        let (answer, ()) = tokio::join!(put(&accepts, connection(1)), relay);
        assert_eq!(answer, Ok(()));
        assert!(!accepts.is_carried(connection(1)) && accepts.locked().is_empty());
    }
}

#[tokio::test]
async fn a_relay_that_has_gone_leaves_nothing() {
    let accepts = Accepts::default();
    drop(accepts.relayed(connection(1)));
    assert!(accepts.locked().is_empty());
    let mut old = accepts.relayed(connection(1));
    let new = accepts.relayed(connection(1));
    assert_eq!(old.offered().await.err(), Some(Reason::EndedBeforeKeys), "another socket with the same addresses");
    drop(old);
    assert_eq!(accepts.locked().len(), 1);
    drop(new);
    assert!(accepts.locked().is_empty());
}
