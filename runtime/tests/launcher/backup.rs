//! Backups: made while somebody writes, read back by tar and by ourselves, restored to the byte, and refused when they are not whole.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};

use crate::bench::{Bench, helper, shell, text, until};

fn services() -> Vec<Value> {
    let mut services = vec![shell("go-carbon", "exec sleep 1000"), shell("carbonapi", "exec sleep 1000")];
    services[0]["config"] = json!([{"template": "conf/a.conf.j2", "to": "conf/a.conf"}]);
    services[0]["folders"] = json!(["storage/whisper", "storage/grafana"]);
    services
}

fn admin(bench: &Bench, verb: &str) -> Command {
    let mut command = Command::new(bench.bundle_path().join("bin/dkmadmin"));
    command.arg(verb);
    command
}

/// Backs up into a new file, which has to succeed.
fn backup(bench: &Bench, name: &str) -> PathBuf {
    let path = bench.root().join(name);
    let output = admin(bench, "backup").arg("-d").arg(bench.data()).arg(&path).output().unwrap();
    assert!(output.status.success(), "{}", text(&output));
    path
}

fn restore(bench: &Bench, file: &Path, more: &[&str]) -> Output {
    admin(bench, "restore").arg(file).args(more).output().unwrap()
}

fn good(output: &Output) -> String {
    assert!(output.status.success(), "{}", text(output));
    text(output)
}

/// Everything below a folder but what a backup leaves out: modes, links, contents.
fn everything(root: &Path) -> BTreeMap<PathBuf, (u32, Vec<u8>)> {
    let mut out = BTreeMap::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            let meta = fs::symlink_metadata(&path).unwrap();
            let inside = path.strip_prefix(root).unwrap().to_owned();
            if ["run", "previous"].iter().any(|left_out| inside.starts_with(left_out)) {
                continue;
            }
            let content = if meta.is_dir() {
                folders.push(path);
                Vec::new()
            } else if meta.is_symlink() {
                fs::read_link(&path).unwrap().as_os_str().as_bytes().to_vec()
            } else {
                fs::read(&path).unwrap()
            };
            out.insert(inside, (meta.mode(), content));
        }
    }
    out
}

/// Moves the data folder out of the way.
fn lose(bench: &Bench) -> PathBuf {
    let kept = bench.root().join("kept");
    fs::rename(bench.data(), &kept).unwrap();
    kept
}

#[test]
fn what_is_restored_is_what_was_backed_up_to_the_byte() {
    let bench = Bench::installed(&services());
    let whisper = bench.data().join("storage/whisper");
    fs::create_dir(whisper.join("a b")).unwrap();
    fs::write(whisper.join("a b/ü\\\n.wsp"), "odd name").unwrap();
    fs::write(whisper.join("empty.wsp"), "").unwrap();
    // As whisper files are: zeros, a few points, zeros.
    let sparse = File::create(whisper.join("sparse.wsp")).unwrap();
    sparse.set_len(20_000_000).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&sparse, b"point", 9_000_001).unwrap();
    fs::write(bench.data().join("conf/mine.conf"), "mine").unwrap();
    fs::set_permissions(bench.data().join("conf/mine.conf"), fs::Permissions::from_mode(0o640)).unwrap();
    fs::create_dir(bench.data().join("previous")).unwrap();
    symlink("../conf/mine.conf", bench.data().join("storage/link")).unwrap();
    let file = backup(&bench, "b.tar.gz");
    assert_eq!(fs::metadata(&file).unwrap().mode() & 0o7777, 0o600);
    assert!(fs::metadata(&file).unwrap().len() < 200_000);
    assert!(good(&restore(&bench, &file, &["--check"])).contains("is whole"));
    let kept = lose(&bench);
    let said = good(&restore(&bench, &file, &[]));
    assert!(!said.contains("What was there"), "{said}");
    assert_eq!(everything(&bench.data()), everything(&kept));
    let restored = fs::metadata(bench.data().join("storage/whisper/sparse.wsp")).unwrap();
    assert!(restored.blocks() * 512 < 1_000_000, "zeros were written: {} blocks", restored.blocks());
    let time = |root: &Path| fs::metadata(root.join("storage/whisper/sparse.wsp")).unwrap().mtime();
    assert_eq!(time(&bench.data()), time(&kept));
    bench.good(&["--allow-root", "start"]);
    // Nothing else is left beside it.
    let names: Vec<_> = fs::read_dir(bench.root()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names.len(), 4, "{names:?}");
}

