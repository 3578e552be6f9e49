//! A result as one stream: how it gets into another store and out of this one.
//!
//! The stream is a tar: `record.json` first, then `objects/<sha256>` for every object, each once. Whoever carries it need
//! not be trusted with its wholeness: on arrival every object is hashed, the record's own hash and key are checked, and the
//! result is entered only when everything that it names is there. What it names cannot lead out of the store. Whether the
//! sender may be trusted with what the result *is* has to be decided by whoever sets up the exchange: a result is a
//! program that will run.

use super::{Content, ObjectRef, Record, Store};
use crate::error::{Kind, WithKind as _};
use anyhow::Context as _;
use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read, Write};

const RECORD: &str = "record.json";
const OBJECTS: &str = "objects";

/// No record is longer, in bytes.
const LONGEST_RECORD: u64 = 16 * 1024 * 1024;

impl Store {
    /// Writes a result with all of its objects as one stream. The objects are checked first, so that nothing damaged leaves.
    ///
    /// # Errors
    /// When an object is missing or damaged (the result is then thrown away), or `out` cannot be written to.
    pub fn export<W: Write>(&self, record: &Record, out: W) -> anyhow::Result<W> {
        if let Some(why) = self.check(record)? {
            return Err(Kind::Integrity.error(format!("cannot pass on a result of {}: {why}", record.component)));
        }
        let mut tar = tar::Builder::new(out);
        let header = |size: u64| {
            let mut header = tar::Header::new_gnu();
            header.set_mode(0o644);
            header.set_uid(0);
            header.set_gid(0);
            header.set_mtime(0);
            header.set_size(size);
            header
        };
        let text = record.bytes()?;
        tar.append_data(&mut header(text.len() as u64), RECORD, text.as_slice())?;
        let mut sent = BTreeSet::new();
        for object in self.objects_of(record)? {
            if sent.insert(object.sha256.clone()) {
                let path = self.object(&object.sha256);
                let file = File::open(&path).with_context(|| format!("cannot read {}", path.display()))?;
                tar.append_data(&mut header(object.size), format!("{OBJECTS}/{}", object.sha256), file)?;
            }
        }
        Ok(tar.into_inner()?)
    }

