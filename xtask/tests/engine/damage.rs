//! Whatever is damaged, cut short or killed is found and made again, to the same bytes.

use crate::common::{self, Kills, Place, Tmpfs};
use crate::stepped::{Stepped, THREE, flip};
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

#[test]
fn whatever_is_damaged_is_named_and_made_again_with_the_same_bytes() {
    let stepped = Stepped::new();
    stepped.package(&[]).good();
    let whole = stepped.archive();
    stepped.counted();
    let is_whole = |what: &str| {
        assert_eq!(stepped.archive(), whole, "{what}");
        assert_eq!(fs::read_to_string(stepped.place.tree().join("bin/three")).unwrap(), THREE, "{what}");
    };
    // An object that is not used is believed; used, or looked at by a paranoid run, it is found.
    flip(&stepped.object(THREE));
    assert_eq!(stepped.runs(), [""; 0]);
    stepped.package(&["--paranoid"]).good_and_said("bin/three has other content");
    assert_eq!(stepped.counted(), [""; 0], "the steps' results were whole");
    is_whole("paranoid");
    for ending in ["", "gone"] {
        let object = stepped.object(THREE);
        if ending.is_empty() {
            flip(&object);
        } else {
            fs::remove_file(&object).unwrap();
        }
        fs::remove_dir_all(stepped.place.tree()).unwrap();
        stepped.package(&[]).good_and_said("the kept result of thing is damaged: bin/three");
        assert_eq!(stepped.counted(), [""; 0]);
        is_whole("object");
    }
    // A step's result, met when what comes after it has to be made.
    let record = stepped.files("build/store/results/thing/step-two", ".json").remove(0);
    for damage in [flip, |path: &Path| fs::remove_file(path).unwrap()] {
        let pack = packed(&record);
        damage(&stepped.store("objects").join(&pack[..2]).join(&pack));
        fs::remove_dir_all(stepped.store("results/thing/collect")).unwrap();
        stepped.package(&[]).good_and_said("step two, is damaged");
        assert_eq!(stepped.counted(), ["two", "three"]);
        is_whole("packed files");
    }
    for record in [record, stepped.files("build/store/results/thing/collect", ".json").remove(0)] {
        flip(&record);
        stepped.package(&["--paranoid"]).good_and_said(record.file_name().unwrap().to_str().unwrap());
        is_whole("record");
    }
    stepped.counted();
    for (folder, ending) in [("build/store/results", ".seen"), ("build/state", ".json"), ("build/cache", "versions.json")] {
        let files = stepped.files(folder, ending);
        assert!(!files.is_empty(), "{folder}");
        files.iter().for_each(|path| flip(path));
        fs::remove_dir_all(stepped.place.tree()).unwrap();
        assert_eq!(stepped.runs(), [""; 0], "{folder}");
        is_whole(folder);
    }
    flip(&stepped.place.tree().join("bin/three"));
    stepped.package(&[]).good_and_said("bin/three was changed in");
    is_whole("staged file");
    for path in [stepped.place.archive(), stepped.place.archive().with_extension("gz.sha256")] {
        flip(&path);
        stepped.package(&[]).good_and_said("was damaged");
        is_whole("archive");
    }
    stepped.files("build/cache/archive", "").iter().for_each(|path| flip(path));
    fs::remove_file(stepped.place.archive()).unwrap();
    assert_eq!(stepped.runs(), [""; 0]);
    is_whole("compressed pieces");
}

/// The object that a step's record names.
fn packed(record: &Path) -> String {
    let record: serde_json::Value = serde_json::from_slice(&fs::read(record).unwrap()).unwrap();
    record["record"]["content"]["pack"]["sha256"].as_str().unwrap().to_owned()
}

#[test]
fn a_damaged_source_archive_is_found_when_it_is_used() {
    let place = Place::new();
    let archive = common::tar_gz(&[("thing-1.0/hello.txt", "hello\n")]);
    let mirror = place.write("mirror/thing-1.0+x.tar.gz", &archive);
    place.one_component(&[format!("file://{}", mirror.display()).replace(' ', "%20")], &archive);
    place.xtask(&["package"]).good();
    let stored = fs::read_dir(place.path("build/sources")).unwrap().flatten().map(|entry| entry.path());
    let stored = stored.into_iter().find(|path| path.extension().is_some_and(|end| end == "gz")).unwrap();
    flip(&stored);
    place.xtask(&["package"]).good();
    fs::remove_dir_all(place.path("build/store/results")).unwrap();
    let text = place.xtask(&["package"]).good();
    assert!(text.contains("is damaged (sha256") && text.contains("thrown away"), "{text}");
    flip(&stored);
    let text = place.xtask(&["package", "--paranoid"]).good();
    assert!(text.contains("is damaged (sha256") && text.contains("unchanged") && !stored.exists(), "{text}");
    assert_eq!(fs::read_to_string(place.tree().join("share/hello.txt")).unwrap(), "hello\n");
}

