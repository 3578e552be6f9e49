//! Building here for elsewhere: an older C library, another processor, macOS; and the trial in an old system.
//!
//! Nothing is mocked: zig is the real one, fetched once by pip and kept with the miniature stack's build; the old system is made from a
//! few of Debian's own packages.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "to panic is how a test fails")]

mod common;

use common::machines::{elsewhere, here, text};
use common::monitor::{ARCHIVE, package as package_ministack};
use common::repacked::Unpacked;
use common::{Outcome, Place, ministack_place, workspace};
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;

/// The Debian whose C library is old enough: the oldest that the registry serves.
const OLD: &str = "bullseye";

/// What pins zig in the recipe of the real collectd.
fn pins() -> String {
    let recipe = fs::read_to_string(workspace().join("recipes/collectd.toml")).unwrap();
    let begin = recipe.find("[toolchain.zig]").unwrap();
    recipe[begin..recipe.find("[needs]").unwrap()].to_owned()
}

/// The miniature stack, whose collectd is compiled by zig, from the same build folder as the other one.
static BY_ZIG: LazyLock<PathBuf> = LazyLock::new(|| {
    let stack = ministack_place("by zig/oldstack");
    let _ = fs::remove_dir_all(&stack);
    let copied = Command::new("cp").arg("-R").arg(workspace().join("examples/ministack")).arg(&stack).status().unwrap();
    assert!(copied.success());
    let recipe = stack.join("recipes/collectd.toml");
    let plain = fs::read_to_string(&recipe).unwrap();
    fs::write(recipe, plain.replacen("[needs]", &format!("{}[needs]", pins()), 1)).unwrap();
    fs::write(stack.join("gate.toml"), "glibc = \"2.17\"\n").unwrap();
    let dist = ministack_place("dist by zig");
    here(&["package", "--format", "gz,deb,rpm", "--dist-dir", text(&dist)], &stack, &ministack_place("build")).good();
    dist.join(concat!("dkumonitor-oldstack-", env!("CARGO_PKG_VERSION"), ".tar.gz"))
});

const HELLO: &str = "#include <stdio.h>\nint main(void) { puts(\"hello\"); return 0; }\n";

const MAKEFILE: &str = "all: hello\nhello: hello.c\n\t$(CC) $(CFLAGS) -c hello.c\n\t$(CC) -o hello hello.o\ncheck: hello\n\t./hello\n\
    install:\n\tmkdir -p \"$(DESTDIR)/bin\"\n\tinstall -m 755 hello \"$(DESTDIR)/bin/hello\"\n\
    \tcp told \"$(DESTDIR)/told\"\n";