/// The file's whisper writer takes the lock that go-carbon takes, and is seldom done with both halves of an update; the database gets two
/// rows in each transaction.
#[cfg(target_os = "linux")]
#[test]
fn a_backup_of_what_is_being_written_has_nothing_half() {
    let mut services = services();
    services[0] = helper("go-carbon", "halves");
    services[0]["environment"]["HELPER_FILE"] = json!("{{ data }}/storage/whisper/x.wsp");
    services[0]["folders"] = json!(["storage/whisper", "storage/grafana"]);
    let script = "import sqlite3,sys\nc=sqlite3.connect(sys.argv[1],timeout=60,isolation_level=None)\nc.execute('pragma journal_mode='+sys.argv[2])\n\
        c.execute('create table if not exists t(a)')\nprint('writing',flush=True)\n\
        while True:\n c.execute('begin immediate')\n c.execute('insert into t values(1)')\n c.execute('insert into t values(2)')\n c.execute('commit')\n";
    services[1] = shell("carbonapi", "");
    services[1]["command"] = json!(["/usr/bin/env", "python3", "-c", script, "{{ data }}/storage/grafana/grafana.db", "wal"]);
    let mut other = shell("other", "");
    other["command"] = json!(["/usr/bin/env", "python3", "-c", script, "{{ data }}/storage/grafana/old.db", "delete"]);
    services.push(other);
    let bench = Bench::installed(&services);
    bench.good(&["--allow-root", "start"]);
    for service in ["go-carbon", "carbonapi", "other"] {
        until("writing", || bench.log(service).contains("writing"));
    }
    let made = |number: u32| {
        let path = bench.root().join(format!("{number}.tar.gz"));
        let output = admin(&bench, "backup").arg("-d").arg(bench.data()).arg(&path).output().unwrap();
        // Each under its own locks: luck alone would do most of the time.
        assert!(text(&output).contains(", 2 databases"), "{}", text(&output));
        path
    };
    let files: Vec<PathBuf> = (0..8).map(made).collect();
    bench.good(&["--allow-root", "shutdown"]);
    let kept = lose(&bench);
    let mut last = (0, 0);
    for file in files {
        good(&restore(&bench, &file, &[]));
        let halves = fs::read(bench.data().join("storage/whisper/x.wsp")).unwrap();
        assert_eq!(halves[..8], halves[halves.len() - 8..], "an update is half in it");
        let rows = |name: &str| {
            let check = "import sqlite3,sys\nc=sqlite3.connect(sys.argv[1])\nassert c.execute('pragma integrity_check').fetchone()[0]=='ok'\n\
                a,b=[c.execute('select count(*) from t where a=?',(n,)).fetchone()[0] for n in (1,2)]\nassert a==b,(a,b)\nprint(a)\n";
            let database = bench.data().join("storage/grafana").join(name);
            let output = Command::new("python3").args(["-c", check]).arg(database).output().unwrap();
            assert!(output.status.success(), "{}", text(&output));
            String::from_utf8(output.stdout).unwrap().trim().parse::<u64>().unwrap()
        };
        let now = (rows("grafana.db"), rows("old.db"));
        assert!(now.0 >= last.0 && now.1 >= last.1 && now.0 > 0, "{now:?} after {last:?}");
        last = now;
        fs::remove_dir_all(bench.data()).unwrap();
    }
    fs::rename(kept, bench.data()).unwrap();
}

