//! Why two packed files are not the same: what stands in gzip's head or in a zip's list, or what they hold, which is looked at like a
//! file of its own, however deep it is.
//!
//! Left to others: zips that are too large to be in memory, and other forms, which are compared as bytes (and by diffoscope, where it is installed).

use super::Sides;
use super::pieces::Part;
use super::reason::{self, of_content};
use crate::archive::content::Content;
use crate::gate::unpacked;
use crate::zip::{Member, Zip};
use jiff::Timestamp;

/// No member of a zip is looked at beyond this, in bytes.
const LONGEST_MEMBER: u64 = 1024 * 1024 * 1024;

/// What differs in two packed files; none where they are not packed in one way that is known.
pub(super) fn of(one: &Content, other: &Content, sides: &Sides) -> anyhow::Result<Option<Vec<String>>> {
    if reason::is_small(one) && reason::is_small(other) {
        let reasons = of_zip(&one.whole()?, &other.whole()?, sides)?;
        if reasons.is_some() {
            return Ok(reasons);
        }
    }
    of_stream(one, other, sides)
}

/// What differs in gzip's header, if anything.
pub(super) fn gzip_header(one: &[u8], other: &[u8]) -> Option<String> {
    let time = |bytes: &[u8]| match bytes {
        [0x1f, 0x8b, 8, _, a, b, c, d, ..] => Some(u32::from_le_bytes([*a, *b, *c, *d])),
        _ => None,
    };
    let (a, b) = (time(one)?, time(other)?);
    let shown = |time: u32| match time {
        0 => "none".to_owned(),
        time => Timestamp::from_second(i64::from(time)).map_or_else(|_| time.to_string(), |time| time.to_string()),
    };
    (a != b).then(|| format!("gzip's header holds the time of packing: {} and {}", shown(a), shown(b)))
}

/// What differs in files packed by gzip, bzip2 or xz: gzip's header, or what they hold.
fn of_stream(one: &Content, other: &Content, sides: &Sides) -> anyhow::Result<Option<Vec<String>>> {
    let mut reasons = Vec::from_iter(gzip_header(&one.head(8)?, &other.head(8)?));
    let (Some((tool, a)), Some((other_tool, b))) = (unpacked(one)?, unpacked(other)?) else { return Ok(None) };
    if tool != other_tool {
        return Ok(None);
    }
    if !Part::all(&a).is(&Part::all(&b))? {
        reasons.extend(within(tool, of_content(&a, &b, sides)?));
    } else if reasons.is_empty() {
        reasons.push(format!("packed by {tool} with the same content, but by another program or level"));
    }
    Ok(Some(reasons))
}

/// What differs in two zips (jars, wheels): names, the first content that does, times, order.
fn of_zip(one: &[u8], other: &[u8], sides: &Sides) -> anyhow::Result<Option<Vec<String>>> {
    // Self-extracting programs have their zip behind them.
    let zip = |bytes| if <[u8]>::starts_with(bytes, b"PK") { Zip::new(bytes).ok() } else { None };
    let (Some(a), Some(b)) = (zip(one), zip(other)) else { return Ok(None) };
    let mut reasons = Vec::new();
    for (zip, from, which) in [(&a, &b, "first"), (&b, &a, "second")] {
        let alone: Vec<_> = zip.members().keys().filter(|name| !from.members().contains_key(*name)).collect();
        if let Some(name) = alone.first() {
            let more = if alone.len() > 1 { format!(" and {} more", alone.len() - 1) } else { String::new() };
            reasons.push(format!("in the zip: {name}{more} in the {which} only"));
        }
    }
    let both = || a.members().iter().filter_map(|(name, member)| Some((name, member, b.members().get(name)?)));
    let read = |zip: &Zip<'_>, name: &str| zip.read(name, LONGEST_MEMBER).unwrap_or_default();
    let changed = both().find_map(|(name, ..)| {
        let (one, other) = (read(&a, name), read(&b, name));
        (one != other).then_some((name, one, other))
    });
    if let Some((name, one, other)) = changed {
        reasons.extend(within(&format!("the zip, {name}"), reason::of(&one.into(), &other.into(), name, sides, false)?));
    }
    let times = both().map(|(name, one, other)| (name, Member::time(one), Member::time(other)));
    if let Some((name, one, other)) = times.into_iter().find(|(_, one, other)| one != other) {
        reasons.push(format!("in the zip: {name} carries another time, {one} and {other}"));
    }
    let common = |zip: &Zip<'_>| -> Vec<String> {
        let is_common = |name: &&String| a.members().contains_key(*name) && b.members().contains_key(*name);
        zip.order().iter().filter(is_common).cloned().collect()
    };
    if common(&a) != common(&b) {
        reasons.push("in the zip: the members stand in another order".to_owned());
    }
    if reasons.is_empty() {
        reasons.push("a zip of the same files, made by another program, with other attributes or at another level".to_owned());
    }
    Ok(Some(reasons))
}

