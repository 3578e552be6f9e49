//! The definitions of services in `conf/services.d`, read with everything that is wrong with them.
//!
//! Each file is one service; those that the installer made and the user's own are read alike. A file that cannot be used takes no other
//! one down: [`read`] gives the good ones in the order of their starts and a [`Fault`] for everything else. All faults of all files
//! are found at once, with line and column where there is one: what is found wrong in a file is taken out and the rest is looked at
//! again.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde::Deserialize;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::home::Home;
use crate::service::{Question, Service};
use crate::supervise::probe;

/// More faults of one file are not told: they come from one mistake.
const MOST: usize = 20;

/// What `conf/services.d` says.
#[derive(Clone, Debug, Default)]
pub struct Definitions {
    /// The usable ones, each after those that it waits for.
    pub services: Vec<Service>,
    /// What is wrong with the others, by file and line.
    pub faults: Vec<Fault>,
}

/// One thing that is wrong with a definition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The service, by the name of its file where the file does not say.
    pub service: String,
    /// The file.
    pub path: PathBuf,
    /// Line and column, from 1, where it is about a place.
    pub place: Option<(usize, usize)>,
    /// What is wrong, and what may be meant.
    pub message: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot use {}", self.path.display())?;
        if let Some((line, column)) = self.place {
            write!(f, ", line {line}, column {column}")?;
        }
        write!(f, ": {}", self.message)
    }
}

/// One file that was read.
struct Read {
    service: Service,
    path: PathBuf,
}

impl Read {
    fn fault(&self, message: String) -> Fault {
        Fault { service: self.service.name.clone(), path: self.path.clone(), place: None, message }
    }
}

/// Reads every `*.toml` of a folder.
///
/// # Errors
/// When the folder itself cannot be read.
pub fn read(folder: &Path) -> Result<Definitions> {
    let entries = fs::read_dir(folder).and_then(Iterator::collect::<std::io::Result<Vec<_>>>);
    let entries = entries.with_context(|| format!("cannot read the services in {}", folder.display()))?;
    let mut paths: Vec<PathBuf> = entries.into_iter().map(|entry| entry.path()).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "toml"));
    paths.sort();
    let mut good: Vec<Read> = Vec::new();
    let mut faults = Vec::new();
    for path in paths {
        match read_file(&path) {
            Ok(service) => good.push(Read { service, path }),
            Err(mut found) => faults.append(&mut found),
        }
    }
    refuse(&mut good, &mut faults, twice);
    let broken: Vec<String> = faults.iter().map(|fault| fault.service.clone()).collect();
    refuse(&mut good, &mut faults, |read, all| missing(read, all, &broken));
    if order(&good).len() < good.len() {
        refuse(&mut good, &mut faults, circle);
    }
    let mut ranks: Vec<usize> = vec![0; good.len()];
    order(&good).into_iter().enumerate().for_each(|(rank, at)| ranks[at] = rank);
    let mut services: Vec<(usize, Service)> = ranks.into_iter().zip(good.into_iter().map(|read| read.service)).collect();
    services.sort_unstable_by_key(|(rank, _)| *rank);
    Ok(Definitions { services: services.into_iter().map(|(_, service)| service).collect(), faults })
}

/// Moves what `wrong` finds a fault of to the faults.
fn refuse(good: &mut Vec<Read>, faults: &mut Vec<Fault>, wrong: impl Fn(&Read, &[Read]) -> Option<String>) {
    let messages: Vec<Option<String>> = good.iter().map(|read| wrong(read, good)).collect();
    let mut messages = messages.into_iter();
    good.retain(|read| match messages.next().flatten() {
        Some(message) => {
            faults.push(read.fault(message));
            false
        }
        None => true,
    });
}

/// A name that another file has too; the first file by name keeps it.
fn twice(read: &Read, all: &[Read]) -> Option<String> {
    let service = &read.service;
    let names = || std::iter::once(&service.name).chain(&service.aliases);
    all.iter().take_while(|other| other.path != read.path).find_map(|other| {
        let name = names().find(|name| other.service.name == **name || other.service.aliases.contains(name))?;
        Some(format!("the name {name} is taken by {}", other.path.display()))
    })
}

/// A service that it cannot do without, and that nobody defines.
fn missing(read: &Read, all: &[Read], broken: &[String]) -> Option<String> {
    let known = |name: &String| all.iter().any(|other| other.service.name == *name) || broken.contains(name);
    let name = read.service.requires.iter().find(|name| !known(name))?;
    let names = all.iter().map(|other| other.service.name.as_str()).filter(|other| *other != read.service.name);
    let hint = nearest(name, names).map_or_else(String::new, |near| format!(": did you mean \"{near}\"?"));
    Some(format!("it requires \"{}\", and there is no such service{hint}", name.escape_debug()))
}