#[test]
fn tar_and_sha256sum_read_it_without_us() {
    let bench = Bench::installed(&services());
    fs::write(bench.data().join("storage/whisper/odd\\\nname"), "x").unwrap();
    let mut streamed = admin(&bench, "backup").arg("-d").arg(bench.data()).arg("-").stdout(Stdio::piped()).spawn().unwrap();
    let out = streamed.stdout.take().unwrap();
    let untar = Command::new("tar").arg("-xzf").arg("-").arg("-C").arg(bench.root()).stdin(out).output().unwrap();
    assert!(streamed.wait().unwrap().success());
    good(&untar);
    let folder = bench.root().join("dkumonitor-backup");
    if Command::new("sha256sum").arg("--version").output().is_ok() {
        let sums =
            Command::new("sha256sum").args(["-c", "--strict", "--quiet", "SHA256SUMS"]).current_dir(&folder).output().unwrap();
        good(&sums);
    }
    let about: Value = serde_json::from_slice(&fs::read(folder.join("backup.json")).unwrap()).unwrap();
    assert_eq!(
        (&about["data"], &about["version"], &about["hostname"]),
        (&json!(bench.data()), &json!("9.9.9"), &json!("local.test"))
    );
    let mut backed_up = admin(&bench, "backup").arg("-d").arg(bench.data()).arg("-").stdout(Stdio::piped()).spawn().unwrap();
    let checked = admin(&bench, "restore").args(["-", "--check"]).stdin(backed_up.stdout.take().unwrap()).output().unwrap();
    good(&checked);
    backed_up.wait().unwrap();
}

