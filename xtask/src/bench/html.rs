//! The report as a page that needs nothing else: tables, and charts as SVG within it.

use std::fmt::Write;

use anyhow::Result;

use super::chart;
use super::markdown::NO_TLS;
use super::report::{OnKernel, Report, Section};
use super::table::Table;

const STYLE: &str = include_str!("report.css");

/// The page; `explanation` is Markdown of paragraphs and lists, shown as it is.
pub(crate) fn page(report: &Report, explanation: &str) -> Result<String> {
    let mut body = String::new();
    for part in &report.kernels {
        body += &on_kernel(part)?;
    }
    body += &format!("<h2>Where this was measured</h2>\n{}", table(&report.machine));
    body += &format!("<p>By <code>{}</code>.</p>\n", escaped(&report.command));
    body += &format!("<h2>What the figures are, and are not</h2>\n<pre>{}</pre>\n", escaped(explanation.trim()));
    Ok(format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n<title>{TITLE}</title>\n\
         <style>\n{STYLE}</style>\n</head>\n<body>\n<h1>{TITLE}</h1>\n{body}</body>\n</html>\n"
    ))
}

const TITLE: &str = "What a connection costs";

fn on_kernel(part: &OnKernel) -> Result<String> {
    let mut text = format!("<h2>Kernel {}</h2>\n", escaped(&part.kernel));
    if !part.has_tls {
        text += &format!("<p>{NO_TLS}</p>\n");
    }
    for part in &part.sections {
        text += &section(part)?;
    }
    Ok(text)
}

fn section(section: &Section) -> Result<String> {
    let mut text = format!("<h3>{}</h3>\n", escaped(&section.title));
    for bars in &section.charts {
        text += &format!("<figure>\n{}\n</figure>\n", chart::svg(bars)?);
    }
    Ok(text + &table(&section.table))
}

fn table(table: &Table) -> String {
    let row = |cells: &[String], tag: &str| {
        let mut row = String::from("<tr>");
        for cell in cells {
            // Nothing fails that writes into a string.
            let _written = write!(row, "<{tag}>{}</{tag}>", escaped(cell));
        }
        row + "</tr>\n"
    };
    let rows: String = table.rows.iter().map(|cells| row(cells, "td")).collect();
    format!("<table>\n{}{rows}</table>\n", row(&table.heads, "th"))
}

/// Text such that it is text in a page.
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            other => escaped.push(other),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::report::{
        report,
        tests::{measured, rows},
    };

    fn example(command: &str) -> String {
        let facts = vec![("processor".to_owned(), "Some & other \"CPU\"".to_owned())];
        page(&report(&[measured(rows())], facts, command.to_owned()), "Costs are < times.\n").unwrap()
    }

    #[test]
    fn the_page_has_a_chart_and_a_table_for_a_workload() {
        let page = example("cargo xtask bench");
        assert_eq!(page.matches("<svg ").count(), 3, "{page}");
        assert!(page.contains("<h3>64-byte round trip</h3>\n<figure>"), "{page}");
        assert!(page.contains("<tr><td>direct</td><td>50,556</td><td>1.68</td>"), "{page}");
        // Nothing is fetched: the only address in it names what SVG is.
        assert_eq!(page.matches("http").count(), page.matches("http://www.w3.org/2000/svg").count(), "{page}");
    }

    #[test]
    fn text_stays_text() {
        let page = example("cargo xtask bench --json '<script>'");
        assert!(page.contains("<td>nginx &lt;1.22&gt;</td>"), "{page}");
        assert!(page.contains("<td>Some &amp; other &quot;CPU&quot;</td>"), "{page}");
        assert!(page.contains("Costs are &lt; times."), "{page}");
        assert!(!page.contains("<script>"), "{page}");
    }
}