#[test]
fn a_mere_touch_costs_a_hash_and_a_killed_run_believes_nothing() {
    let stepped = Stepped::new();
    stepped.package(&[]).good();
    stepped.counted();
    let (object, file) = (stepped.object(THREE), stepped.place.tree().join("bin/three"));
    for path in [&object, &file, &stepped.place.archive()] {
        fs::File::open(path).unwrap().set_modified(SystemTime::now()).unwrap();
    }
    let text = stepped.package(&[]).good();
    assert!(text.contains("unchanged") && !text.contains("damaged"), "{text}");
    fs::write(stepped.store("working"), "1").unwrap();
    let text = stepped.package(&[]).good();
    assert!(text.contains("the last run was killed: what is used is hashed first"), "{text}");
    assert!(!stepped.store("working").exists());
    let text = stepped.package(&[]).good();
    assert!(!text.contains("killed"), "{text}");
    fs::write(stepped.store("boot"), "another").unwrap();
    assert!(stepped.package(&[]).good().contains("was started anew"));
    assert_eq!(stepped.counted(), [""; 0]);
}

#[test]
fn a_clock_that_was_set_back_costs_nothing_that_was_made_since() {
    let stepped = Stepped::new();
    let word = |word: &str| stepped.recipe(|text| text.replace("a word", word));
    for earlier in ["first", "second", "third"] {
        word(earlier);
        stepped.package(&[]).good();
    }
    let ahead = SystemTime::now() + Duration::from_secs(7 * 24 * 3600);
    for record in stepped.files("build/store/results/thing", ".json") {
        fs::File::open(record).unwrap().set_modified(ahead).unwrap();
    }
    stepped.counted();
    word("fourth");
    assert_eq!(stepped.runs(), ["two", "three"]);
    assert_eq!(stepped.runs(), [""; 0], "what was just made was thrown away for what was made before");
}

#[test]
fn a_full_disk_leaves_nothing_in_the_store_that_could_be_taken_for_whole() {
    let stepped = Stepped::new();
    stepped.place.write("stack/thing/one.in", common::noise(1_500_000));
    let Some(store) = Tmpfs::mount(stepped.store("")) else {
        assert!(std::env::var_os("CI").is_none(), "CI runs as root and can mount a tmpfs");
        eprintln!("passed over: mounting a tmpfs needs root");
        return;
    };
    stepped.package(&[]).bad(8, &["No space left on device", "cannot keep"]);
    assert!(stepped.files("build/store/results/thing", ".json").is_empty());
    assert!(stepped.files("build/store/drafts", "").is_empty());
    drop(store);
    stepped.counted();
    assert_eq!(stepped.runs(), ["one", "two", "three"]);
}

#[test]
fn killed_at_any_instant_the_next_run_goes_on_to_the_same_bytes() {
    let stepped = Stepped::new();
    let place = &stepped.place;
    let package = || {
        let mut command = place.command(&["package"]);
        command.env("SOURCE_DATE_EPOCH", "1700000000").stderr(std::process::Stdio::null());
        command
    };
    let started = Instant::now();
    stepped.package(&[]).good();
    let whole = started.elapsed();
    let undisturbed = stepped.archive();
    let mut kills = Kills::within(whole, 7);
    for _ in 0..60 {
        // Each time from another state: nothing there, one step's result there, all there, or what the last kill left.
        match kills.number() % 6 {
            0 => drop(fs::remove_dir_all(place.path("build"))),
            1 => drop(fs::remove_dir_all(place.path("dist"))),
            2 => drop(fs::remove_dir_all(stepped.store("results/thing/collect"))),
            3 => ["collect", "step-two", "step-three"]
                .iter()
                .for_each(|slot| drop(fs::remove_dir_all(stepped.store("results/thing").join(slot)))),
            _ => {}
        }
        kills.kill(package().spawn().unwrap());
        // Whatever has its final name is whole.
        if place.archive().exists() {
            assert_eq!(stepped.archive(), undisturbed);
        }
        if place.tree().exists() {
            assert_eq!(fs::read_to_string(place.tree().join("bin/three")).unwrap(), THREE);
            assert!(place.tree().join("manifest.json").exists());
        }
    }
    assert!(kills.killed >= 10, "only {} of the runs were killed, {} ended before", kills.killed, kills.ended);
    // The last run has to stage and to archive, and tidies up on the way; few kills hit the moment of staging, so one of
    // their leavings is laid there.
    let bundle = place.tree().file_name().unwrap().to_str().unwrap().to_owned();
    fs::create_dir_all(place.path("dist").join(format!(".draft-{bundle}-killed/new"))).unwrap();
    fs::remove_dir_all(place.tree()).or_else(|error| if place.tree().exists() { Err(error) } else { Ok(()) }).unwrap();
    stepped.package(&[]).good();
    assert_eq!(stepped.archive(), undisturbed);
    let left: Vec<_> = fs::read_dir(place.path("dist")).unwrap().flatten().map(|entry| entry.file_name()).collect();
    // The tree, the archive with its checksum, and what tells of them.
    assert_eq!(left.len(), 5, "{left:?}");
    assert!(stepped.files("build/store/drafts", "").is_empty());
}
