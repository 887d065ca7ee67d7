//! Sessions end when the registry has another end no more, when what a greeting has said is not so any more, and when one
//! agent has too many.

use super::*;

impl Hall {
    fn change(&self, change: impl FnOnce(&mut Answers)) {
        change(&mut self.answers.lock().unwrap());
        self.changes.send_modify(|changes| *changes += 1);
    }
}

#[tokio::test]
async fn a_session_ends_when_either_end_has_the_other_in_its_registry_no_more() {
    let (_root, a, b) = two_agents().await;
    for forgetful in [&a, &b] {
        let session = a.get(&pair(A, B), &b).await.unwrap();
        forgetful.hall.change(|_| {});
        assert!(offer(&session).await, "nothing that concerns it has changed");
        let peers = forgetful.hall.peers();
        forgetful.hall.change(|answers| answers.peers = Arc::default());
        until("the end of the session", || session.is_gone()).await;
        forgetful.hall.change(|answers| answers.peers = peers);
        assert!(offer(&a.get(&pair(A, B), &b).await.unwrap()).await, "it is back");
    }
}

#[tokio::test]
async fn a_session_ends_when_its_workload_is_gone() {
    let (_root, a, b) = two_agents().await;
    for forgetful in [&a, &b] {
        let session = a.get(&pair(A, B), &b).await.unwrap();
        forgetful.hall.change(|answers| answers.is_empty = true);
        until("the end of the session", || session.is_gone()).await;
        forgetful.hall.change(|answers| answers.is_empty = false);
    }
}

#[tokio::test]
async fn who_was_greeted_otherwise_is_greeted_again() {
    let (_root, a, b) = two_agents().await;
    let session = a.get(&pair(A, B), &b).await.unwrap();
    assert_eq!(session.facts().takes, Takes::Relayed);
    a.hall.change(|answers| answers.direct = vec![B]);
    assert!(offer(&session).await, "it is the server who greets");
    b.hall.change(|answers| answers.direct = vec![B]);
    until("the end of the session", || session.is_gone()).await;
    assert_eq!(a.get(&pair(A, B), &b).await.unwrap().facts().takes, Takes::Direct);
}

#[tokio::test]
async fn one_agent_cannot_have_too_many_sessions() {
    let (root, a, b) = two_agents().await;
    let mut held = Vec::new();
    for _ in 0..9 {
        a.shelf.put(root.credentials_of(A, &leaf_of(A)));
        held.push(a.get(&pair(A, B), &b).await.unwrap());
    }
    until("the end of the oldest", || held[0].is_gone()).await;
    assert!(held[1..].iter().all(|session| !session.is_gone()));
}
