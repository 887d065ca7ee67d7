//! Where the figures were made.

use std::fs;
use std::thread;

use anyhow::{Context, Result};

/// Facts about this machine and what emulates another one on it, if something does, each with its name.
pub(crate) fn facts(emulator: Option<String>) -> Result<Vec<(String, String)>> {
    let cores = thread::available_parallelism().context("count the processors")?;
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").context("read the kernel's release")?;
    let facts = [
        ("processor", processor(&fs::read_to_string("/proc/cpuinfo").context("read /proc/cpuinfo")?)),
        ("processors", cores.to_string()),
        ("kernel of the machine", release.trim().to_owned()),
    ];
    let emulator = emulator.map(|version| ("emulator", version));
    Ok(facts.into_iter().chain(emulator).map(|(name, fact)| (name.to_owned(), fact)).collect())
}

/// The model that the kernel names first.
fn processor(cpuinfo: &str) -> String {
    let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    model.map_or("unknown", |(_, model)| model.trim()).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_processor_is_the_first_one_s_model() {
        let cpuinfo = "processor\t: 0\nmodel name\t: Some CPU @ 2.50GHz\n\nprocessor\t: 1\nmodel name\t: Other\n";
        assert_eq!(processor(cpuinfo), "Some CPU @ 2.50GHz");
        assert_eq!(processor("processor\t: 0\n"), "unknown");
    }
}
