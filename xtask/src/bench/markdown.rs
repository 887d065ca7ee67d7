//! The report as Markdown, which can be read as it is.

use super::report::{OnKernel, Report};

/// A heading for each kernel, a table for each workload, and where it was made.
pub(crate) fn text(report: &Report) -> String {
    let kernels: String = report.kernels.iter().map(on_kernel).collect();
    let (machine, command) = (report.machine.markdown(), &report.command);
    format!("{kernels}\n## Where this was measured\n\n{machine}\nBy `{command}`.\n")
}

fn on_kernel(part: &OnKernel) -> String {
    let mut text = format!("\n## Kernel {}\n", part.kernel);
    if !part.has_tls {
        text += &format!("\n{NO_TLS}\n");
    }
    for section in &part.sections {
        text += &format!("\n### {}\n\n{}", section.title, section.table.markdown());
    }
    text
}

/// What is said of a kernel that cannot do what most of it is about.
pub(crate) const NO_TLS: &str = "It has no TLS: only what works without it was measured.";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::report::{
        report,
        tests::{measured, rows},
    };

    #[test]
    fn everything_stands_under_its_kernel() {
        let facts = vec![("processor".to_owned(), "Some CPU".to_owned())];
        let text = text(&report(&[measured(rows())], facts, "cargo xtask bench".to_owned()));
        let headings: Vec<_> = text.lines().filter(|line| line.starts_with('#')).collect();
        let expected =
            ["## Kernel 6.12.1", "### 64-byte round trip", "### idle", "### Goals", "## Where this was measured"];
        assert_eq!(headings, expected);
        for line in ["| direct    |       50,556 |    1.68 |", "Some CPU |", "By `cargo xtask bench`."] {
            assert!(text.contains(line), "{line} in {text}");
        }
    }
}
