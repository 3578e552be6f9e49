//! What two pieces of text look like that should be the same: times, numbers of jobs or users, the same in another order, random.
//!
//! Promises: hints, not findings; each says what the difference would be if it were that. None is better than a wrong one.

use super::Sides;
use jiff::Timestamp;
use std::collections::BTreeSet;

/// Times from 2000 on, in seconds since 1970, look like times.
const OLDEST: i64 = 946_684_800;

/// No shorter word looks random, in characters.
const SHORTEST_RANDOM: usize = 8;

/// What the difference looks like, if anything.
pub fn of(one: &str, other: &str, sides: &Sides) -> Option<String> {
    numbers(one, other, sides).or_else(|| modules(one, other)).or_else(|| order(one, other)).or_else(|| random(one, other))
}

/// The same lines, or the same words, in another order.
pub fn order(one: &str, other: &str) -> Option<String> {
    fn sorted<'a>(parts: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
        let mut parts: Vec<_> = parts.collect();
        parts.sort_unstable();
        parts
    }
    fn words(text: &str) -> Vec<&str> {
        sorted(text.split([' ', '\t', ',', ':', ';']))
    }
    let is_same = |a: &[&str], b: &[&str]| a.len() > 1 && a == b;
    let what = if is_same(&sorted(one.lines()), &sorted(other.lines())) {
        "lines"
    } else if !one.contains('\n') && is_same(&words(one), &words(other)) {
        "words"
    } else {
        return None;
    };
    Some(format!(
        "the same {what} in another order: that in which a folder's names are read, jobs end that run side by side, or a map gives what is in it"
    ))
}

/// What the first numbers that differ look like.
fn numbers(one: &str, other: &str, sides: &Sides) -> Option<String> {
    // Digits among letters of a hash are no number.
    let numbers = |text: &str| -> Vec<i64> {
        let words = words(text).filter(|word| !(is_hex(word) && word.bytes().any(|byte| byte.is_ascii_alphabetic())));
        let digits = words.flat_map(|word| word.split(|c: char| !c.is_ascii_digit()));
        digits.filter_map(|digits| digits.parse().ok()).collect()
    };
    let (a, b) = numbers(one).into_iter().zip(numbers(other)).find(|(a, b)| a != b)?;
    let are = |pair: Option<(i64, i64)>| pair == Some((a, b));
    if are(sides.users) {
        return Some(format!("these are the numbers of who built it: {a} and {b}"));
    }
    if are(sides.jobs) {
        return Some(format!("these are the numbers of jobs that were run at once: {a} and {b}"));
    }
    let now = Timestamp::now().as_second();
    let scale = |number: i64| {
        [1, 1_000, 1_000_000, 1_000_000_000].into_iter().find(|unit| (OLDEST..=now + 1).contains(&(number / unit)))
    };
    let (unit, other_unit) = (scale(a)?, scale(b)?);
    let time = |number: i64| Timestamp::from_second(number / unit).map_or_else(|_| number.to_string(), |time| time.to_string());
    (unit == other_unit).then(|| format!("these are times: {} and {}", time(a), time(b)))
}

/// The numbers that webpack gives to modules, by the paths that they are asked for by.
fn modules(one: &str, other: &str) -> Option<String> {
    // What all pieces of such pages begin with.
    let is_piece = |text: &str| text.contains("webpackChunk") || text.contains("__webpack_require__");
    if !is_piece(one) || !is_piece(other) {
        return None;
    }
    let at = one.bytes().zip(other.bytes()).take_while(|(a, b)| a == b).count();
    let begin = one[..one.floor_char_boundary(at)].trim_end_matches(|c: char| c.is_ascii_digit()).len();
    let is_number = |text: &str| {
        let rest = text.get(begin..).unwrap_or_default();
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        digits > 0 && rest[digits..].starts_with([':', ')', ','])
    };
    (is_number(one) && is_number(other)).then(|| {
        "these are webpack's numbers of modules: a path by which one is asked for, or the query of a loader in it, holds a folder of the build"
            .to_owned()
    })
}

/// The words of a text, as hashes and the like are words.
fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !c.is_ascii_alphanumeric() && c != '-')
}

/// Whether a word may be a hash or something random.
fn is_hex(word: &str) -> bool {
    word.len() >= SHORTEST_RANDOM && word.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-')
}

/// Words of as many hexadecimal digits that have nothing in common.
fn random(one: &str, other: &str) -> Option<String> {
    let (a, b) = words(one).zip(words(other)).find(|(a, b)| a != b)?;
    let varied = |word: &str| word.bytes().collect::<BTreeSet<_>>().len() > SHORTEST_RANDOM / 2;
    let same = a.bytes().zip(b.bytes()).filter(|(a, b)| a == b).count();
    let alike = a.len() == b.len() && same * 2 < a.len();
    (is_hex(a) && is_hex(b) && alike && varied(a) && varied(b))
        .then(|| "these look random, or like hashes of something that differs".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hint(one: &str, other: &str) -> String {
        let sides = Sides { jobs: Some((2, 3)), users: Some((0, 64_124)), ..Sides::default() };
        of(one, other, &sides).unwrap_or_default()
    }

    #[test]
    fn what_a_difference_looks_like_is_told_and_nothing_else() {
        assert!(hint("at 1700000000", "at 1700000100").contains("these are times: 2023-11-14"));
        assert!(hint("made with -j2", "made with -j3").contains("jobs that were run at once: 2 and 3"));
        assert!(hint("uid 0", "uid 64124").contains("who built it: 0 and 64124"));
        assert!(hint("a b c", "c a b").contains("the same words in another order"));
        assert!(hint("a\nb\n", "b\na\n").contains("the same lines in another order"));
        let uuids = ["id 3f2504e0-4f89-11d3-9a0c-0305e82c3301", "id 8b7d21a4-90ce-4c2f-b1f7-77aa10d94e5b"];
        assert!(hint(uuids[0], uuids[1]).contains("random"));
        // Two that begin with digits that would mean something else if they stood alone.
        let hashes = ["2a9f04c1b7d85e63 -", "3b70d5e2f8c1a946 -"];
        assert!(hint(hashes[0], hashes[1]).contains("random"), "{}", hint(hashes[0], hashes[1]));
        let piece =
            |number: u32| format!("(self.webpackChunkx=self.webpackChunkx||[]).push([[4],{{{number}:n=>{{n.exports=1}}}}])");
        assert!(hint(&piece(54_124), &piece(54_807)).contains("webpack's numbers of modules"));
        assert_eq!(hint(&piece(4), &piece(4).replace("=1", "=2")), "");
        for (one, other) in [("id 17", "id 18"), ("a", "b"), ("deadbeef", "deadbeee"), ("feedback", "yearbook"), ("a b", "a c")]
        {
            assert_eq!(hint(one, other), "", "{one} and {other}");
        }
    }
}
