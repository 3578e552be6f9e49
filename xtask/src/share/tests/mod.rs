//! The shared cache against folders and against a web server that misbehaves.
#![allow(clippy::unwrap_used, reason = "to panic is how a test fails")]

mod faults;
mod web;

use super::block::BLOCK;
use super::remote::Patience;
use super::{Choice, Found, Mode, Name, Place, Share, Uploads};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Longer than any test may take.
const LONG: Duration = Duration::from_secs(120);

/// A shared cache with what it has said.
struct Client {
    share: Share,
    said: Arc<Mutex<Vec<String>>>,
}

impl Client {
    fn open(place: &Place, mode: Mode) -> Self {
        Self::open_patiently(place, mode, &Patience { pause: Duration::from_millis(5), ..Patience::default() })
    }

    fn open_patiently(place: &Place, mode: Mode, patience: &Patience) -> Self {
        let said = Arc::new(Mutex::new(Vec::new()));
        let ours = Arc::clone(&said);
        let share = Share::open_patiently(place, mode, patience, move |text| ours.lock().unwrap().push(text.to_owned()));
        Self { share: share.unwrap_or_else(|| panic!("{:?}", said.lock().unwrap())), said }
    }

    /// Puts a result there and waits for it.
    fn put(&self, name: &Name, bytes: &[u8]) -> Uploads {
        let bytes = bytes.to_owned();
        self.share.put(name.clone(), move |out| Ok(out.write_all(&bytes)?));
        self.share.finish(LONG, |_| true)
    }

    fn find(&self, name: &Name) -> Option<Found> {
        self.share.find(std::slice::from_ref(name)).remove(0)
    }

    fn get(&self, name: &Name) -> Option<Vec<u8>> {
        self.take(&self.find(name)?)
    }

    fn take(&self, found: &Found) -> Option<Vec<u8>> {
        self.share.get(found, |stream| {
            let mut bytes = Vec::new();
            stream.read_to_end(&mut bytes)?;
            Ok(bytes)
        })
    }

    fn said(&self) -> Vec<String> {
        self.said.lock().unwrap().clone()
    }
}

fn name(key: &str) -> Name {
    Name { component: "thing".into(), slot: "collect".into(), key: key.repeat(64) }
}

/// Bytes that cannot be compressed; every seed gives others.
fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        bytes.extend_from_slice(&next());
    }
    bytes.truncate(length);
    bytes
}

fn files(root: &Path) -> Vec<PathBuf> {
    let all = walkdir::WalkDir::new(root).sort_by_file_name().into_iter().flatten();
    all.filter(|entry| entry.file_type().is_file()).map(walkdir::DirEntry::into_path).collect()
}

/// A folder whose name has a blank.
fn folder() -> (tempfile::TempDir, Place) {
    let folder = tempfile::Builder::new().prefix("a shared folder ").tempdir().unwrap();
    let place = Place::Folder(folder.path().join("the cache"));
    (folder, place)
}

#[test]
fn what_one_puts_there_another_gets_and_nothing_is_sent_twice() {
    let (outer, place) = folder();
    let one = Client::open(&place, Mode::ReadWrite);
    for (key, length) in [("1", 1), ("2", BLOCK), ("3", 5 * BLOCK + 7)] {
        let bytes = noise(length as u64, length);
        assert!(one.find(&name(key)).is_none());
        let before = one.share.finish(LONG, |_| true);
        let after = one.put(&name(key), &bytes);
        assert_eq!((after.done, after.waiting), (before.done + 1, 0), "{:?}", one.said());
        let other = Client::open(&place, Mode::ReadOnly);
        let found = other.find(&name(key)).unwrap();
        assert!(found.size() >= length as u64);
        assert!(other.take(&found).unwrap() == bytes);
        assert!(other.said().is_empty(), "{:?}", other.said());
    }
    let again = Client::open(&place, Mode::ReadWrite);
    assert_eq!(again.put(&name("3"), &noise(5 * BLOCK as u64 + 7, 5 * BLOCK + 7)), Uploads::default());
    let same_content = again.put(&name("4"), &noise(5 * BLOCK as u64 + 7, 5 * BLOCK + 7));
    assert!(same_content.done == 1 && same_content.bytes < 4000, "{same_content:?}");
    let names: Vec<_> = ["1", "5", "3", "4"].map(name).into();
    let found: Vec<_> = again.share.find(&names).iter().map(Option::is_some).collect();
    assert_eq!(found, [true, false, true, true]);
    assert!(files(outer.path()).iter().all(|path| !path.to_string_lossy().contains('#')), "nothing unfinished is left");
}

