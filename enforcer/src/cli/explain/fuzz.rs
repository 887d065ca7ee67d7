//! Any question about any configuration.

use super::{Explanation, Snapshot, explained};

/// The question, and what each workload would ask of each other.
pub(crate) fn explain(snapshot: &Snapshot, (source, destination): (&str, &str)) {
    ask(snapshot, source, destination);
    let names: Vec<&str> = snapshot.workloads().iter().map(|workload| workload.name.as_str()).take(8).collect();
    for name in &names {
        ask(snapshot, source, &format!("{name}:443"));
        ask(snapshot, name, destination);
        for other in &names {
            ask(snapshot, name, &format!("{other}:443"));
        }
    }
}

fn ask(snapshot: &Snapshot, source: &str, destination: &str) {
    if let Ok(explanations) = explained(snapshot, source, destination) {
        assert!(!explanations.is_empty() && explanations.iter().all(|explanation| !explanation.text().is_empty()));
        let _text: usize = explanations.iter().map(Explanation::text).map(|text| text.len()).sum();
    }
}