/// A stack of a program in C, once compiled by the machine's compiler and once by zig, and of one in Rust that zig links for macOS.
fn stack_of_programs() -> Place {
    LazyLock::force(&BY_ZIG);
    let place = Place::new();
    let mut lock = String::new();
    for name in ["plain", "old"] {
        let zig = if name == "old" { pins() } else { String::new() };
        place.write(
            &format!("stack/recipes/{name}.toml"),
            format!(
                "summary = \"x\"\n{zig}[[step]]\nname = \"compile\"\n[step.autotools]\nchecks = [\"check\"]\n\
                 [[install]]\nfrom = \"dest/bin/hello\"\nto = \"bin/{name}\"\n[[install]]\nfrom = \"dest/told\"\nto = \"share/{name}\"\n"
            ),
        );
        let configure = place.write(&format!("stack/{name}/configure"), "#!/bin/sh\necho \"$@\" > told\n");
        fs::set_permissions(configure, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        place.write(&format!("stack/{name}/Makefile"), MAKEFILE);
        place.write(&format!("stack/{name}/hello.c"), HELLO);
    }
    let glibc = pins().lines().find(|line| line.starts_with("glibc")).unwrap().to_owned();
    place.write(
        "stack/recipes/tool.toml",
        format!(
            "summary = \"x\"\n{}[[step]]\nname = \"compile\"\n[step.cargo]\npackage = \"tool\"\nbins = [\"tool\"]\nstatic = true\n\
             [[install]]\nfrom = \"dest/bin/tool\"\nto = \"bin/tool\"\n",
            pins().replace(&format!("{glibc}\n"), "")
        ),
    );
    let manifest = "[package]\nname = \"tool\"\nversion = \"1.0.0\"\nedition = \"2021\"\nlicense = \"MIT\"\n[workspace]\n[profile.release]\nstrip = true\n";
    place.write("stack/tool/Cargo.toml", manifest);
    place.write("stack/tool/Cargo.lock", "version = 4\n\n[[package]]\nname = \"tool\"\nversion = \"1.0.0\"\n");
    // As the launcher does, it names libiconv through the crate `libc`, of which zig knows nothing.
    let main = "#[link(name = \"iconv\")]\nextern \"C\" {}\nfn main() {\n    println!(\"{:?}\", std::net::TcpListener::bind(\"127.0.0.1:0\"));\n}\n";
    place.write("stack/tool/src/main.rs", main);
    for name in ["plain", "old", "tool"] {
        lock += &format!("[[source]]\nname = \"{name}\"\nversion = \"1\"\npath = \"{name}\"\nlicense = \"MIT\"\n");
    }
    place.write("stack/vendor.lock", lock);
    place.write("stack/gate.toml", "glibc = \"2.17\"\n");
    // What was fetched and unpacked for the miniature stack need not be again, nor zig's own pieces compiled.
    let build = ministack_place("build");
    for inner in ["toolchains", "cache/packages", "cache/zig"] {
        let link = place.path("build").join(inner);
        fs::create_dir_all(link.parent().unwrap()).unwrap();
        std::os::unix::fs::symlink(build.join(inner), link).unwrap();
    }
    place
}

/// What `package --only NAME` has written, with these arguments beside.
fn package(place: &Place, name: &str, more: &[&str]) -> Outcome {
    place.xtask(&[&["package", "--only", name], more].concat())
}

/// The tree of a bundle of one component.
fn tree(place: &Place, suffix: &str) -> PathBuf {
    place.path("dist").join(format!("dkumonitor-stack-partial-{}{suffix}", env!("CARGO_PKG_VERSION")))
}

fn manifest(tree: &Path) -> Value {
    serde_json::from_slice(&fs::read(tree.join("manifest.json")).unwrap()).unwrap()
}

/// The other processor.
fn other() -> &'static str {
    if std::env::consts::ARCH == "aarch64" { "x86_64" } else { "aarch64" }
}

#[test]
fn a_program_compiled_by_zig_runs_with_an_old_glibc_and_one_that_is_not_is_refused_by_name() {
    let place = stack_of_programs();
    package(&place, "plain", &[]).bad(10, &["bin/plain: needs glibc 2.", "gate.toml allows no newer one than 2.17"]);
    let said = package(&place, "old", &[]).good();
    assert!(said.contains("glibc 2."), "{said}");
    let floor = manifest(&tree(&place, ""))["platform"]["glibc"].as_str().unwrap().to_owned();
    let minor: u32 = floor.strip_prefix("2.").unwrap().split('.').next().unwrap().parse().unwrap();
    assert!(minor <= 17, "it needs glibc {floor}");
    let ran = Command::new(tree(&place, "").join("bin/old")).output().unwrap();
    assert_eq!(Outcome::of(&ran).good(), "hello\n");
    // Its checks ran, and it was not told that it is crossed.
    assert_eq!(fs::read_to_string(tree(&place, "").join("share/old")).unwrap().trim(), "");
}