#[test]
fn what_is_not_whole_is_refused_and_changes_nothing() {
    let bench = Bench::installed(&services());
    fs::write(bench.data().join("storage/whisper/a.wsp"), vec![7; 100_000]).unwrap();
    let file = backup(&bench, "b.tar.gz");
    let before = everything(&bench.data());
    let refused = |output: Output, wanted: &str| {
        let said = text(&output);
        assert!(output.status.code() == Some(1) && said.contains(wanted), "\"{wanted}\" is not in:\n{said}");
        assert_eq!(everything(&bench.data()), before);
        let left: Vec<_> = fs::read_dir(bench.root())
            .unwrap()
            .filter(|entry| entry.as_ref().unwrap().file_name().as_bytes()[0] == b'.')
            .collect();
        assert!(left.is_empty(), "{left:?}");
    };
    let whole = fs::read(&file).unwrap();
    let bad = bench.root().join("bad.tar.gz");
    for cut in [0, 10, whole.len() / 2, whole.len() - 9] {
        fs::write(&bad, &whole[..cut]).unwrap();
        refused(restore(&bench, &bad, &[]), "");
        refused(restore(&bench, &bad, &["--check"]), "is no good");
    }
    // Each of these is a good tar that somebody has changed.
    let change = |script: &str| {
        let head = "import tarfile,io,sys\nold=tarfile.open(sys.argv[1])\nnew=tarfile.open(sys.argv[2],'w:gz')\n\
            def add(name,content,**more):\n i=tarfile.TarInfo(name); i.size=len(content); i.mode=0o600\n [setattr(i,k,v) for k,v in more.items()]\n new.addfile(i,io.BytesIO(content))\n\
            for m in old:\n c=old.extractfile(m).read() if m.isfile() else b''\n";
        let script = format!("{head}{script}\nnew.close()\n");
        let output = Command::new("python3").args(["-c", &script]).args([&file, &bad]).output().unwrap();
        assert!(output.status.success(), "{}", text(&output));
    };
    let keep = " new.addfile(m,io.BytesIO(c))";
    for (script, wanted) in [
        (format!(" if m.name.endswith('a.wsp'): c=c[:5]+b'x'+c[6:]\n{keep}"), "a.wsp is not what was backed up"),
        (format!(" if m.name.endswith('a.wsp'): continue\n{keep}"), "a.wsp is missing"),
        (format!(" if m.name.endswith('SHA256SUMS'): add('dkumonitor-backup/data/more',b'x')\n{keep}"), "data/more was not backed up"),
        (format!(" if m.name.endswith('SHA256SUMS'): continue\n{keep}"), "is cut off"),
        (format!(" if m.name.endswith('SHA256SUMS'): add('dkumonitor-backup/data/../../evil',b'x')\n{keep}"), "which no backup does"),
        (format!(" if m.name.endswith('SHA256SUMS'): add('/evil',b'x')\n{keep}"), "which no backup does"),
        // A file through a link that leads out.
        (
            format!(" if m.name.endswith('SHA256SUMS'): add('dkumonitor-backup/data/out',b'',type=tarfile.SYMTYPE,linkname='..'); add('dkumonitor-backup/data/out/evil',b'x')\n{keep}"),
            "was not backed up",
        ),
        (format!(" if m.name.endswith('SHA256SUMS'): add('dkumonitor-backup/data/p',b'',type=tarfile.FIFOTYPE)\n{keep}"), "neither file nor folder"),
        (" c=c.replace(b'9.9.9',b'9.9.8') if m.name.endswith('backup.json') else c\n new.addfile(m,io.BytesIO(c))".to_owned(), "it is of version 9.9.8"),
        (" c=c.replace(b'\"schema\": 1',b'\"schema\": 9') if m.name.endswith('backup.json') else c\n new.addfile(m,io.BytesIO(c))".to_owned(), "its format is 9"),
    ] {
        change(&script);
        refused(restore(&bench, &bad, &[]), wanted);
        assert!(!bench.root().join("evil").exists() && !Path::new("/evil").exists());
    }
    fs::write(&bad, "no archive").unwrap();
    refused(restore(&bench, &bad, &[]), "cannot restore");
    // Places.
    let to = |path: &Path| admin(&bench, "backup").arg("-d").arg(bench.data()).arg(path).output().unwrap();
    refused(to(&file), "it is there already");
    refused(to(&bench.data().join("b")), "it lies in the data folder");
    refused(to(&bench.root().join("none/b")), "there is no such folder");
    let full = bench.root().join("full");
    fs::create_dir(&full).unwrap();
    fs::write(full.join("x"), "precious").unwrap();
    refused(restore(&bench, &file, &["-d", full.to_str().unwrap()]), "is not a data folder");
    bench.good(&["--allow-root", "start"]);
    refused(restore(&bench, &file, &[]), "dkm shutdown");
}

#[test]
fn a_stopped_folder_is_replaced_and_kept() {
    let bench = Bench::installed(&services());
    fs::write(bench.data().join("storage/whisper/a"), "old").unwrap();
    let file = backup(&bench, "b.tar.gz");
    fs::write(bench.data().join("storage/whisper/a"), "new").unwrap();
    let said = good(&restore(&bench, &file, &[]));
    assert_eq!(fs::read_to_string(bench.data().join("storage/whisper/a")).unwrap(), "old");
    let kept = said.lines().find_map(|line| line.strip_prefix("What was there is in ")?.split(';').next()).unwrap();
    assert_eq!(fs::read_to_string(Path::new(kept).join("storage/whisper/a")).unwrap(), "new");
}

