//! Why two files that should be the same are not, as far as their bytes tell.

use super::pieces::Part;
use super::{Sides, hints, packed};
use crate::archive::content::{Content, Reader};
use crate::gate::find_traces;
use object::Endianness;
use object::elf::FileHeader64;
use object::read::ReadCache;
use object::read::elf::{FileHeader as _, SectionHeader as _, SectionTable};
use std::path::Path;

/// No more of a line is shown, in characters.
const SHOWN: usize = 160;

/// Lines and zips are looked into as far as they are in memory whole, which no larger file is, in bytes.
const SMALL: u64 = 4 * 1024 * 1024;

/// Whether it may be in memory whole.
pub(super) fn is_small(content: &Content) -> bool {
    content.size() <= SMALL
}

/// The reasons, line by line; never none. diffoscope takes its time, and is asked where that is wanted.
///
/// # Errors
/// When they cannot be read, or what is packed in them not be kept meanwhile.
pub fn of(one: &Content, other: &Content, name: &str, sides: &Sides, with_diffoscope: bool) -> anyhow::Result<Vec<String>> {
    let mut reasons = Vec::new();
    for (which, content, marks) in [("first", one, &sides.one), ("second", other, &sides.other)] {
        let traces = find_traces(content, marks)?;
        reasons.extend(traces.iter().map(|trace| format!("the {which} names {}: \"{}\"", trace.what, cut(&trace.text))));
    }
    reasons.extend(of_content(one, other, sides)?);
    if with_diffoscope {
        reasons.extend(diffoscope(one, other, name));
    }
    Ok(reasons)
}

/// The same of what is nobody's file: what stands in another one, say.
pub(super) fn of_content(one: &Content, other: &Content, sides: &Sides) -> anyhow::Result<Vec<String>> {
    let is_small = is_small(one) && is_small(other);
    if is_small && let Some(reasons) = of_text(&one.whole()?, &other.whole()?, sides) {
        return Ok(reasons);
    }
    if let Some(reasons) = of_elf(one, other, sides)? {
        return Ok(reasons);
    }
    if let Some(reasons) = packed::of(one, other, sides)? {
        return Ok(reasons);
    }
    let mut reasons = of_bytes(Part::all(one), Part::all(other), sides)?;
    if !is_small {
        reasons.push("they are too large for a look at their lines, or at what is in them".to_owned());
    }
    Ok(reasons)
}

/// Why two archives of the same members are not the same.
///
/// # Errors
/// When they cannot be read.
pub fn of_packing(one: &Content, other: &Content) -> anyhow::Result<Vec<String>> {
    match packed::gzip_header(&one.head(8)?, &other.head(8)?) {
        Some(reason) => Ok(vec![reason]),
        None => of_bytes(Part::all(one), Part::all(other), &Sides::default()),
    }
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

/// A program by its sections: of the rest of it nothing is read, and nothing kept.
struct Program<'d> {
    header: &'d FileHeader64<Endianness>,
    endian: Endianness,
    sections: SectionTable<'d, FileHeader64<Endianness>, &'d ReadCache<Reader<'d>>>,
}

impl<'d> Program<'d> {
    /// None where it is no ELF file of 64 bits that can be understood.
    fn parse(file: &'d ReadCache<Reader<'d>>) -> Option<Self> {
        let header = FileHeader64::<Endianness>::parse(file).ok()?;
        let endian = header.endian().ok()?;
        Some(Self { header, endian, sections: header.sections(endian, file).ok()? })
    }

    /// The machine and the kind: another one would be another program altogether.
    fn kind(&self) -> (u16, u16) {
        (self.header.e_machine(self.endian).0, self.header.e_type(self.endian).0)
    }

    /// The names of all sections, and where they lie.
    fn sections(&self) -> impl Iterator<Item = (String, Option<(u64, u64)>)> {
        // The first one is none.
        self.sections.iter().skip(1).map(|section| {
            let name = self.sections.section_name(self.endian, section).ok().and_then(|name| std::str::from_utf8(name).ok());
            (name.unwrap_or("?").to_owned(), section.file_range(self.endian))
        })
    }

    /// Where the section of this name lies.
    fn section(&self, name: &str) -> Option<Option<(u64, u64)>> {
        let (_, section) = self.sections.section_by_name(self.endian, name.as_bytes())?;
        Some(section.file_range(self.endian))
    }
}

