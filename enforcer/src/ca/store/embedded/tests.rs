//! The file: who may open it, and what becomes of a damaged one. What a store promises is tried with both of them by the
//! suites of the authority.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use redb::{Database, TableDefinition};

use super::Embedded;
use crate::ca::store::{Error, Outcome, Store, Transaction};

/// Entries: some are longer than a page of the file.
const ENTRIES: usize = 60;

fn place() -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("state").join("store.redb");
    (directory, path)
}

/// What entry `number` is, after `round` changes of all.
fn entry(number: usize, round: u8) -> (String, Vec<u8>) {
    (format!("entry/{number:03}"), vec![round; 10 + number % 7 * 1500])
}

fn expected(round: u8) -> Vec<(String, Vec<u8>)> {
    (0..ENTRIES).map(|number| entry(number, round)).collect()
}

/// A file with some history, closed in order.
async fn filled(path: &Path) -> Vec<u8> {
    let _killed = filled_and_killed(path).await;
    fs::read(path).unwrap()
}

/// The same as it is when the process is killed; then it is closed in order.
async fn filled_and_killed(path: &Path) -> Vec<u8> {
    let store = Embedded::open(path).unwrap();
    for round in 0..3 {
        for (key, value) in expected(round) {
            assert_eq!(store.commit(Transaction::new().put(key, value)).await.unwrap(), Outcome::Committed);
        }
    }
    fs::read(path).unwrap()
}

/// Opens a file with this content. `None`: it is damaged, and still as it was.
async fn opened(path: &Path, content: &[u8]) -> Option<Vec<(String, Vec<u8>)>> {
    fs::write(path, content).unwrap();
    match Embedded::open(path) {
        Ok(store) => Some(store.list("").await.unwrap()),
        Err(Error::Damaged { .. }) => {
            assert!(fs::read(path).unwrap() == content, "a damaged file was changed");
            None
        }
        Err(error) => panic!("{error:?}"),
    }
}

#[tokio::test]
async fn only_its_owner_may_read_it() {
    let (_directory, path) = place();
    drop(Embedded::open(&path).unwrap());
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&path), 0o600);
    assert_eq!(mode(path.parent().unwrap()), 0o700);
    fs::set_permissions(path.parent().unwrap(), PermissionsExt::from_mode(0o755)).unwrap();
    assert!(matches!(Embedded::open(&path), Err(Error::Failed { .. })));
}

#[tokio::test]
async fn one_at_a_time_has_it_open() {
    let (_directory, path) = place();
    let store = Embedded::open(&path).unwrap();
    assert!(matches!(Embedded::open(&path), Err(Error::InUse { .. })));
    assert_eq!(store.commit(Transaction::new().put("a", "1")).await.unwrap(), Outcome::Committed);
    drop(store);
    assert_eq!(Embedded::open(&path).unwrap().get("a").await.unwrap(), Some(b"1".to_vec()));
}

#[tokio::test]
async fn what_waits_is_committed_before_it_closes() {
    let (_directory, path) = place();
    let store = Embedded::open(&path).unwrap();
    {
        let mut commit = store.commit(Transaction::new().put("a", "1"));
        // Queued, and then nobody waits for it any more.
        let queued = futures_poll(&mut commit).await;
        assert!(queued.is_none());
    }
    drop(store);
    assert_eq!(Embedded::open(&path).unwrap().get("a").await.unwrap(), Some(b"1".to_vec()));
}

/// Polls once.
async fn futures_poll<T>(future: &mut (impl Future<Output = T> + Unpin)) -> Option<T> {
    std::future::poll_fn(|context| {
        std::task::Poll::Ready(match std::pin::Pin::new(&mut *future).poll(context) {
            std::task::Poll::Ready(value) => Some(value),
            std::task::Poll::Pending => None,
        })
    })
    .await
}

#[tokio::test]
async fn what_an_interrupted_start_leaves_is_in_nobodys_way() {
    let (_directory, path) = place();
    crate::ca::prepare_directory(path.parent().unwrap()).unwrap();
    fs::write(path.with_extension("redb.new"), "half").unwrap();
    drop(Embedded::open(&path).unwrap());
    assert!(!path.with_extension("redb.new").exists());
}