#[test]
fn zig_goes_along_in_an_export_and_compiles_the_same_bytes_without_network_or_nothing() {
    let place = stack_of_programs();
    package(&place, "old", &[]).good();
    let stack = place.path("stack");
    let mirror = place.path("mirror");
    here(&["vendor-export", text(&mirror), "--only", "old"], &stack, &place.path("build")).good();
    let (build, dist) = (place.path("other build"), place.path("other dist"));
    let words = ["package", "--only", "old", "--offline", "--mirror", text(&mirror), "--dist-dir", text(&dist)];
    elsewhere(&words, &stack, &build).good();
    let name = tree(&place, "").with_added_extension("tar.gz");
    let (one, other) = (fs::read(&name).unwrap(), fs::read(dist.join(name.file_name().unwrap())).unwrap());
    assert!(one == other, "the archives differ: {} and {}", common::sha256(&one), common::sha256(&other));
    // Another package than the one that is pinned is refused, whether it is at hand or has to be fetched.
    let recipe = fs::read_to_string(stack.join("recipes/old.toml")).unwrap();
    let pinned = recipe.lines().filter(|line| line.starts_with("linux-")).map(|line| line.split('"').nth(1).unwrap());
    let wrong = pinned.fold(recipe.clone(), |recipe, hash| recipe.replace(hash, &"0".repeat(64)));
    place.write("stack/recipes/old.toml", wrong);
    fs::remove_dir_all(build.join("toolchains")).unwrap();
    fs::remove_dir_all(build.join("store")).unwrap();
    elsewhere(&words, &stack, &build).bad(5, &["ziglang", "is not the one that was pinned"]);
    // (pip takes blanks in it for the end of a path.)
    let wheels = tempfile::Builder::new().prefix("wheels").tempdir().unwrap();
    let wheel = fs::read_dir(mirror.join("packages")).unwrap().flatten().next().unwrap().path();
    let tag = if wheel.to_str().unwrap().contains("arm64") { "manylinux2014_aarch64" } else { "manylinux2010_x86_64" };
    let version = recipe.lines().find(|line| line.starts_with("version")).unwrap().split('"').nth(1).unwrap().to_owned();
    fs::copy(&wheel, wheels.path().join(format!("ziglang-{version}-py3-none-{tag}.whl"))).unwrap();
    fs::remove_dir_all(build.join("cache/packages")).unwrap();
    let mut command = Command::new(common::machines::XTASK);
    command.args(["package", "--only", "old"]).arg("--stack").arg(&stack).arg("--build-dir").arg(&build);
    command.arg("--dist-dir").arg(&dist).env("PIP_NO_INDEX", "1").env("PIP_FIND_LINKS", wheels.path());
    Outcome::of(&command.output().unwrap()).bad(5, &["ziglang", "is not the one that was pinned"]);
    assert!(!build.join("toolchains").exists(), "it was unpacked all the same");
}

#[test]
fn what_configure_and_make_compile_is_crossed_to_the_other_processor() {
    let place = stack_of_programs();
    let target = format!("{}-unknown-linux-musl", other());
    package(&place, "plain", &["--target", &target])
        .bad(2, &["plain is compiled by configure", "[toolchain.zig] in its recipe"]);
    let said = package(&place, "old", &["--target", &target]).good();
    assert!(said.contains("not run"), "{said}");
    let tree = tree(&place, &format!("-{target}"));
    assert!(fs::read_to_string(tree.join("share/old")).unwrap().contains(&format!("--host={}-linux-gnu", other())));
    let program = fs::read(tree.join("bin/old")).unwrap();
    let machine: u16 = if other() == "aarch64" { 183 } else { 62 };
    assert_eq!((&program[..4], &program[18..20]), (&b"\x7fELF"[..], &machine.to_le_bytes()[..]));
    let manifest = manifest(&tree);
    assert_eq!((&manifest["platform"]["arch"], &manifest["platform"]["glibc"]), (&other().into(), &"2.17".into()));
}

/// Where a Mach-O file for 64 bits has a load command of this kind.
fn load_command(file: &[u8], wanted: u32) -> usize {
    let number = |at: usize| u32::from_le_bytes(*file[at..].first_chunk().unwrap());
    let next = |at: &usize| Some(at + number(at + 4) as usize);
    std::iter::successors(Some(32), next).take(number(16) as usize).find(|at| number(*at) == wanted).unwrap()
}