/// A circle of services that wait for each other, by their names.
fn circle(read: &Read, all: &[Read]) -> Option<String> {
    let start = read.service.name.as_str();
    // Breadth first, so that the shortest way back is told.
    let mut ways = vec![vec![start]];
    let mut seen = vec![start];
    let mut at = 0;
    while at < ways.len() {
        let way = ways[at].clone();
        let last = way.last().copied()?;
        let service = &all.iter().find(|other| other.service.name == last)?.service;
        for next in service.waits_for() {
            if next == start {
                let names: Vec<&str> = way.iter().copied().chain([start]).collect();
                return Some(format!("services wait for each other by `after` or `requires`: {}", names.join(" → ")));
            }
            if !seen.contains(&next) && all.iter().any(|other| other.service.name == next) {
                seen.push(next);
                ways.push(way.iter().copied().chain([next]).collect());
            }
        }
        at += 1;
    }
    None
}

/// The places of services in an order in which each comes after what it waits for, alphabetical where that leaves a choice. Those
/// in a circle, and those after one, are missing.
fn order(all: &[Read]) -> Vec<usize> {
    let places: BTreeMap<&str, usize> = all.iter().enumerate().map(|(at, read)| (read.service.name.as_str(), at)).collect();
    let mut followers: Vec<Vec<usize>> = vec![Vec::new(); all.len()];
    let mut waits: Vec<usize> = vec![0; all.len()];
    for (at, read) in all.iter().enumerate() {
        for before in read.service.waits_for().filter_map(|name| places.get(name)) {
            followers[*before].push(at);
            waits[at] += 1;
        }
    }
    let mut free: BTreeSet<usize> = (0..all.len()).filter(|&at| waits[at] == 0).collect();
    let mut out = Vec::with_capacity(all.len());
    while let Some(at) = free.pop_first() {
        out.push(at);
        for &follower in &followers[at] {
            waits[follower] -= 1;
            if waits[follower] == 0 {
                free.insert(follower);
            }
        }
    }
    out
}

fn read_file(path: &Path) -> Result<Service, Vec<Fault>> {
    let stem = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let fault = |place, message: String| Fault { service: stem.clone(), path: path.to_owned(), place, message };
    let text = fs::read_to_string(path).map_err(|error| vec![fault(None, format!("it cannot be read: {error}"))])?;
    let (table, errors) = DeTable::parse_recoverable(&text);
    let place = |span: Option<Range<usize>>| span.map(|span| position(&text, span.start));
    if !errors.is_empty() {
        let told = errors.iter().take(MOST);
        return Err(told.map(|error| fault(place(error.span()), error.message().to_owned())).collect());
    }
    let mut service = understand(table).map_err(|mut found| {
        found.sort_by_key(|(span, _)| span.as_ref().map(|span| span.start));
        found.into_iter().map(|(span, message)| fault(place(span), message)).collect::<Vec<_>>()
    })?;
    if service.name.is_empty() {
        service.name.clone_from(&stem);
    }
    match check(&service) {
        Ok(()) => Ok(service),
        Err(error) => Err(vec![Fault { service: service.name, ..fault(None, format!("{error:#}")) }]),
    }
}

/// What is wrong, and where in the text.
type Wrong = (Option<Range<usize>>, String);

/// Reads a definition; or everything that is wrong with it. What is wrong is taken out, so that the rest can be looked at.
fn understand(mut table: Spanned<DeTable<'_>>) -> Result<Service, Vec<Wrong>> {
    let mut wrong: Vec<Wrong> = Vec::new();
    loop {
        let error = match Service::deserialize(toml::de::Deserializer::from(table.clone())) {
            Ok(service) if wrong.is_empty() => return Ok(service),
            Ok(_) => return Err(wrong),
            Err(error) => error,
        };
        let taken_out = error.span().is_some_and(|span| take_out(table.get_mut(), &span));
        // What is missing, or wrong as a whole, may be so because of what was taken out.
        let inside = |part: &Wrong| {
            part.0.as_ref().zip(error.span()).is_some_and(|(part, all)| all.start <= part.start && part.end <= all.end)
        };
        if wrong.is_empty() || taken_out && !wrong.iter().any(inside) {
            wrong.push((error.span(), in_our_words(error.message())));
        }
        if !taken_out || wrong.len() >= MOST {
            return Err(wrong);
        }
    }
}

/// Removes the entry that a span is about, as little as possible; whether there was one.
fn take_out(table: &mut DeTable<'_>, span: &Range<usize>) -> bool {
    let within = |outer: Range<usize>| outer.start <= span.start && span.end <= outer.end;
    let mut key = table.keys().find(|key| within(key.span())).cloned();
    if key.is_none() {
        // The span of a table with a header is that of its header alone: every table is looked into.
        let keys: Vec<_> = table.keys().cloned().collect();
        if keys.iter().any(|key| table.get_mut(key).is_some_and(|value| take_out_of_value(value.get_mut(), span))) {
            return true;
        }
        key = table.iter().find(|(_, value)| within(value.span())).map(|(key, _)| key.clone());
    }
    key.is_some_and(|key| table.remove(&key).is_some())
}