#[test]
fn folders_that_a_team_may_write_to_stay_so() {
    let (outer, _) = folder();
    std::fs::set_permissions(outer.path(), std::fs::Permissions::from_mode(0o2775)).unwrap();
    let place = Place::Folder(outer.path().to_owned());
    Client::open(&place, Mode::ReadWrite).put(&name("1"), b"x");
    for entry in walkdir::WalkDir::new(outer.path()).into_iter().flatten().filter(|entry| entry.file_type().is_dir()) {
        let mode = entry.metadata().unwrap().permissions().mode() & 0o7777;
        assert_eq!(mode, 0o2775, "{}", entry.path().display());
    }
}

#[test]
fn read_only_writes_nothing_not_even_the_folder() {
    let (outer, place) = folder();
    let said = Arc::new(Mutex::new(Vec::new()));
    let ours = Arc::clone(&said);
    assert!(Share::open(&place, Mode::ReadOnly, move |text| ours.lock().unwrap().push(text.to_owned())).is_none());
    assert!(said.lock().unwrap()[0].contains("there is no such folder"), "{said:?}");
    assert!(!outer.path().join("the cache").exists());
    std::fs::create_dir(outer.path().join("the cache")).unwrap();
    let client = Client::open(&place, Mode::ReadOnly);
    assert!(!client.share.writes());
    assert_eq!(client.put(&name("1"), b"x"), Uploads::default());
    assert!(files(outer.path()).is_empty() && client.said().is_empty());
}

#[test]
fn what_was_damaged_is_named_ignored_and_replaced_by_the_next_upload() {
    let bytes = noise(1, 2 * BLOCK);
    for damage in ["flip", "cut", "empty", "longer", "gone"] {
        for part in ["blocks", "results"] {
            let (outer, place) = folder();
            Client::open(&place, Mode::ReadWrite).put(&name("1"), &bytes);
            let victim = files(&outer.path().join("the cache/v1").join(part)).remove(0);
            let mut content = std::fs::read(&victim).unwrap();
            let middle = content.len() / 2;
            match damage {
                "flip" => content[middle] ^= 4,
                "cut" => content.truncate(middle),
                "empty" => content.clear(),
                "longer" => content.push(0),
                _ => std::fs::remove_file(&victim).unwrap(),
            }
            if damage != "gone" {
                std::fs::write(&victim, content).unwrap();
            }
            let reader = Client::open(&place, Mode::ReadOnly);
            assert!(reader.get(&name("1")).is_none(), "{damage} of {part}");
            let writer = Client::open(&place, Mode::ReadWrite);
            assert!(writer.get(&name("1")).is_none());
            let said = writer.said();
            if part == "results" && damage == "gone" {
                assert!(said.is_empty(), "{said:?}");
            } else {
                let file = victim.file_name().unwrap().to_string_lossy().into_owned();
                let named = said.len() == 1 && said[0].contains("thing") && (part == "results" || said[0].contains(&file));
                assert!(named && said[0].contains("ignored"), "{damage} of {part}: {said:?}");
            }
            assert_eq!(writer.put(&name("1"), &bytes).done, 1);
            assert!(Client::open(&place, Mode::ReadOnly).get(&name("1")).unwrap() == bytes, "{damage} of {part}");
        }
    }
}

#[test]
fn what_the_taker_refuses_is_ignored_and_said() {
    let (_outer, place) = folder();
    let client = Client::open(&place, Mode::ReadWrite);
    client.put(&name("1"), b"x");
    let found = client.find(&name("1")).unwrap();
    let taken: Option<()> = client.share.get(&found, |_| anyhow::bail!("cannot take it: it is another one"));
    assert!(taken.is_none() && client.said()[0].contains("it is another one"), "{:?}", client.said());
    assert_eq!(client.put(&name("1"), b"better").done, 2);
    assert_eq!(client.get(&name("1")).unwrap(), b"better");
}

#[test]
fn two_writers_at_once_leave_one_good_result() {
    let (_outer, place) = folder();
    let bytes = noise(3, 3 * BLOCK + 1);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let client = Client::open(&place, Mode::ReadWrite);
                client.put(&name("1"), &bytes);
                assert!(client.said().is_empty(), "{:?}", client.said());
            });
        }
    });
    assert!(Client::open(&place, Mode::ReadOnly).get(&name("1")).unwrap() == bytes);
}