#[test]
fn a_rust_program_is_linked_for_macos_so_that_apples_processors_start_it() {
    let place = stack_of_programs();
    let installed =
        Command::new("rustc").args(["--print", "target-libdir", "--target", "aarch64-apple-darwin"]).output().unwrap();
    assert!(Path::new(Outcome::of(&installed).good().trim()).is_dir(), "`cargo xtask ci` installs that target");
    package(&place, "old", &["--target", "aarch64-apple-darwin"]).bad(2, &["old is compiled by configure", "Apple's headers"]);
    // The gate has looked at its processor, its libraries, its signature.
    let said = package(&place, "tool", &["--target", "aarch64-apple-darwin"]).good();
    assert!(said.contains("macOS 11.0 or newer; not run"), "{said}");
    let archive = tree(&place, "-aarch64-apple-darwin").with_added_extension("tar.gz");
    let gate = |archive: &Path| place.xtask(&["gate", text(archive)]);
    let said = gate(&archive).good();
    assert!(said.contains("oldest macOS by program: 11.0 (bin/tool)"), "{said}");
    let here = format!("and this is linux on {}; run the gate on such a machine too", std::env::consts::ARCH);
    assert!(said.contains("it was not run: it is for macos on aarch64") && said.contains(&here), "{said}");
    // Nobody shall believe that it ran in the system that was named.
    for name in ["dev", "proc", "tmp"] {
        fs::create_dir_all(place.path("root").join(name)).unwrap();
    }
    place
        .xtask(&["gate", text(&archive), "--root", text(&place.path("root"))])
        .bad(2, &["--root is to run it in, and it cannot be run: it is for macos"]);
    // What its linker has signed is held to it, byte by byte.
    let whole = Unpacked::of(&archive);
    let changed = |change: &dyn Fn(&mut Vec<u8>)| {
        let folder = tempfile::tempdir().unwrap();
        let mut bundle = whole.clone();
        change(&mut bundle.files.get_mut("bin/tool").unwrap().0);
        gate(&bundle.pack(folder.path()))
    };
    changed(&|_| {}).good();
    let middle = |file: &mut Vec<u8>| {
        let at = file.len() / 2;
        file[at] ^= 1;
    };
    changed(&middle).bad(10, &["bin/tool: has a code signature that is not its own, so that macOS ends it: the page at byte"]);
    // The command that names the signature becomes one that names something else.
    let unsigned = |file: &mut Vec<u8>| {
        let at = load_command(file, 0x1d);
        file[at] = 0x29;
    };
    changed(&unsigned).bad(10, &["bin/tool: has no code signature, without which Apple's processors run nothing"]);
    let moved = |file: &mut Vec<u8>| {
        let (from, to) = (b"/usr/lib/libSystem.B.dylib", b"/opt/lib/libSystem.B.dylib");
        let at = file.windows(from.len()).position(|words| words == from).unwrap();
        file[at..at + to.len()].copy_from_slice(to);
    };
    changed(&moved)
        .bad(10, &["bin/tool: needs /opt/lib/libSystem.B.dylib, which is neither in the bundle nor on every machine"]);
}

/// What an old system consists of here: what a program needs to run, a shell, and what installs packages.
const OLD_PACKAGES: [&str; 18] = [
    "libc6",
    "libcrypt1",
    "libgcc-s1",
    "dash",
    "coreutils",
    "libselinux1",
    "libpcre2-8-0",
    "libacl1",
    "libattr1",
    "libgmp10",
    "dpkg",
    "tar",
    "diffutils",
    "libc-bin",
    "libbz2-1.0",
    "liblzma5",
    "zlib1g",
    "sed",
];

/// The root of a Debian whose C library is old; none where it cannot be had.
static OLD_ROOT: LazyLock<Option<PathBuf>> = LazyLock::new(old_root);

