//! Tables, and numbers in them.

/// A table; all but the first column are numbers or short words.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Table {
    pub(crate) heads: Vec<String>,
    pub(crate) rows: Vec<Vec<String>>,
}

impl Table {
    /// In Markdown that can be read as it is: columns have an even width, and all but the first are to the right.
    pub(crate) fn markdown(&self) -> String {
        let longest = |column: usize| {
            let cells = self.rows.iter().chain([&self.heads]).filter_map(|row| row.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or_default()
        };
        let widths: Vec<_> = (0..self.heads.len()).map(longest).collect();
        let rule: Vec<_> = widths.iter().enumerate().map(|(column, width)| dashes(column, *width)).collect();
        [&self.heads, &rule].into_iter().chain(&self.rows).map(|row| line(row, &widths)).collect()
    }
}

fn dashes(column: usize, width: usize) -> String {
    if column == 0 { "-".repeat(width) } else { "-".repeat(width - 1) + ":" }
}

fn line(cells: &[String], widths: &[usize]) -> String {
    let cells = cells.iter().zip(widths).enumerate().map(|(column, (cell, &width))| match column {
        0 => format!("| {cell:width$} |"),
        _ => format!(" {cell:>width$} |"),
    });
    cells.collect::<String>() + "\n"
}

/// A whole number with commas.
pub(crate) fn grouped(number: f64) -> String {
    let digits = format!("{number:.0}");
    let (sign, digits) = digits.strip_prefix('-').map_or(("", digits.as_str()), |rest| ("-", rest));
    let mut text = sign.to_owned();
    for (position, digit) in digits.chars().enumerate() {
        if position > 0 && (digits.len() - position).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_commas() {
        assert_eq!([29_852.4, 776.0, 1_000_000.0, -1234.0].map(grouped), ["29,852", "776", "1,000,000", "-1,234"]);
    }

    #[test]
    fn columns_are_even() {
        let row = |cells: [&str; 2]| cells.map(str::to_owned).to_vec();
        let table = Table { heads: row(["path", "cost"]), rows: vec![row(["plain", "1"]), row(["x", "1,000"])] };
        let expected = "| path  |  cost |\n| ----- | ----: |\n| plain |     1 |\n| x     | 1,000 |\n";
        assert_eq!(table.markdown(), expected);
    }
}
