//! Foreign text on its way to a terminal: shown, never obeyed. What services print, and names in bundles and archives.
//!
//! What could move the cursor, change the terminal or make text read differently than it is written is replaced by what it is:
//! `\x1b` for control characters (C0, DEL), `\u{9b}` for those beyond ASCII (C1), for the characters that change the direction of
//! text and for those that end lines in some programs only, `\xff` for bytes that are no UTF-8.

use std::fmt::Write;

/// The bytes as harmless text; line ends and tabs stay.
#[must_use]
pub fn harmless(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        chunk.valid().chars().for_each(|c| push(&mut out, c));
        for byte in chunk.invalid() {
            let _ = write!(out, "\\x{byte:02x}");
        }
    }
    out
}

/// The same in one line: line ends are shown too.
#[must_use]
pub fn harmless_line(bytes: &[u8]) -> String {
    harmless(bytes).replace('\n', "\\n")
}

fn push(out: &mut String, c: char) {
    let _ = match c {
        '\n' | '\t' => return out.push(c),
        '\r' => write!(out, "\\r"),
        '\0'..='\x1f' | '\x7f' => write!(out, "\\x{:02x}", u32::from(c)),
        c if is_treacherous(c) => write!(out, "\\u{{{:x}}}", u32::from(c)),
        c => return out.push(c),
    };
}

/// Whether a character beyond ASCII steers terminals or the direction of text, or cannot be seen although it says something.
#[must_use]
pub fn is_treacherous(c: char) -> bool {
    matches!(c,
        '\u{80}'..='\u{9f}'
        | '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}'
        | '\u{2028}' | '\u{2029}'
        | '\u{fff9}'..='\u{fffb}' | '\u{feff}'
        | '\u{e0000}'..='\u{e007f}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escape_sequences_are_shown_and_not_obeyed() {
        assert_eq!(harmless(b"a\x1b[2Jb\t\xff\r\n"), "a\\x1b[2Jb\t\\xff\\r\n");
        assert_eq!(
            harmless("\u{9b}31m\x1b]0;title\x07 \u{202e}gnp\u{2066} ü ✓ \u{feff}".as_bytes()),
            "\\u{9b}31m\\x1b]0;title\\x07 \\u{202e}gnp\\u{2066} ü ✓ \\u{feff}"
        );
        assert_eq!(harmless_line(b"a\nb"), "a\\nb");
    }

    #[test]
    fn nothing_harmful_is_left_of_any_bytes() {
        // All single bytes, all pairs of them, and every character there is.
        let mut bytes: Vec<u8> = (0..=255).collect();
        bytes.extend((0..=255_u8).flat_map(|first| (0..=255_u8).flat_map(move |second| [first, second])));
        bytes.extend(('\0'..=char::MAX).collect::<String>().into_bytes());
        let out = harmless(&bytes);
        assert!(!out.chars().any(|c| (c.is_control() && c != '\n' && c != '\t') || is_treacherous(c)));
    }
}
