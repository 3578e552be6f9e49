//! Bundles for macOS: faults that its loader and its kernel would stumble over.

use super::*;
use crate::macho::Role;
use crate::macho::tests::{Made, fat};

const LIBRARY: Made<'_> = Made {
    is_arm: true,
    role: Role::Library,
    needed: &["/System/Library/Frameworks/CoreFoundation.framework/Versions/A/CoreFoundation"],
    rpaths: &[],
    platform: 1,
    minos: [11, 0],
    signed: true,
};

/// A good program: its one library is found as it says.
const PROGRAM: Made<'_> = Made {
    role: Role::Program,
    needed: &["/usr/lib/libSystem.B.dylib", "@rpath/libown.dylib"],
    rpaths: &["@loader_path/../lib"],
    ..LIBRARY
};

/// What is found in a bundle for Apple's processors, of a program and a library that were changed like this, and what is said of it.
fn looked_at(rules: &str, change: impl FnOnce(&mut Vec<u8>, &mut Vec<u8>)) -> (Vec<String>, Bundle) {
    let (mut program, mut library) = (PROGRAM.file(), LIBRARY.file());
    change(&mut program, &mut library);
    let parts = [Part { mode: 0o755, ..file("bin/thing", program) }, file("lib/libown.dylib", library)];
    let folder = tempfile::tempdir().unwrap();
    let platform = serde_json::json!({"os": "macos", "arch": "aarch64"});
    let bundle = Bundle::read(&archive_for(&platform, folder.path(), &parts, &parts), &machine().marks()).unwrap();
    (bundle.check(&Policy::for_tests(rules)).iter().map(ToString::to_string).collect(), bundle)
}

/// What is found when the program is this one.
fn found_of(program: Made<'_>) -> Vec<String> {
    looked_at("", |own, _| *own = program.file()).0
}

/// What is found when the library is this one.
fn found_of_library(library: Made<'_>) -> Vec<String> {
    looked_at("", |_, own| *own = library.file()).0
}

#[test]
fn a_good_bundle_has_no_findings_and_says_how_old_a_system_may_be() {
    let (found, bundle) = looked_at("macos = \"11\"\n", |_, _| {});
    assert_eq!(found, Vec::<String>::new());
    assert_eq!(bundle.floor_in_short(), "macOS 11.0 or newer");
    let newer = |program: &mut Vec<u8>, _: &mut Vec<u8>| *program = Made { minos: [13, 4], ..PROGRAM }.file();
    let (found, bundle) = looked_at("", newer);
    assert_eq!((found.len(), bundle.floor_in_short().as_str()), (0, "macOS 13.4 or newer"));
    let full = bundle.floor_in_full().unwrap();
    assert!(full.starts_with("oldest macOS by program: 13.4 (bin/thing), 11.0 (lib/libown.dylib)"), "{full}");
    one(&looked_at("macos = \"12\"\n", newer).0, "bin/thing: needs macOS 13.4; gate.toml allows no newer one than 12", "");
}

#[test]
fn libraries_are_found_where_its_loader_looks_and_nowhere_else() {
    let needing = |needed: &'static [&str], rpaths: &'static [&str]| found_of(Made { needed, rpaths, ..PROGRAM });
    let neither = "which is neither in the bundle nor on every machine";
    one(&needing(&["/opt/homebrew/lib/libz.dylib"], &[]), "bin/thing: needs /opt/homebrew/lib/libz.dylib", neither);
    // Not everything of the system's own is for others.
    one(&needing(&["/usr/lib/libcrypto.dylib"], &[]), "bin/thing: needs /usr/lib/libcrypto.dylib", neither);
    one(&needing(&["@rpath/libno.dylib"], &["@loader_path"]), "bin/thing: needs libno.dylib", neither);
    one(
        &needing(&["@rpath/libown.dylib"], &["@loader_path"]),
        "bin/thing: needs libown.dylib",
        "as lib/libown.dylib, but not where",
    );
    one(&needing(&["@loader_path/libown.dylib"], &[]), "bin/thing: needs @loader_path/libown.dylib", neither);
    // A name alone is looked for in whatever folder it is started from.
    one(&needing(&["libown.dylib"], &["@loader_path/../lib"]), "bin/thing: needs libown.dylib", neither);
    assert_eq!(needing(&["@executable_path/../lib/libown.dylib"], &[]), Vec::<String>::new());
    assert_eq!(needing(&["@rpath/libown.dylib"], &["@executable_path/../lib"]), Vec::<String>::new());
    let rules = "[[library]]\nname = \"/opt/homebrew/lib/libz.dylib\"\nwhy = \"said so\"\n";
    let allowed = looked_at(rules, |own, _| *own = Made { needed: &["/opt/homebrew/lib/libz.dylib"], ..PROGRAM }.file());
    assert_eq!(allowed.0, Vec::<String>::new());
}

#[test]
fn a_library_is_helped_by_the_programs_that_load_it() {
    let needing = |needed: &'static [&str]| found_of_library(Made { needed, ..LIBRARY });
    assert_eq!(needing(&["@rpath/libown.dylib"]), Vec::<String>::new());
    assert_eq!(needing(&["@executable_path/../lib/libown.dylib"]), Vec::<String>::new());
    one(&needing(&["@executable_path/libown.dylib"]), "lib/libown.dylib: needs @executable_path/libown.dylib", "neither");
}

#[test]
fn rpaths_of_the_builders_machine_are_named() {
    for (rpath, why) in [
        ("/opt/thing/lib", "not relative to where it lies itself (@loader_path)"),
        ("$ORIGIN/../lib", "not relative"),
        ("@loader_path/../../x", "outside of the bundle"),
        ("@loader_pathology", "not relative"),
    ] {
        one(&found_of_library(Made { rpaths: &[rpath], ..LIBRARY }), "lib/libown.dylib: looks for libraries in", why);
    }
}

#[test]
fn what_macos_would_not_run_is_named() {
    one(&found_of(Made { signed: false, ..PROGRAM }), "bin/thing: has no code signature", "codesign -s -");
    one(&found_of_library(Made { signed: false, ..LIBRARY }), "lib/libown.dylib: has no code signature", "");
    // What a compiler has left over is not run.
    assert_eq!(found_of_library(Made { signed: false, role: Role::Other, ..LIBRARY }), Vec::<String>::new());
    let changed = looked_at("", |program, _| program[5000] ^= 1).0;
    one(&changed, "bin/thing: has a code signature that is not its own", "the page at byte 4096");
    one(&found_of(Made { platform: 2, ..PROGRAM }), "bin/thing: is for iOS", "not for macOS");
}

#[test]
fn programs_for_other_processors_and_systems_are_named() {
    let intel = Made { is_arm: false, signed: false, ..PROGRAM };
    // (Other processors do without a signature.)
    one(&found_of(intel), "bin/thing: is for x86_64, and the bundle for aarch64", "");
    let both = looked_at("", |own, _| *own = fat(&[own.clone(), intel.file()])).0;
    one(&both, "bin/thing: is for x86_64 too, and the bundle for aarch64 alone", "");
    let linux = looked_at("", |_, own| *own = library(&[], None, &[])).0;
    assert!(linux.iter().any(|text| text == "lib/libown.dylib: is a program for another system than macos"), "{linux:?}");
    one(
        &found(|parts| parts[2].content = Made { is_arm: false, ..LIBRARY }.file()),
        "lib/libown.so: is a program for another",
        "",
    );
}
