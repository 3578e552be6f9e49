//! Foreign text on its way to a terminal: shown, never obeyed, and of bounded length where it is a line of a log. What services print,
//! and names in bundles and archives.
//!
//! What could move the cursor, change the terminal or make text read differently than it is written is replaced by what it is:
//! `\x1b` for control characters (C0, DEL), `\u{9b}` for those beyond ASCII (C1), for the characters that change the direction of
//! text and for those that end lines in some programs only, `\xff` for bytes that are no UTF-8.

use serde::Serialize;
use std::fmt::Write;

/// Of a line of more bytes than this, terminals are shown the beginning.
pub const LONGEST_LINE: usize = 16 * 1024;

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

/// One line of a log, its end not included, as a terminal may see it: harmless, and of bounded length.
#[must_use]
pub fn shown(line: &[u8]) -> String {
    beginning(line, line.len(), "--raw shows them")
}

/// The same of a line that has so many bytes, of which no more than its beginning and one byte need be there; `rest`: where the others are.
#[must_use]
pub fn beginning(line: &[u8], length: usize, rest: &str) -> String {
    if length <= LONGEST_LINE {
        return harmless(line);
    }
    let mut cut = LONGEST_LINE;
    // Not in the middle of a character.
    while cut > LONGEST_LINE - 4 && line[cut] & 0xc0 == 0x80 {
        cut -= 1;
    }
    format!("{} [{} more bytes in this line; {rest}]", harmless(&line[..cut]), length - cut)
}

/// A value as JSON that is as harmless: what JSON itself leaves as it is becomes `\uXXXX`, which means the same.
///
/// # Errors
/// When the value cannot be written as JSON.
pub fn json(value: &impl Serialize, pretty: bool) -> serde_json::Result<String> {
    let text = if pretty { serde_json::to_string_pretty(value)? } else { serde_json::to_string(value)? };
    if text.is_ascii() {
        return Ok(text);
    }
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if is_treacherous(c) {
            for unit in c.encode_utf16(&mut [0; 2]) {
                let _ = write!(out, "\\u{unit:04x}");
            }
        } else {
            out.push(c);
        }
    }
    Ok(out)
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

    #[test]
    fn json_is_harmless_and_means_the_same() {
        let text = "a\u{9b}b\u{202e}\u{e0041}\x1bü";
        let out = json(&text, false).unwrap();
        assert_eq!(out, "\"a\\u009bb\\u202e\\udb40\\udc41\\u001bü\"");
        assert_eq!(serde_json::from_str::<String>(&out).unwrap(), text);
    }

    #[test]
    fn long_lines_are_cut_between_characters() {
        let line = "é".repeat(LONGEST_LINE);
        let out = shown(format!("x{line}").as_bytes());
        assert!(out.ends_with("é [16386 more bytes in this line; --raw shows them]"), "{}", &out[out.len() - 80..]);
        assert_eq!(shown(b"short"), "short");
    }
}