    /// Enters a result that [`Self::export`] has written elsewhere, if it is the one that was asked for. `size_limit` bounds
    /// what is taken of the stream, in bytes.
    ///
    /// # Errors
    /// [`Kind::Integrity`] when it is another result, cut short, damaged or incomplete; objects that came whole may stay
    /// until the next [`Self::collect_garbage`], but no result is entered.
    pub fn import(&self, component: &str, slot: &str, key: &str, from: impl Read, size_limit: u64) -> anyhow::Result<Record> {
        let wrong = |why: &str| Kind::Integrity.error(format!("cannot take in a result of {component}: {why}"));
        let mut archive = tar::Archive::new(from.take(size_limit));
        let mut entries = archive.entries()?;
        let unreadable = || "cannot read on in it".to_owned();
        let mut first = entries.next().ok_or_else(|| wrong("nothing came"))?.kind(Kind::Integrity, unreadable)?;
        if first.path_bytes() != RECORD.as_bytes() || first.size() > LONGEST_RECORD {
            return Err(wrong("it does not begin with its record"));
        }
        let mut text = Vec::new();
        first.read_to_end(&mut text).kind(Kind::Integrity, unreadable)?;
        let record = Record::parse(&text).map_err(|why| wrong(&why))?;
        if record.component != component || record.slot != slot || record.chain.key() != key {
            return Err(wrong("it is another one than was asked for"));
        }
        let mut arrived = BTreeSet::new();
        for entry in entries {
            let mut entry = entry.kind(Kind::Integrity, unreadable)?;
            let mut draft = self.draft()?;
            io::copy(&mut entry, &mut draft).kind(Kind::Integrity, unreadable)?;
            // It is named by what it is, whatever the stream calls it; only what the record names is missed below.
            arrived.insert(draft.finish()?.sha256);
        }
        let list = match &record.content {
            Content::Tree { list, .. } => list,
            Content::Delta { pack, .. } => pack,
        };
        let has = |object: &ObjectRef| arrived.contains(&object.sha256) && self.damage(object).is_none();
        if !has(list) || !self.objects_of(&record).kind(Kind::Integrity, || "its list is wrong".to_owned())?.iter().all(has) {
            return Err(wrong("not everything came that its record names"));
        }
        self.seal(&record)?;
        Ok(record)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::{Chain, Parts};
    use std::fs;

    fn result(store: &Store, draft: &std::path::Path) -> Record {
        fs::create_dir_all(draft.join("bin")).unwrap();
        fs::write(draft.join("bin/thing"), "a program").unwrap();
        fs::write(draft.join("bin/same"), "a program").unwrap();
        std::os::unix::fs::symlink("thing", draft.join("bin/link")).unwrap();
        let mut parts = Parts::default();
        parts.add("source", "1");
        store.put_tree(draft, Record::new("thing", "collect", Chain::default().then("unpack", parts))).unwrap()
    }

    #[test]
    fn a_result_arrives_whole_or_not_at_all() {
        let place = tempfile::Builder::new().prefix("a place ").tempdir().unwrap();
        let (here, there) = (Store::at(place.path().join("here")), Store::at(place.path().join("there")));
        let record = result(&here, &place.path().join("draft"));
        let key = record.chain.key();
        let stream = here.export(&record, Vec::new()).unwrap();
        let import = |bytes: &[u8], key: &str| there.import("thing", "collect", key, bytes, 1 << 20);
        assert!(import(&stream, &"0".repeat(64)).unwrap_err().to_string().contains("another one"));
        for at in (0..stream.len()).step_by(97) {
            let mut damaged = stream.clone();
            damaged[at] ^= 1;
            // Only what the format itself does not use, such as padding, may be another.
            if let Ok(taken) = import(&damaged, &key) {
                assert_eq!(taken, record, "byte {at}");
                assert_eq!(there.check(&taken).unwrap(), None);
                there.forget(&taken);
            }
            if let Ok(taken) = import(&stream[..at], &key) {
                assert!(at + 1024 >= stream.len(), "cut at {at}");
                there.forget(&taken);
            }
        }
        assert!(there.find("thing", "collect", &key).unwrap().is_none());
        assert_eq!(import(&stream, &key).unwrap(), record);
        assert_eq!(there.find("thing", "collect", &key).unwrap().as_ref(), Some(&record));
        assert_eq!(there.entries(&record).unwrap(), here.entries(&record).unwrap());
        assert_eq!(there.check(&record).unwrap(), None);
    }

    #[test]
    fn what_is_damaged_is_named_and_thrown_away_and_a_mere_touch_is_not_damage() {
        let place = tempfile::tempdir().unwrap();
        let store = Store::at(place.path().join("store"));
        let record = result(&store, &place.path().join("draft"));
        let object = store.object(&crate::fingerprint::hex(&<sha2::Sha256 as sha2::Digest>::digest("a program")));
        File::open(&object).unwrap().set_modified(std::time::UNIX_EPOCH).unwrap();
        assert_eq!(store.check(&record).unwrap(), None);
        fs::remove_file(&object).unwrap();
        fs::write(&object, "a pr0gram").unwrap();
        let why = store.check(&record).unwrap().unwrap();
        assert!(why.contains("bin/same has other content"), "{why}");
        assert!(!object.exists() && store.find("thing", "collect", &record.chain.key()).unwrap().is_none());
    }

    #[test]
    fn what_no_result_needs_is_thrown_away_and_what_one_needs_is_not() {
        let place = tempfile::tempdir().unwrap();
        let store = Store::at(place.path().join("store"));
        let record = result(&store, &place.path().join("draft"));
        let stray = store.put_bytes(b"nobody needs this").unwrap();
        store.collect_garbage(&BTreeSet::from(["thing"])).unwrap();
        assert!(!store.object(&stray.sha256).exists());
        assert_eq!(store.check(&record).unwrap(), None);
        store.collect_garbage(&BTreeSet::from(["other"])).unwrap();
        assert!(store.find("thing", "collect", &record.chain.key()).unwrap().is_none());
        assert_eq!(walkdir::WalkDir::new(store.objects()).into_iter().flatten().filter(|e| e.file_type().is_file()).count(), 0);
    }
}