#[tokio::test]
async fn a_file_that_is_too_short_or_too_long_is_damaged() {
    let (_directory, path) = place();
    let whole = filled(&path).await;
    let last = whole.len() - 1;
    let lengths = (0..700).step_by(41).chain((0..last).step_by(4096)).chain((0..last).step_by(7919)).chain([last]);
    for length in lengths {
        assert_eq!(opened(&path, &whole[..length]).await, None, "{length} of {} octets", whole.len());
    }
    for more in [1, 4096, 70_000] {
        let longer = [&whole[..], &vec![0; more]].concat();
        // redb takes away what it does not know.
        if let Some(entries) = opened(&path, &longer).await {
            assert_eq!(entries, expected(2));
        }
    }
    assert_eq!(opened(&path, &whole).await, Some(expected(2)));
}

#[tokio::test]
async fn a_file_of_something_else_is_no_store() {
    let (_directory, path) = place();
    filled(&path).await;
    for content in [&b"SQLite format 3\0"[..], &[0; 100_000], &[0xff; 100_000], b"x"] {
        assert_eq!(opened(&path, content).await, None);
    }
    fs::remove_file(&path).unwrap();
    let other = Database::create(&path).unwrap();
    let write = other.begin_write().unwrap();
    write.open_table(TableDefinition::<u64, u64>::new("other")).unwrap();
    write.commit().unwrap();
    drop(other);
    let content = fs::read(&path).unwrap();
    assert_eq!(opened(&path, &content).await, None);
}

#[tokio::test]
async fn a_changed_octet_is_found_or_means_nothing() {
    let (_directory, path) = place();
    let killed = filled_and_killed(&path).await;
    let closed = fs::read(&path).unwrap();
    for (whole, what) in [(closed, "closed"), (killed, "killed")] {
        let mut damaged = 0;
        // The header thoroughly; of the pages each some.
        let places = (0..320).chain((512..whole.len()).step_by(2039)).map(|place| (place, place % 8));
        for (place, bit) in places.chain((0..8).map(|bit| (9, bit))) {
            let mut changed = whole.clone();
            changed[place] ^= 1 << bit;
            match opened(&path, &changed).await {
                None => damaged += 1,
                // This bit says which of the last two commits counts; when the file is closed they are the same.
                Some(_) if what == "killed" && (place, bit) == (9, 0) => {}
                Some(entries) => assert!(entries == expected(2), "{what}: octet {place}, bit {bit}: other entries"),
            }
        }
        assert!(damaged > 100, "{damaged}");
    }
}

#[tokio::test]
async fn a_page_that_is_lost_is_found() {
    let (_directory, path) = place();
    let whole = filled(&path).await;
    let mut damaged = 0;
    for page in whole.chunks(4096).enumerate().map(|(number, _)| number * 4096) {
        let mut changed = whole.clone();
        changed[page..whole.len().min(page + 4096)].fill(0);
        match opened(&path, &changed).await {
            None => damaged += 1,
            Some(entries) => assert!(entries == expected(2), "page at {page}: other entries"),
        }
    }
    assert!(damaged > 10, "{damaged}");
}

#[tokio::test]
async fn after_a_failure_it_is_opened_again() {
    let (_directory, path) = place();
    filled(&path).await;
    let store = Embedded::open(&path).unwrap();
    let failed = store.table.with::<()>("try", |_| Err(redb::Error::PreviousIo));
    assert!(matches!(failed, Err(Error::Failed { .. })));
    assert_eq!(store.list("").await.unwrap(), expected(2));
    let panicked = store.table.with::<()>("try", |_| panic!("{}", "in redb")).unwrap_err();
    assert!(std::error::Error::source(&panicked).unwrap().to_string().contains("in redb"));
    assert_eq!(store.commit(Transaction::new().put("a", "1")).await.unwrap(), Outcome::Committed);
    // Others may have spoilt it meanwhile.
    store.table.with::<()>("try", |_| Err(redb::Error::PreviousIo)).unwrap_err();
    OpenOptions::new().write(true).open(&path).unwrap().set_len(8192).unwrap();
    assert!(matches!(store.get("a").await, Err(Error::Damaged { .. })));
    assert!(matches!(store.commit(Transaction::new().put("a", "2")).await, Err(Error::Unanswered { .. })));
}