fn take_out_of_value(value: &mut DeValue<'_>, span: &Range<usize>) -> bool {
    match value {
        DeValue::Table(table) => take_out(table, span),
        DeValue::Array(array) => {
            if array.iter_mut().any(|item| take_out_of_value(item.get_mut(), span)) {
                return true;
            }
            let at = array.iter().position(|item| item.span().start <= span.start && span.end <= item.span().end);
            let Some(at) = at else { return false };
            let rest = array.iter().enumerate().filter(|(place, _)| *place != at);
            *array = rest.map(|(_, item)| item.clone()).collect();
            true
        }
        _ => false,
    }
}

/// The parser's words for an unknown key or word, with a hint instead of a list where one is near.
fn in_our_words(message: &str) -> String {
    let mut quoted = message.split('`').skip(1).step_by(2);
    let (is_key, is_word) = (message.starts_with("unknown field"), message.starts_with("unknown variant"));
    let (true, Some(found)) = (is_key || is_word, quoted.next()) else { return message.replace('\n', " ") };
    let known: Vec<&str> = quoted.collect();
    let what = if is_key { "there is no key" } else { "there is no such word here as" };
    match nearest(found, known.iter().copied()) {
        Some(near) => format!("{what} \"{found}\": did you mean \"{near}\"?"),
        None => format!("{what} \"{found}\". There are: {}", known.join(", ")),
    }
}

/// The word that is most like `wrong`, if any is.
fn nearest<'a>(wrong: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let limit = (wrong.chars().count() / 3).clamp(1, 3);
    known.map(|word| (distance(wrong, word), word)).filter(|(distance, _)| *distance <= limit).min().map(|(_, word)| word)
}