#[test]
fn an_upload_that_cannot_be_written_leaves_no_record() {
    let (outer, place) = folder();
    let client = Client::open(&place, Mode::ReadWrite);
    let head = noise(1, BLOCK);
    client.share.put(name("1"), move |out| {
        out.write_all(&head)?;
        anyhow::bail!("cannot read the rest")
    });
    client.share.finish(LONG, |_| true);
    assert!(client.said()[0].contains("cannot read the rest"), "{:?}", client.said());
    assert!(files(&outer.path().join("the cache/v1/results")).is_empty());
    assert!(client.find(&name("1")).is_none());
}

#[test]
fn flags_come_before_the_environment_and_mistakes_are_named() {
    let choose = |flag: Option<&str>, mode: Option<Mode>, place: &str, said_mode: &str| {
        let (place, said_mode) = (place.to_owned(), said_mode.to_owned());
        Choice::make(flag, mode, move |name| match name {
            super::PLACE_VARIABLE => Some(place.clone().into()),
            super::MODE_VARIABLE => Some(said_mode.clone().into()),
            _ => None,
        })
    };
    assert!(matches!(choose(None, None, "", "").unwrap(), Choice::Off));
    assert!(matches!(choose(Some("off"), None, "/x", "").unwrap(), Choice::Off));
    assert!(
        matches!(choose(None, None, "/x", "").unwrap(), Choice::On(Place::Folder(path), Mode::ReadWrite) if path == Path::new("/x"))
    );
    assert!(
        matches!(choose(Some("/y"), None, "/x", "read-only").unwrap(), Choice::On(Place::Folder(path), Mode::ReadOnly) if path == Path::new("/y"))
    );
    assert!(matches!(choose(None, Some(Mode::ReadWrite), "/x", "read-only").unwrap(), Choice::On(_, Mode::ReadWrite)));
    let error = choose(None, None, "/x", "readonly").unwrap_err();
    assert!(error.to_string().contains("DKUMONITOR_CACHE_MODE is \"readonly\""), "{error}");
    let error = choose(None, None, "ftp://x", "").unwrap_err();
    assert!(error.to_string().contains("DKUMONITOR_CACHE: ftp://"), "{error}");
    assert_eq!(crate::error::kind_of(&error), crate::error::Kind::Usage);
}

#[test]
fn without_the_feature_the_flag_is_a_mistake_and_the_variable_a_warning() {
    let make = |flag, place: &'static str| Choice::make_as(false, flag, None, move |_| Some(place.into()));
    let error = make(Some("/x"), "").unwrap_err();
    assert!(error.to_string().contains("--cache") && error.to_string().contains("cargo xtask-shared"), "{error}");
    assert_eq!(crate::error::kind_of(&error), crate::error::Kind::Usage);
    assert!(matches!(make(None, "/x").unwrap(), Choice::Ignored(why) if why.contains("DKUMONITOR_CACHE asks")));
    assert!(matches!(make(Some("off"), "/x").unwrap(), Choice::Off));
    assert!(matches!(make(None, "").unwrap(), Choice::Off));
}

/// For kinds of place that no test can bring along: `DKUMONITOR_CACHE=gs://… cargo test … -- --ignored a_place_of_your_own`.
#[test]
#[ignore = "needs a place of your own, named by DKUMONITOR_CACHE"]
fn a_place_of_your_own_serves() {
    let text = std::env::var(super::PLACE_VARIABLE).unwrap();
    let place = Place::parse(&text, super::PLACE_VARIABLE).unwrap();
    let time = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos();
    let name = Name { key: format!("{time:064x}"), ..name("0") };
    let bytes = noise(u64::try_from(time).unwrap(), 9 * BLOCK + 1);
    let writer = Client::open(&place, Mode::ReadWrite);
    assert!(writer.find(&name).is_none());
    let sent = writer.put(&name, &bytes);
    assert!(sent.done == 1 && sent.bytes > bytes.len() as u64, "{sent:?} {:?}", writer.said());
    let reader = Client::open(&place, Mode::ReadOnly);
    assert!(reader.get(&name).unwrap() == bytes, "{:?}", reader.said());
    assert_eq!(Client::open(&place, Mode::ReadWrite).put(&name, &bytes), Uploads::default());
    assert!(writer.said().is_empty() && reader.said().is_empty(), "{:?} {:?}", writer.said(), reader.said());
}
