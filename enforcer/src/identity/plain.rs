//! What somebody else has said, as it may be shown: names in certificates, and what servers answer.

/// Characters of a name in a certificate that are shown.
pub(crate) const LONGEST_NAME: usize = 200;
/// Characters of an explanation that are shown.
pub(crate) const LONGEST_WORDS: usize = 300;

/// A text as it may go into a log or onto a terminal: printable ASCII, and not too much of it.
pub(crate) fn plain(text: &str, most: usize) -> String {
    let is_plain = |character: char| character.is_ascii_graphic() || character == ' ';
    let mut shown = String::new();
    for character in text.chars().take(most) {
        if is_plain(character) { shown.push(character) } else { shown.extend(character.escape_default()) }
    }
    if text.chars().nth(most).is_some() {
        shown.push_str("...");
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_cut_and_cannot_forge_a_line() {
        assert_eq!(plain("CN=a b, O=\u{fc}\n\u{1b}[2J\u{202e}", 100), "CN=a b, O=\\u{fc}\\n\\u{1b}[2J\\u{202e}");
        assert_eq!(plain("abcd", 4), "abcd");
        assert_eq!(plain("abcde", 4), "abcd...");
    }
}