#[test]
fn another_place_is_written_into_the_configuration() {
    let bench = Bench::installed(&services());
    let disk = bench.root().join("big disk");
    fs::create_dir(&disk).unwrap();
    fs::write(disk.join("a.wsp"), "on another disk").unwrap();
    fs::remove_dir(bench.data().join("storage/whisper")).unwrap();
    symlink(&disk, bench.data().join("storage/whisper")).unwrap();
    let mine = bench.data().join("conf/mine.conf");
    fs::write(&mine, format!("{}/x {}2", bench.data().display(), bench.data().display())).unwrap();
    let file = backup(&bench, "b.tar.gz");
    let place = bench.root().join("elsewhere/the copy");
    good(&restore(&bench, &file, &["-d", place.to_str().unwrap()]));
    let read = |name: &str| fs::read_to_string(place.join(name)).unwrap();
    assert_eq!(read("conf/a.conf"), format!("data = \"{}\"\nport = {}\n", place.display(), bench.port + 1));
    assert_eq!(read("conf/mine.conf"), format!("{}/x {}2", place.display(), bench.data().display()));
    assert_eq!(read("storage/whisper/a.wsp"), "on another disk");
    assert!(!place.join("storage/whisper").is_symlink());
    // To an update it is as if it had been installed there.
    let mut again = Command::new(bench.bundle_path().join("installer"));
    again.arg("-d").arg(&place).arg("-p").arg(bench.port.to_string()).args(["-t", "backend", "--hostname", "local.test"]);
    assert!(good(&again.output().unwrap()).contains("nothing to do"));
    let mut update = Command::new(bench.bundle_path().join("installer"));
    let said = good(&update.args(["--update", "--dry-run", "-d"]).arg(&place).output().unwrap());
    assert!(said.contains("nothing to do"), "{said}");
    // Such a path is written otherwise than it is in some files.
    let odd = bench.root().join("it's");
    let output = restore(&bench, &file, &["-d", odd.to_str().unwrap()]);
    assert!(!output.status.success() && text(&output).contains("has a quote"), "{}", text(&output));
}

#[test]
fn a_folder_keeps_as_many_as_wanted() {
    let bench = Bench::installed(&services());
    let folder = bench.root().join("backups");
    fs::create_dir(&folder).unwrap();
    for name in
        ["local.test-20200101T000000Z", "local.test-20210101T000000Z", "local.test-20220101T000000Z", "other-20200101T000000Z"]
    {
        fs::write(folder.join(format!("dkumonitor-{name}.tar.gz")), "").unwrap();
    }
    fs::write(folder.join("dkumonitor-local.test-notes.tar.gz"), "").unwrap();
    let output = admin(&bench, "backup").arg("-d").arg(bench.data()).args(["--keep", "2"]).arg(&folder).output().unwrap();
    good(&output);
    let mut names: Vec<String> =
        fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    assert_eq!(names.len(), 4, "{names:?}");
    assert_eq!(names[0], "dkumonitor-local.test-20220101T000000Z.tar.gz");
    assert!(names[1].starts_with("dkumonitor-local.test-2") && names[1] > names[0], "{names:?}");
    assert_eq!(names[2..], ["dkumonitor-local.test-notes.tar.gz", "dkumonitor-other-20200101T000000Z.tar.gz"]);
    good(&restore(&bench, &folder.join(&names[1]), &["--check"]));
}

#[test]
fn root_gives_it_to_whom_it_belonged_or_to_another() {
    if !nix::unistd::geteuid().is_root() {
        return;
    }
    let bench = Bench::installed(&services());
    let chown = Command::new("chown").args(["-Rh", "12345:12345"]).arg(bench.data()).status().unwrap();
    assert!(chown.success());
    let file = backup(&bench, "b.tar.gz");
    assert_eq!(fs::metadata(bench.data().join("run")).unwrap().uid(), 12345);
    let owners = |root: &Path| {
        let output = Command::new("find").arg(root).args(["-printf", "%u\n"]).output().unwrap();
        let mut all: Vec<String> = String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect();
        all.sort();
        all.dedup();
        all
    };
    let kept = lose(&bench);
    good(&restore(&bench, &file, &[]));
    assert_eq!(owners(&bench.data()), ["12345"]);
    fs::remove_dir_all(bench.data()).unwrap();
    good(&restore(&bench, &file, &["--user", "nobody"]));
    assert_eq!(owners(&bench.data()), ["nobody"]);
    drop(kept);
}
