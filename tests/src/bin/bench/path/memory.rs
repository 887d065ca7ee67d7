//! Resident memory of all processes of a program, each page counted once.

use std::fs;

use anyhow::{Context, Result};

/// Bytes that these processes of one program have in memory.
///
/// Pages of their own are shared only among them: each process is charged its share. Those of the program's file and of
/// its libraries are shared with others too: the process that has most of them is charged, the others not.
pub(super) fn resident(processes: &[u32]) -> Result<f64> {
    let (mut own, mut files) = (0, 0);
    for process in processes {
        let read = |file: &str| {
            fs::read_to_string(format!("/proc/{process}/{file}")).with_context(|| format!("read {file} of {process}"))
        };
        let (shares, status) = (read("smaps_rollup")?, read("status")?);
        own += kib(&shares, "Pss_Anon:")? + kib(&shares, "Pss_Shmem:")?;
        files = files.max(kib(&status, "RssFile:")?);
    }
    Ok(f64::from(own + files) * 1024.0)
}

fn kib(text: &str, name: &str) -> Result<u32> {
    let value = text.lines().find_map(|line| line.strip_prefix(name)).with_context(|| format!("no {name}"))?;
    value.trim().trim_end_matches(" kB").parse().with_context(|| format!("read {name}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_has_memory_and_its_file_counts_once() {
        let own = std::process::id();
        let (once, twice) = (resident(&[own]).unwrap(), resident(&[own, own]).unwrap());
        assert!(once > 100.0 * 1024.0 && twice > once && twice < once * 2.0, "{once} {twice}");
    }

    #[test]
    fn figures_are_found_by_their_names() {
        assert_eq!(kib("Rss: 10 kB\nPss_Anon:             604 kB\n", "Pss_Anon:").unwrap(), 604);
        kib("Rss: 10 kB\n", "Pss_Anon:").unwrap_err();
    }
}