/// How many letters have to be changed, added, left out, or exchanged with their neighbour to make one word of the other.
fn distance(one: &str, other: &str) -> usize {
    let (one, other): (Vec<char>, Vec<char>) = (one.chars().collect(), other.chars().collect());
    let mut rows: Vec<Vec<usize>> = vec![(0..=other.len()).collect()];
    for i in 1..=one.len() {
        let mut row = vec![i];
        for j in 1..=other.len() {
            let same = usize::from(one[i - 1] != other[j - 1]);
            let mut best = (rows[i - 1][j - 1] + same).min(rows[i - 1][j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && one[i - 1] == other[j - 2] && one[i - 2] == other[j - 1] {
                best = best.min(rows[i - 2][j - 2] + 1);
            }
            row.push(best);
        }
        rows.push(row);
    }
    rows[one.len()][other.len()]
}

/// Line and column, from 1, of a place in a text.
fn position(text: &str, at: usize) -> (usize, usize) {
    let before = text.get(..at).unwrap_or(text);
    let line = before.matches('\n').count() + 1;
    (line, before.rsplit('\n').next().unwrap_or_default().chars().count() + 1)
}

/// What a definition that is read by the supervisor has to be beyond its form.
fn check(service: &Service) -> Result<()> {
    service.validate()?;
    let health = service.health.iter().map(|health| &health.probe);
    let programs = service.probes.iter().chain(health).filter_map(|probe| match &probe.question {
        Question::Exec(command) => command.first(),
        _ => None,
    });
    for program in service.command.first().into_iter().chain(programs) {
        anyhow::ensure!(Path::new(program).is_absolute(), "the program \"{program}\" is not an absolute path");
    }
    for port in &service.ports {
        port.number()?;
        crate::ports::parse_address(&port.address)?;
    }
    probe::check(service)
}

impl Home {
    /// The services of `conf/services.d`, sorted so that each comes after those it waits for, and what is wrong with others.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub fn definitions(&self) -> Result<Definitions> {
        read(&self.root().join("conf/services.d"))
    }

    /// The services of `conf/services.d`, if nothing is wrong with any.
    ///
    /// # Errors
    /// All that is wrong with them at once, with file, line and column where there is one.
    pub fn services(&self) -> Result<Vec<Service>> {
        let Definitions { services, faults } = self.definitions()?;
        if !faults.is_empty() {
            let faults: Vec<String> = faults.iter().map(ToString::to_string).collect();
            bail!("cannot use the services:\n  {}", faults.join("\n  "));
        }
        Ok(services)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_all(files: &[(&str, &str)]) -> Definitions {
        let temp = tempfile::tempdir().unwrap();
        for (name, text) in files {
            fs::write(temp.path().join(name), text).unwrap();
        }
        read(temp.path()).unwrap()
    }

    fn faults(files: &[(&str, &str)]) -> Vec<String> {
        let told = |fault: &Fault| format!("{} {:?} {}", fault.service, fault.place, fault.message);
        read_all(files).faults.iter().map(told).collect()
    }

    #[test]
    fn everything_wrong_is_told_at_once_with_its_place_and_a_hint() {
        let text = "command = [\"/bin/x\"]\nstop-sginal = \"SIGTERM\"\nprobes = [{ tpc = \"a:1\" }, { tcp = \"127.0.0.1:1\" }]\n\
                    umask = 7\nrestart = \"allways\"\nxyzzy = 1\n[limits]\nnofiles = 3\n";
        let found = faults(&[("a.toml", text), ("b.toml", "command = [\n"), ("c.toml", "command = [\"/bin/x\"]\n")]);
        for wanted in [
            "a Some((2, 1)) there is no key \"stop-sginal\": did you mean \"stop-signal\"?",
            "a Some((3, 13)) there is no key \"tpc\": did you mean \"tcp\"?",
            "a Some((4, 9)) ",
            "a Some((5, 11)) there is no such word here as \"allways\": did you mean \"always\"?",
            "a Some((6, 1)) there is no key \"xyzzy\". There are: name, ",
            "did you mean \"nofile\"?",
        ] {
            assert!(found.iter().any(|fault| fault.contains(wanted)), "{wanted} is not in {found:#?}");
        }
        assert_eq!(found.iter().filter(|fault| fault.starts_with("a ")).count(), 6, "{found:#?}");
        assert!(found.iter().any(|fault| fault.starts_with("b Some((")), "{found:#?}");
        assert!(!found.iter().any(|fault| fault.starts_with("c ")), "{found:#?}");
    }

    #[test]
    fn the_shipped_example_is_good_and_not_enabled() {
        let all = read_all(&[("telegraf.toml", include_str!("../assets/services/telegraf.toml"))]);
        assert_eq!(all.faults, []);
        assert!(!all.services[0].enabled);
    }

    #[test]
    fn what_is_missing_is_told() {
        let found = faults(&[("a.toml", "summary = \"x\"\n")]);
        assert!(found[0].contains("missing field `command`"), "{found:?}");
        let found = faults(&[("a.toml", "command = [\"relative\"]\n")]);
        assert!(found[0].contains("not an absolute path"), "{found:?}");
    }

    #[test]
    fn the_order_follows_after_and_requires() {
        let with = |line: &str| format!("command = [\"/bin/x\"]\n{line}\n");
        let all = read_all(&[
            ("a.toml", &with("after = [\"b\", \"gone\"]")),
            ("b.toml", &with("requires = [\"c\"]")),
            ("c.toml", &with("")),
            ("d.toml", &with("")),
        ]);
        assert_eq!(all.faults, []);
        let names: Vec<&str> = all.services.iter().map(|service| service.name.as_str()).collect();
        assert_eq!(names, ["c", "b", "a", "d"]);
    }

    #[test]
    fn circles_are_named_and_take_nobody_else_down() {
        let with = |line: &str| format!("command = [\"/bin/x\"]\n{line}\n");
        let files = [
            ("a.toml", with("after = [\"b\"]")),
            ("b.toml", with("requires = [\"c\"]")),
            ("c.toml", with("after = [\"a\"]")),
            ("d.toml", with("after = [\"a\"]")),
        ];
        let files: Vec<(&str, &str)> = files.iter().map(|(name, text)| (*name, text.as_str())).collect();
        let all = read_all(&files);
        assert_eq!(all.services.len(), 1, "{:?}", all.faults);
        assert!(all.faults[0].message.ends_with("a → b → c → a"), "{:?}", all.faults);
    }

    #[test]
    fn names_are_given_once_and_what_is_required_has_to_be_there() {
        let found = faults(&[
            ("a.toml", "command = [\"/bin/x\"]\naliases = [\"c\"]\n"),
            ("b.toml", "command = [\"/bin/x\"]\nrequires = [\"go-crabon\"]\n"),
            ("c.toml", "command = [\"/bin/x\"]\n"),
            ("go-carbon.toml", "command = [\"/bin/x\"]\n"),
        ]);
        assert!(found[0].starts_with("c None the name c is taken by") && found[0].ends_with("a.toml"), "{found:?}");
        assert!(found[1].ends_with("no such service: did you mean \"go-carbon\"?"), "{found:?}");
    }

    #[test]
    fn words_that_are_near() {
        assert_eq!(distance("sginal", "signal"), 1);
        assert_eq!(nearest("comand", ["command", "check"].into_iter()), Some("command"));
        assert_eq!(nearest("foo", ["command"].into_iter()), None);
    }
}
