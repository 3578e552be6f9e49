//! Rewrites one entry of `vendor.lock`; whatever else is in the file, comments and order above all, stays as it is.

use crate::error::{Kind, WithKind as _};
use crate::stack::lock::{Lock, Source};
use anyhow::Context as _;
use std::io::Write as _;
use std::path::Path;
use toml_edit::{Array, DocumentMut, Item, Table, Value};

/// Keys that an entry may lack, and the key behind which they are put.
const BEHIND: [(&str, &str); 4] =
    [("size", "sha256"), ("tree-sha256", "size"), ("license-files", "license"), ("license-sha256", "license-files")];

/// The text with the entry of `new`'s name made what `new` says.
///
/// # Errors
/// [`Kind::Usage`] when the text has no such entry in `[[source]]` form.
pub fn rewritten(text: &str, new: &Source) -> anyhow::Result<String> {
    let by_hand = |why: &str| Kind::Usage.error(format!("cannot rewrite the entry \"{}\": {why}; change it by hand", new.name));
    let mut document: DocumentMut = text.parse().map_err(|error: toml_edit::TomlError| by_hand(error.message()))?;
    let sources = document.get_mut("source").and_then(Item::as_array_of_tables_mut);
    let sources = sources.ok_or_else(|| by_hand("the sources are not [[source]] tables"))?;
    let named = |table: &Table| table.get("name").and_then(Item::as_str) == Some(&new.name);
    let at = sources.iter().position(named);
    let entry = at.and_then(|at| sources.get_mut(at)).ok_or_else(|| by_hand("it is not there"))?;
    set(entry, "version", Some(new.version.as_str()));
    set_list(entry, "urls", &new.urls);
    set(entry, "sha256", new.sha256.as_deref());
    set(entry, "size", new.size.and_then(|size| i64::try_from(size).ok()));
    set(entry, "tree-sha256", new.tree_sha256.as_deref());
    let files: Vec<_> = new.license_files.iter().map(|file| file.to_string_lossy().into_owned()).collect();
    set_list(entry, "license-files", &files);
    set(entry, "license-sha256", new.license_sha256.as_deref());
    set(entry, "purl", new.purl.as_deref());
    let text = with_ends_of(text, document.to_string());
    // What cannot be read again must never be written.
    let read = Lock::parse(&text).map_err(|why| by_hand(&format!("it would then be wrong: {why}")))?;
    if read.get(&new.name) != Some(new) {
        return Err(by_hand("its form is not understood"));
    }
    Ok(text)
}

/// The new text with its lines ended as those of the old one are, and its last one ended only if that was: the library that
/// writes it down has a way of its own.
fn with_ends_of(old: &str, mut new: String) -> String {
    if !old.ends_with('\n') && new.ends_with('\n') {
        new.pop();
    }
    let lines = old.matches('\n').count();
    if lines > 0 && old.matches("\r\n").count() == lines {
        new = new.replace("\r\n", "\n").replace('\n', "\r\n");
    }
    new
}

/// Whether comments stand before or in the entry of this name.
pub(super) fn has_comments(text: &str, name: &str) -> bool {
    let Ok(document) = text.parse::<DocumentMut>() else { return false };
    let Some(sources) = document.get("source").and_then(Item::as_array_of_tables) else { return false };
    let entry = sources.iter().find(|table| table.get("name").and_then(Item::as_str) == Some(name));
    let head = |table: &Table| table.decor().prefix().and_then(|prefix| prefix.as_str()).is_some_and(|text| text.contains('#'));
    // No address or hash holds a blank before a number sign.
    entry.is_some_and(|table| head(table) || table.to_string().lines().any(|line| line.starts_with('#') || line.contains(" #")))
}

/// Sets a key; what stands before and behind its value stays. A key without a value is left alone.
fn set(entry: &mut Table, key: &str, value: Option<impl Into<Value>>) {
    let Some(new) = value.map(Into::into) else { return };
    match entry.get_mut(key).and_then(Item::as_value_mut) {
        Some(old) => replace(old, new),
        None => insert(entry, key, new),
    }
}

fn replace(old: &mut Value, mut new: Value) {
    let same = match (&*old, &new) {
        (Value::String(old), Value::String(new)) => old.value() == new.value(),
        (Value::Integer(old), Value::Integer(new)) => old.value() == new.value(),
        _ => false,
    };
    // The same number or text may be spelled in another way.
    if !same {
        *new.decor_mut() = old.decor().clone();
        *old = new;
    }
}

/// Sets the values of a list one by one, so that a list over several lines stays one.
fn set_list(entry: &mut Table, key: &str, values: &[String]) {
    let Some(list) = entry.get_mut(key).and_then(Item::as_array_mut) else {
        // A list that is missing and an empty one are the same.
        if values.is_empty() {
            return;
        }
        return insert(entry, key, values.iter().collect::<Array>().into());
    };
    for (at, value) in values.iter().enumerate() {
        match list.get_mut(at) {
            Some(old) => replace(old, value.into()),
            None => {
                let mut new = Value::from(value);
                let like =
                    at.checked_sub(1).and_then(|before| list.get(before)).and_then(|last| last.decor().prefix().cloned());
                match like {
                    // The first of a list on one line has nothing before it.
                    Some(prefix) if prefix.as_str().is_some_and(|prefix| prefix.contains('\n')) => {
                        new.decor_mut().set_prefix(prefix);
                        list.push_formatted(new);
                    }
                    _ => list.push(value),
                }
            }
        }
    }
    while list.len() > values.len() {
        list.remove(list.len() - 1);
    }
}