fn old_root() -> Option<PathBuf> {
    // With what parts paths in the options of mounts.
    let root = Path::new(env!("CARGO_TARGET_TMPDIR")).join("old: a root, with dpkg").join(OLD);
    if root.is_dir() {
        return Some(root);
    }
    let key = "/usr/share/keyrings/debian-archive-keyring.gpg";
    let debian = fs::read_to_string("/etc/os-release").is_ok_and(|text| text.lines().any(|line| line == "ID=debian"));
    if !(debian && Path::new(key).exists()) || Outcome::of(&Command::new("id").arg("-u").output().unwrap()).text.trim() != "0" {
        println!("passed over: it takes root on a Debian to unpack another one");
        return None;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = |inner: &str| folder.path().join(inner);
    if !download_old_packages(folder.path(), key) {
        println!("passed over: Debian's servers have {OLD} no more; name the oldest that they have");
        return None;
    }
    for inner in ["dev", "opt", "proc", "sys", "tmp", "run", "var/tmp", "var/lib/dpkg"] {
        fs::create_dir_all(path("root").join(inner)).unwrap();
    }
    let mut known = String::new();
    for package in fs::read_dir(path("packages")).unwrap().flatten() {
        let unpacked = Command::new("dpkg-deb").arg("-x").arg(package.path()).arg(path("root")).output().unwrap();
        Outcome::of(&unpacked).good();
        // Its dpkg shall know what is there.
        let said = Command::new("dpkg-deb").arg("-f").arg(package.path()).output().unwrap();
        known += &Outcome::of(&said).good().replacen('\n', "\nStatus: install ok installed\n", 1);
        known.push('\n');
    }
    fs::write(path("root/var/lib/dpkg/status"), known).unwrap();
    fs::create_dir_all(root.parent().unwrap()).unwrap();
    // What has its name is whole.
    let draft = root.with_extension("draft");
    let _ = fs::remove_dir_all(&draft);
    let copied = Command::new("cp").arg("-a").arg(path("root")).arg(&draft).output().unwrap();
    Outcome::of(&copied).good();
    fs::rename(&draft, &root).unwrap();
    Some(root)
}

/// Fetches them into `packages`, with nothing of this system's own apt but where it takes packages from; no if that has this Debian no more, as
/// happens to each some day.
fn download_old_packages(folder: &Path, key: &str) -> bool {
    let path = |inner: &str| folder.join(inner);
    for inner in ["lists/partial", "archives/partial", "packages"] {
        fs::create_dir_all(path(inner)).unwrap();
    }
    fs::write(path("status"), "").unwrap();
    // Others than Debian may have sources here too.
    let words = ["indextargets", "--format", "$(REPO_URI)", "Created-By: Packages", "Origin: Debian", "Label: Debian"];
    let from = Outcome::of(&Command::new("apt-get").args(words).output().unwrap()).good();
    let from = from.lines().next().expect("apt has no sources of Debian's; run apt-get update");
    fs::write(path("sources.list"), format!("deb [signed-by={key}] {from} {OLD} main\n")).unwrap();
    let options = [
        format!("Dir::State={}", folder.display()),
        format!("Dir::State::status={}", path("status").display()),
        format!("Dir::Cache={}", folder.display()),
        format!("Dir::Etc::SourceList={}", path("sources.list").display()),
        "Dir::Etc::SourceParts=-".to_owned(),
        "Acquire::Languages=none".to_owned(),
        "APT::Sandbox::User=root".to_owned(),
    ];
    let apt = |words: &[&str]| {
        let mut command = Command::new("apt-get");
        command
            .env("LC_ALL", "C")
            .arg("-qq")
            .args(options.iter().flat_map(|option| ["-o", option]))
            .args(words)
            .current_dir(path("packages"));
        Outcome::of(&command.output().unwrap())
    };
    let updated = apt(&["update"]);
    if updated.text.contains("does not have a Release file") {
        return false;
    }
    updated.good();
    apt(&[&["download"], OLD_PACKAGES.as_slice()].concat()).good();
    true
}

/// The gate under the old system.
fn gate_in(root: &Path, file: &Path) -> Outcome {
    let stack = workspace().join("examples/ministack");
    here(&["gate", text(file), "--root", text(root)], &stack, &ministack_place("build"))
}

#[test]
fn the_miniature_stack_runs_in_an_old_system_if_zig_has_compiled_it_and_else_is_refused_by_name() {
    let Some(root) = &*OLD_ROOT else { return };
    let said = gate_in(root, &BY_ZIG).good();
    assert!(said.contains("4 services probed") && said.contains("read back through carbonapi"), "{said}");
    gate_in(root, &ARCHIVE).bad(10, &["needs glibc 2.", "(for collectd)", "and this system has 2.31"]);
}

#[test]
fn packages_are_installed_in_an_old_system_by_its_own_tool_or_laid_out_where_it_has_none() {
    let Some(root) = &*OLD_ROOT else { return };
    let file = |ending: &str| BY_ZIG.with_extension("").with_extension(ending);
    let said = gate_in(root, &file("deb")).good();
    assert!(said.contains("4 services probed") && said.contains("nothing left behind"), "{said}");
    let version = env!("CARGO_PKG_VERSION");
    assert!(said.contains(&format!("installed by dpkg to /opt/dkumonitor-oldstack/{version}, and removed by it")), "{said}");
    let said = gate_in(root, &file("rpm")).good();
    assert!(
        said.contains("4 services probed") && said.contains("it was not installed by rpm (there is no rpm here)"),
        "{said}"
    );
    // One that needs a newer C library dpkg does not take.
    package_ministack(&["--format", "gz,deb,rpm"], "dist packages").good();
    let newer = ministack_place("dist packages").join(format!("dkumonitor-ministack-{version}.deb"));
    gate_in(root, &newer).bad(10, &["dpkg cannot install it", "depends on libc6 (>= 2.", "on system is 2.31"]);
    // Nothing was written there.
    assert_eq!(fs::read_dir(root.join("opt")).unwrap().count() + fs::read_dir(root.join("tmp")).unwrap().count(), 0);
}
