//! A client's first octets.

use super::{Look, Names, Public, read, snapshot};

/// What is waited for is a beginning, and what was found does not depend on what comes behind it.
pub(crate) fn hello(data: &[u8]) {
    let Look::Hello(found) = read(data) else { return };
    assert!(found.octets <= data.len());
    for part in [0, 1, 4, found.octets / 2, found.octets - 1] {
        assert!(part == 0 || matches!(read(&data[..part]), Look::Part), "{part} of {}", found.octets);
    }
    let Look::Hello(again) = read(&data[..found.octets]) else { panic!("it depends on what comes behind it") };
    assert_eq!((&again.name, &again.protocols), (&found.name, &found.protocols));
    let wanted = snapshot::Public { names: vec!["www.example.org".to_owned()], ports: vec![443] };
    if let Some(called) = Public::new(&wanted, Names::none()).judge(found) {
        assert_eq!(called.name, "www.example.org");
    }
}