/// Adds a key where it is usually found.
fn insert(entry: &mut Table, key: &str, value: Value) {
    let mut order: Vec<String> = entry.iter().map(|(key, _)| key.to_owned()).collect();
    let behind = BEHIND.iter().find(|(new, _)| *new == key).map(|(_, behind)| *behind);
    let at = behind.and_then(|behind| order.iter().position(|known| known == behind)).map_or(order.len(), |at| at + 1);
    order.insert(at, key.to_owned());
    entry.insert(key, Item::Value(value));
    let place = |key: &str| order.iter().position(|known| known == key);
    entry.sort_values_by(|a, _, b, _| place(a.get()).cmp(&place(b.get())));
}

/// Writes the new text of the lock, beside it and renamed, if the file still holds `old`.
///
/// # Errors
/// When somebody has changed the file meanwhile, or it cannot be written.
pub(super) fn write(path: &Path, old: &str, new: &str) -> anyhow::Result<()> {
    // A link stays a link.
    let path = &path.canonicalize().with_context(|| format!("cannot find {}", path.display()))?;
    let cannot = || format!("cannot write {}", path.display());
    let folder = path.parent().unwrap_or(Path::new("."));
    let mut beside = tempfile::Builder::new().prefix(".vendor.lock-").tempfile_in(folder).kind(Kind::Other, cannot)?;
    beside.write_all(new.as_bytes()).kind(Kind::Other, cannot)?;
    beside.as_file().set_permissions(path.metadata()?.permissions()).kind(Kind::Other, cannot)?;
    beside.as_file().sync_all().kind(Kind::Other, cannot)?;
    if Lock::read_text(path)? != old {
        return Err(Kind::Other.error(format!("cannot write {}: it was changed meanwhile; run this again", path.display())));
    }
    beside.persist(path).kind(Kind::Other, cannot)?;
    // The rename itself is on disk only then; where a folder cannot be synced, nothing more can be done.
    let _ = std::fs::File::open(folder).and_then(|folder| folder.sync_all());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOCK: &str = r#"# head
[[source]]
name = "first" # keep me
version = '1.0'
urls = [
    # upstream
    "https://h/first-1.0.tar.gz", # good
    "https://m/first-1.0.tar.gz",
]
# of the archive
sha256 = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"   # seen twice
license = "MIT"
license-files = ["LICENSE"]

# between
[[source]]
name = "second"
version = "1.0"
urls = ["https://h/second-1.0.tar.gz"]
sha256 = "cccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccc"
size = 1_000
license = "MIT"
# tail
"#;

    #[test]
    fn an_entry_is_rewritten_and_everything_else_stays_to_the_byte() {
        let mut new = Lock::parse(LOCK).unwrap().get("first").unwrap().clone();
        new.version = "2.0".to_owned();
        new.urls = new.urls.iter().map(|url| url.replace("1.0", "2.0")).collect();
        new.sha256 = Some("b".repeat(64));
        new.size = Some(7);
        new.tree_sha256 = Some("d".repeat(64));
        new.license_files.push("NOTICE".into());
        let wanted = LOCK
            .replace("'1.0'", "\"2.0\"")
            .replace("first-1.0", "first-2.0")
            .replace(&"a".repeat(64), &"b".repeat(64))
            .replace("# seen twice\n", &format!("# seen twice\nsize = 7\ntree-sha256 = \"{}\"\n", "d".repeat(64)))
            .replace("[\"LICENSE\"]", "[\"LICENSE\", \"NOTICE\"]");
        assert_eq!(rewritten(LOCK, &new).unwrap(), wanted);
        // Lines end as they did, also the last.
        assert_eq!(rewritten(&LOCK.replace('\n', "\r\n"), &new).unwrap(), wanted.replace('\n', "\r\n"));
        assert_eq!(rewritten(LOCK.trim_end(), &new).unwrap(), wanted.trim_end());
        // Nothing to change changes nothing, not even spellings.
        let second = Lock::parse(LOCK).unwrap().get("second").unwrap().clone();
        assert_eq!(rewritten(LOCK, &second).unwrap(), LOCK);
    }

    #[test]
    fn what_would_not_be_read_again_is_not_written() {
        let mut new = Lock::parse(LOCK).unwrap().get("first").unwrap().clone();
        new.sha256 = Some("short".to_owned());
        assert!(rewritten(LOCK, &new).unwrap_err().to_string().contains("64"), "a wrong hash");
        new.name = "third".to_owned();
        assert!(rewritten(LOCK, &new).is_err(), "an unknown name");
        let inline = "source = [{ name = \"first\", version = \"1\", path = \"p\", license = \"MIT\" }]";
        let first = Lock::parse(inline).unwrap().get("first").unwrap().clone();
        assert!(rewritten(inline, &first).unwrap_err().to_string().contains("by hand"), "an inline list");
    }
}
