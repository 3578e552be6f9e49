//! Why two files that should be the same are not, as far as their bytes tell.

use super::{Sides, hints, packed};
use crate::gate::find_traces;
use object::read::elf::{ElfFile64, FileHeader};
use object::{Endianness, Object as _, ObjectSection as _};
use std::path::Path;

/// No more of a line is shown, in characters.
const SHOWN: usize = 160;

/// The reasons, line by line; never none. diffoscope takes its time, and is asked where that is wanted.
pub fn of(one: &[u8], other: &[u8], name: &str, sides: &Sides, with_diffoscope: bool) -> Vec<String> {
    let mut reasons = Vec::new();
    for (which, content, marks) in [("first", one, &sides.one), ("second", other, &sides.other)] {
        let traces = find_traces(content, marks);
        reasons.extend(traces.iter().map(|trace| format!("the {which} names {}: \"{}\"", trace.what, cut(&trace.text))));
    }
    reasons.extend(of_content(one, other, sides));
    if with_diffoscope {
        reasons.extend(diffoscope(one, other, name));
    }
    reasons
}

/// The same of what is nobody's file: what stands in another one, say.
pub(super) fn of_content(one: &[u8], other: &[u8], sides: &Sides) -> Vec<String> {
    let looked = of_text(one, other, sides).or_else(|| of_elf(one, other, sides)).or_else(|| packed::of(one, other, sides));
    looked.unwrap_or_else(|| of_bytes(one, other, sides))
}

/// Why two archives of the same members are not the same.
pub fn of_packing(one: &[u8], other: &[u8]) -> Vec<String> {
    packed::gzip_header(one, other).map_or_else(|| of_bytes(one, other, &Sides::default()), |reason| vec![reason])
}

fn cut(text: &str) -> String {
    let short: String = text.chars().take(SHOWN).collect();
    if short.len() < text.len() { short + "…" } else { short }
}

/// The first line that differs, and what looks like a time in it.
fn of_text(one: &[u8], other: &[u8], sides: &Sides) -> Option<Vec<String>> {
    let (one, other) = (std::str::from_utf8(one).ok()?, std::str::from_utf8(other).ok()?);
    if one.contains('\0') || other.contains('\0') {
        return None;
    }
    let (mut lines, mut others) = (one.lines(), other.lines());
    for number in 1.. {
        return Some(match (lines.next(), others.next()) {
            (None, None) => vec!["the lines are the same, and end differently".to_owned()],
            (Some(a), Some(b)) if a == b => continue,
            (Some(a), Some(b)) => {
                // Of a line as long as a program the part around the difference is what matters.
                let from = a.bytes().zip(b.bytes()).take_while(|(a, b)| a == b).count().saturating_sub(40);
                let part = |line: &str| cut(&String::from_utf8_lossy(&line.as_bytes()[from.min(line.len())..]));
                let mut reasons = vec![format!("line {number}: \"{}\" and \"{}\"", part(a), part(b))];
                reasons.extend(hints::order(one, other).or_else(|| hints::of(a, b, sides)));
                reasons
            }
            (a, _) => vec![format!("the {} ends after line {}", if a.is_none() { "first" } else { "second" }, number - 1)],
        });
    }
    None
}

/// The sections that differ, and where the first of them does.
fn of_elf(one: &[u8], other: &[u8], sides: &Sides) -> Option<Vec<String>> {
    use object::elf::FileHeader64;
    let parse = |data| ElfFile64::<Endianness>::parse(data).ok();
    let (a, b) = (parse(one)?, parse(other)?);
    // Another machine or kind would be another program altogether.
    let head = |file: &ElfFile64<'_, Endianness>| {
        let header: &FileHeader64<Endianness> = file.elf_header();
        (header.e_machine(file.endian()).0, header.e_type(file.endian()).0)
    };
    let mut reasons = Vec::new();
    if head(&a) != head(&b) {
        reasons.push("they are programs of different kinds or for different machines".to_owned());
    }
    let mut different = Vec::new();
    let mut first = None;
    for section in a.sections() {
        let name = section.name().unwrap_or("?").to_owned();
        let content = section.data().unwrap_or_default();
        match b.section_by_name(&name) {
            None => different.push(format!("{name} (in the first only)")),
            Some(there) if there.data().unwrap_or_default() != content => {
                first = first.or_else(|| Some((name.clone(), content, there.data().unwrap_or_default())));
                different.push(name);
            }
            Some(_) => {}
        }
    }
    for section in b.sections() {
        let name = section.name().unwrap_or("?");
        if a.section_by_name(name).is_none() {
            different.push(format!("{name} (in the second only)"));
        }
    }
    if different.is_empty() {
        reasons.push("no section differs: what does lies between them".to_owned());
        reasons.extend(of_bytes(one, other, sides));
        return Some(reasons);
    }
    reasons.push(format!("sections that differ: {}", different.join(", ")));
    if let Some((name, a, b)) = first {
        reasons.extend(of_bytes(a, b, sides).into_iter().map(|reason| format!("{name}: {reason}")));
    }
    Some(reasons)
}