/// The sections that differ, and where the first of them does.
fn of_elf(one: &Content, other: &Content, sides: &Sides) -> anyhow::Result<Option<Vec<String>>> {
    let files = (ReadCache::new(one.reader()), ReadCache::new(other.reader()));
    let (Some(a), Some(b)) = (Program::parse(&files.0), Program::parse(&files.1)) else { return Ok(None) };
    let mut reasons = Vec::new();
    if a.kind() != b.kind() {
        reasons.push("they are programs of different kinds or for different machines".to_owned());
    }
    let mut different = Vec::new();
    let mut first = None;
    for (name, place) in a.sections() {
        let Some(there) = b.section(&name) else {
            different.push(format!("{name} (in the first only)"));
            continue;
        };
        let (content, theirs) = (Part::of(one, place), Part::of(other, there));
        if !content.is(&theirs)? {
            first = first.or_else(|| Some((name.clone(), content, theirs)));
            different.push(name);
        }
    }
    for (name, _) in b.sections() {
        if a.section(&name).is_none() {
            different.push(format!("{name} (in the second only)"));
        }
    }
    if different.is_empty() {
        reasons.push("no section differs: what does lies between them".to_owned());
        reasons.extend(of_bytes(Part::all(one), Part::all(other), sides)?);
        return Ok(Some(reasons));
    }
    reasons.push(format!("sections that differ: {}", different.join(", ")));
    if let Some((name, a, b)) = first {
        reasons.extend(of_bytes(a, b, sides)?.into_iter().map(|reason| format!("{name}: {reason}")));
    }
    Ok(Some(reasons))
}

/// The first byte that differs, with what stands around it.
fn of_bytes(one: Part<'_>, other: Part<'_>, sides: &Sides) -> anyhow::Result<Vec<String>> {
    let place = one.common(&other)?;
    let mut reasons = vec![format!("from byte {place} on (of {} and {})", one.size(), other.size())];
    // No more than this around it is told, or looked at.
    let (from, to) = (place.saturating_sub(SHOWN as u64), place + SHOWN as u64);
    let (one, other) = (&*one.bytes(from, to)?, &*other.bytes(from, to)?);
    let at = usize::try_from(place - from)?;
    let around = |bytes: &[u8]| {
        let from = at.saturating_sub(16);
        let part = &bytes[from.min(bytes.len())..bytes.len().min(at + 32)];
        part.iter()
            .map(|byte| if byte.is_ascii_graphic() || *byte == b' ' { char::from(*byte) } else { '.' })
            .collect::<String>()
    };
    reasons.push(format!("there: \"{}\" and \"{}\"", around(one), around(other)));
    reasons.extend(hints::of(&text_at(one, at), &text_at(other, at), sides));
    Ok(reasons)
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
fn diffoscope(one: &Content, other: &Content, name: &str) -> Vec<String> {
    let Ok(program) = which::which("diffoscope") else { return Vec::new() };
    let run = || -> anyhow::Result<String> {
        let folder = tempfile::tempdir()?;
        let file = Path::new(name).file_name().unwrap_or_default();
        let put = |side: &str, content: &Content| -> anyhow::Result<std::path::PathBuf> {
            let path = folder.path().join(side).join(file);
            std::fs::create_dir_all(folder.path().join(side))?;
            content.write_to(&mut std::fs::File::create(&path)?)?;
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
        of(&one.to_vec().into(), &other.to_vec().into(), "x", &sides, false).unwrap()
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
    fn of_large_files_as_much_is_told_as_pieces_tell() {
        // Behind all that the headers tell of.
        let large = |needed: &str, end: &str| [library(&[needed], None, &[]), vec![1; 5 << 20], end.into()].concat();
        assert!(!is_small(&large("liba.so", "").into()));
        let small = reasons(&library(&["liba.so"], None, &[]), &library(&["libb.so"], None, &[]));
        let found = reasons(&large("liba.so", "in /srv/one/build/x"), &large("libb.so", ""));
        assert_eq!((found[0].starts_with("the first names the build folder"), &found[1..]), (true, small.as_slice()));
        let text = |end: &str| ["a line\n".repeat(1 << 20).as_bytes(), end.as_bytes()].concat();
        let found = reasons(&text("at 1700000000"), &text("at 1700000100"));
        assert!(found[0].starts_with("from byte 7340042 on") && found[2].starts_with("these are times: 2023"), "{found:?}");
        assert!(found[3].contains("too large for a look at their lines"), "{found:?}");
    }

    #[test]
    fn of_anything_else_the_first_byte_is_told() {
        let found = reasons(b"\xff\0same then 1", b"\xff\0same then 2");
        assert!(found[0].contains("from byte 12 on") && found[1].contains("same then 1"), "{found:?}");
    }
}
