//! Text from services and files on its way to a terminal: of bounded length, and harmless ([`harmless`]).

use std::fmt::Write;

use serde::Serialize;

pub use crate::text::{harmless, harmless_line};

use crate::text::is_treacherous;

/// Of a line of more bytes than this, terminals are shown the beginning.
pub const LONGEST_LINE: usize = 16 * 1024;

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