/// The first byte that differs, with what stands around it.
fn of_bytes(one: &[u8], other: &[u8], sides: &Sides) -> Vec<String> {
    let at = one.iter().zip(other).take_while(|(a, b)| a == b).count();
    let around = |bytes: &[u8]| {
        let from = at.saturating_sub(16);
        let part = &bytes[from.min(bytes.len())..bytes.len().min(at + 32)];
        part.iter()
            .map(|byte| if byte.is_ascii_graphic() || *byte == b' ' { char::from(*byte) } else { '.' })
            .collect::<String>()
    };
    let mut reasons = vec![format!("from byte {at} on (of {} and {})", one.len(), other.len())];
    reasons.push(format!("there: \"{}\" and \"{}\"", around(one), around(other)));
    reasons.extend(hints::of(&text_at(one, at), &text_at(other, at), sides));
    reasons
}

/// The text that a byte stands in, as far as it can be printed.
fn text_at(bytes: &[u8], at: usize) -> String {
    let is_text = |byte: &&u8| byte.is_ascii_graphic() || **byte == b' ';
    let at = at.min(bytes.len());
    let before = bytes[..at].iter().rev().take(SHOWN).take_while(is_text).count();
    let behind = bytes[at..].iter().take(SHOWN).take_while(is_text).count();
    String::from_utf8_lossy(&bytes[at - before..at + behind]).into_owned()
}

/// What diffoscope says, where it is installed: it knows more kinds of files than this does.
fn diffoscope(one: &[u8], other: &[u8], name: &str) -> Vec<String> {
    let Ok(program) = which::which("diffoscope") else { return Vec::new() };
    let run = || -> anyhow::Result<String> {
        let folder = tempfile::tempdir()?;
        let file = Path::new(name).file_name().unwrap_or_default();
        let put = |side: &str, content: &[u8]| -> anyhow::Result<std::path::PathBuf> {
            let path = folder.path().join(side).join(file);
            std::fs::create_dir_all(folder.path().join(side))?;
            std::fs::write(&path, content)?;
            Ok(path)
        };
        let (a, b) = (put("first", one)?, put("second", other)?);
        let mut command = std::process::Command::new(program);
        command.args(["--text", "-", "--no-progress", "--max-page-diff-block-lines", "40", "--max-text-report-size", "20000"]);
        let output = command.arg(a).arg(b).output()?;
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let text = run().unwrap_or_default();
    let lines = text.lines().filter(|line| !line.is_empty()).take(40);
    lines.map(|line| format!("diffoscope: {}", cut(line))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::elf::tests::library;
    use crate::gate::Machine;

    fn reasons(one: &[u8], other: &[u8]) -> Vec<String> {
        let marks = |path: &str| Machine { paths: vec![("the build folder", path.into())], ..Machine::default() }.marks();
        let sides = Sides { one: marks("/srv/one/build"), other: marks("/srv/other build"), ..Sides::default() };
        of(one, other, "x", &sides, false)
    }

    #[test]
    fn of_texts_the_line_is_told_and_that_it_is_a_time() {
        let found = reasons(b"same\nmade at 1700000000\n", b"same\nmade at 1700000100\n");
        assert_eq!(found[0], "line 2: \"made at 1700000000\" and \"made at 1700000100\"");
        assert!(found[1].contains("these are times: 2023-11-14"), "{found:?}");
        assert_eq!(reasons(b"a\nb\n", b"a\n"), ["the second ends after line 1"]);
        assert_eq!(reasons(b"id 17\n", b"id 18\n").len(), 1);
    }

    #[test]
    fn a_path_of_the_build_is_told_before_all_else() {
        let found = reasons(b"in /srv/one/build/x", b"in /srv/other build/x");
        assert!(
            found[0].starts_with("the first names the build folder") && found[1].starts_with("the second names"),
            "{found:?}"
        );
    }

    #[test]
    fn of_programs_the_sections_are_told() {
        let found = reasons(&library(&["liba.so"], None, &[]), &library(&["libb.so"], None, &[]));
        assert!(found.iter().any(|line| line.contains("differ") && line.contains("byte")) || found.len() >= 2, "{found:?}");
        assert!(!found.iter().any(|line| line.starts_with("line")), "{found:?}");
    }

    #[test]
    fn of_anything_else_the_first_byte_is_told() {
        let found = reasons(b"\xff\0same then 1", b"\xff\0same then 2");
        assert!(found[0].contains("from byte 12 on") && found[1].contains("same then 1"), "{found:?}");
    }
}