fn within(what: &str, reasons: Vec<String>) -> Vec<String> {
    reasons.into_iter().map(|reason| format!("inside {what}: {reason}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::zip::tests::zip;
    use std::io::Write as _;

    fn reasons(one: &[u8], other: &[u8]) -> Vec<String> {
        of(&one.to_vec().into(), &other.to_vec().into(), &Sides::default()).unwrap().unwrap()
    }

    fn gzip(time: u32, content: &[u8]) -> Vec<u8> {
        let mut gz = flate2::GzBuilder::new().mtime(time).write(Vec::new(), flate2::Compression::fast());
        gz.write_all(content).unwrap();
        gz.finish().unwrap()
    }

    fn xz(content: &[u8]) -> Vec<u8> {
        let mut xz = xz2::write::XzEncoder::new(Vec::new(), 1);
        xz.write_all(content).unwrap();
        xz.finish().unwrap()
    }

    #[test]
    fn of_packed_files_the_header_is_told_and_the_content() {
        let said = reasons(&gzip(1_700_000_000, b"one"), &gzip(1_700_000_100, b"two"));
        assert!(said[0].contains("the time of packing: 2023") && said[1].starts_with("inside gzip: line 1"), "{said:?}");
        assert_eq!(reasons(&gzip(0, b"x"), &gzip(1_700_000_100, b"x")).len(), 1);
        assert!(reasons(&xz(b"one\n"), &xz(b"two\n"))[0].starts_with("inside xz: line 1"));
        assert!(of(&xz(b"one\n").into(), &gzip(0, b"one\n").into(), &Sides::default()).unwrap().is_none());
    }

    #[test]
    fn of_zips_names_contents_and_order_are_told_however_deep_they_are() {
        let one = zip(&[("META-INF/MANIFEST.MF", "Created: 1700000000\n"), ("x.class", "x")]);
        let other = zip(&[("META-INF/MANIFEST.MF", "Created: 1700000100\n"), ("x.class", "x")]);
        let said = reasons(&one, &other).join("\n");
        assert!(said.starts_with("inside the zip, META-INF/MANIFEST.MF: line 1: \"Created: 17"), "{said}");
        assert!(said.contains("these are times: 2023"), "{said}");
        let said = reasons(&one, &zip(&[("x.class", "x"), ("y.class", "y"), ("z.class", "z")]));
        assert_eq!(
            said,
            ["in the zip: META-INF/MANIFEST.MF in the first only", "in the zip: y.class and 1 more in the second only"]
        );
        let said = reasons(&zip(&[("a", "1"), ("b", "2")]), &zip(&[("b", "2"), ("a", "1")]));
        assert_eq!(said, ["in the zip: the members stand in another order"]);
        // A gzip of a zip.
        let said = reasons(&gzip(0, &one), &gzip(0, &other)).join("\n");
        assert!(said.starts_with("inside gzip: inside the zip, META-INF/MANIFEST.MF: line 1"), "{said}");
    }

    #[test]
    fn the_time_of_a_members_file_is_told() {
        let made = |minute: u8| {
            let mut zip = Vec::new();
            let mut archive = rawzip::ZipArchiveWriter::new(&mut zip);
            let path = rawzip::path::EntryPath::verbatim(b"a".to_vec());
            let time = rawzip::time::UtcDateTime::from_components(2024, 5, 6, 7, minute, 8, 0).unwrap();
            let (mut entry, config) = archive.new_file(path).last_modified(time).start().unwrap();
            let mut writer = config.wrap(&mut entry);
            writer.write_all(b"same").unwrap();
            let (_, descriptor) = writer.finish().unwrap();
            entry.finish(descriptor).unwrap();
            archive.finish().unwrap();
            zip
        };
        let said = reasons(&made(1), &made(2));
        assert_eq!(said.len(), 1, "{said:?}");
        assert!(said[0].starts_with("in the zip: a carries another time, 2024-05-06T07:01:08"), "{said:?}");
    }
}
