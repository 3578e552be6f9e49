//! From one version to the next and back, with the user's changes and the data intact, whatever dies.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Instant;

use serde_json::{Value, json};

use crate::bench::{Bench, Instants, alive, text, until};

/// A backend whose configuration has three files, and a copy of its bundle that is the next version: it has other contents for two of
/// them, one file more and one less.
struct Two {
    bench: Bench,
    next: PathBuf,
}

fn services(files: &[&str]) -> Vec<Value> {
    let mut services = Bench::two();
    let config = |name: &&str| json!({"template": format!("conf/{name}"), "to": format!("conf/{name}")});
    services[0]["config"] = files.iter().map(config).collect();
    services
}

impl Two {
    fn new() -> Self {
        Self::with(&|_| {})
    }

    /// With something done to the services of both. The component grafana, which they may have, is of another version in each.
    fn with(change: &dyn Fn(&mut Vec<Value>)) -> Self {
        let services = |files: &[&str]| {
            let mut services = services(files);
            change(&mut services);
            services
        };
        let bench = Bench::bundle(&services(&["mine.conf", "theirs.conf", "same.conf", "old.conf"]));
        let grafana =
            |version: &str| json!([{"name": "grafana", "version": version, "source": {"path": "x", "tree-sha256": "0"}}]);
        let edit = |bundle: &Path, change: &dyn Fn(&mut Value)| {
            let path = bundle.join("manifest.json");
            let mut manifest: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
            change(&mut manifest);
            fs::write(&path, manifest.to_string()).unwrap();
        };
        edit(&bench.bundle_path(), &|manifest| manifest["components"] = grafana("1"));
        for name in ["mine", "theirs", "same", "old"] {
            fs::write(bench.bundle_path().join(format!("conf/{name}.conf")), format!("{name} 1\n")).unwrap();
        }
        let next = bench.root().join("the next bundle");
        let copied = Command::new("cp").arg("-a").arg(bench.bundle_path()).arg(&next).status().unwrap();
        assert!(copied.success());
        for name in ["mine", "theirs", "new"] {
            fs::write(next.join(format!("conf/{name}.conf")), format!("{name} 2\n")).unwrap();
        }
        edit(&next, &|manifest| {
            manifest["version"] = json!("10.0.0");
            manifest["components"] = grafana("2");
            manifest["services"] = json!(services(&["mine.conf", "theirs.conf", "same.conf", "new.conf"]));
        });
        let output = bench.install(&[]);
        assert!(output.status.success(), "{}", text(&output));
        Self { bench, next }
    }

    fn file(&self, path: &str) -> Option<String> {
        fs::read_to_string(self.bench.data().join(path)).ok()
    }

    fn command(&self, bundle: &Path, more: &[&str]) -> Command {
        let mut command = Command::new(bundle.join("installer"));
        command.arg("-d").arg(self.bench.data()).args(more);
        command
    }

    fn update(&self, more: &[&str]) -> Output {
        self.command(&self.next, &["--update", "--yes"]).args(more).output().unwrap()
    }

    fn rollback(&self, more: &[&str]) -> Output {
        self.command(&self.next, &["--rollback", "--yes"]).args(more).output().unwrap()
    }

    fn leads_to(&self) -> PathBuf {
        fs::read_link(self.bench.data().join("bundle")).unwrap()
    }

    /// Everything below the data folder but what runs leave, with contents.
    fn all(&self) -> BTreeMap<PathBuf, String> {
        let root = self.bench.data();
        let mut folders = vec![root.clone()];
        let mut out = BTreeMap::new();
        while let Some(folder) = folders.pop() {
            for path in fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()) {
                let name = path.strip_prefix(&root).unwrap().to_owned();
                if path.is_symlink() {
                    out.insert(name, fs::read_link(&path).unwrap().display().to_string());
                } else if path.is_dir() {
                    if !["run", "previous", "update", "update.draft"].iter().any(|skip| name == Path::new(skip)) {
                        folders.push(path);
                    }
                } else {
                    out.insert(name, fs::read_to_string(&path).unwrap());
                }
            }
        }
        out
    }
}

#[track_caller]
fn good(output: &Output) -> String {
    assert!(output.status.success(), "{}", text(output));
    text(output)
}

#[test]
fn what_the_user_changed_stays_and_the_rest_moves_on_and_back() {
    let two = Two::new();
    fs::write(two.bench.data().join("conf/mine.conf"), "mine, really\n").unwrap();
    fs::write(two.bench.data().join("conf/services.d/own.toml"), "command = [\"/bin/sh\", \"-c\", \"exec sleep 1000\"]\n")
        .unwrap();
    let before = two.all();
    let said = good(&two.update(&[]));
    assert!(said.contains("went from 9.9.9 to 10.0.0") && said.contains("kept     conf/mine.conf"), "{said}");
    assert_eq!(two.file("conf/mine.conf").unwrap(), "mine, really\n");
    assert_eq!(two.file("conf/mine.conf.new").unwrap(), "mine 2\n");
    assert_eq!(two.file("conf/theirs.conf").unwrap(), "theirs 2\n");
    assert_eq!(two.file("conf/same.conf").unwrap(), "same 1\n");
    assert_eq!(two.file("conf/new.conf").unwrap(), "new 2\n");
    assert_eq!(two.file("conf/old.conf"), None);
    assert!(two.file("conf/services.d/own.toml").is_some());
    assert_eq!(two.leads_to(), two.next);
    let said = good(&two.update(&[]));
    assert!(said.contains("nothing to do"), "{said}");
    good(&two.rollback(&[]));
    assert!(two.all() == before, "not as before: {:#?}", two.all());
    // The way back is a way, too.
    good(&two.rollback(&[]));
    assert_eq!((two.leads_to(), two.file("conf/theirs.conf").unwrap()), (two.next.clone(), "theirs 2\n".to_owned()));
}

#[test]
fn what_runs_runs_again_by_the_new_version_and_what_rests_rests() {
    let two = Two::new();
    two.bench.good(&["start", "go-carbon"]);
    let (supervisor, carbon) = (two.bench.pid(""), two.bench.pid("go-carbon"));
    let refused = two.command(&two.next, &["--update"]).stdin(std::process::Stdio::null()).output().unwrap();
    assert!(!refused.status.success() && text(&refused).contains("give --yes"), "{}", text(&refused));
    assert_eq!(two.bench.pid("go-carbon"), carbon);
    good(&two.update(&[]));
    assert_eq!((two.bench.state("go-carbon"), two.bench.state("carbonapi")), ("running".into(), "stopped".into()));
    assert!(!alive(carbon));
    // The supervisor is another program by now, in the same process: nobody was without one.
    assert_eq!(two.bench.pid(""), supervisor);
    if let Ok(program) = fs::read_link(format!("/proc/{supervisor}/exe")) {
        assert!(program.starts_with(&two.next), "{}", program.display());
    }
    let carbon = two.bench.pid("go-carbon");
    good(&two.rollback(&["--no-restart"]));
    assert_eq!(two.bench.pid("go-carbon"), carbon, "it was to be left alone");
    assert_eq!(two.leads_to(), two.bench.bundle_path());
}

#[test]
fn a_dry_run_tells_and_changes_nothing() {
    let two = Two::new();
    let before = two.all();
    let said = good(&two.update(&["--dry-run"]));
    assert!(said.contains("would go from 9.9.9 to 10.0.0") && said.contains("changed  conf/theirs.conf"), "{said}");
    let output = two.update(&["--dry-run", "--json"]);
    let told: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&told["to"]["version"], &told["dry-run"]), (&json!("10.0.0"), &json!(true)));
    assert_eq!(two.all(), before);
}

/// As in the container of a newer image, or when the old version's package was removed first.
#[test]
fn where_the_old_bundle_is_gone_a_stopped_folder_is_updated_and_a_running_one_is_not() {
    let two = Two::new();
    let elsewhere = two.bench.root().join("elsewhere");
    two.bench.good(&["start"]);
    fs::rename(two.bench.bundle_path(), &elsewhere).unwrap();
    let output = two.update(&[]);
    assert!(!output.status.success() && text(&output).contains("is its bundle still there?"), "{}", text(&output));
    fs::rename(&elsewhere, two.bench.bundle_path()).unwrap();
    two.bench.good(&["shutdown"]);
    fs::rename(two.bench.bundle_path(), &elsewhere).unwrap();
    assert!(good(&two.update(&[])).contains("went from 9.9.9 to 10.0.0"));
    assert_eq!((two.leads_to(), two.file("conf/theirs.conf")), (two.next.clone(), Some("theirs 2\n".to_owned())));
    two.bench.good(&["start"]);
    two.bench.good(&["shutdown"]);
}

#[test]
fn refuses_what_is_no_update() {
    let two = Two::new();
    let refused = |output: Output, why: &str| {
        assert!(!output.status.success() && text(&output).contains(why), "{why} is not in {}", text(&output));
    };
    refused(two.rollback(&[]), "has not been updated");
    good(&two.update(&[]));
    let older = two.command(&two.bench.bundle_path(), &["--update"]).output().unwrap();
    refused(older, "the older 9.9.9");
    fs::rename(two.bench.bundle_path(), two.bench.root().join("away")).unwrap();
    refused(two.rollback(&[]), "is not there any more");
    fs::rename(two.bench.root().join("away"), two.bench.bundle_path()).unwrap();
    let nowhere = Command::new(two.next.join("installer")).args(["--update", "-d"]).arg(two.bench.root()).output().unwrap();
    refused(nowhere, "is not a data folder");
}

#[test]
fn the_same_installation_again_is_nothing_to_do_and_another_one_is_refused() {
    let two = Two::new();
    let before = two.all();
    let again = two.bench.install(&[]);
    assert!(good(&again).contains("nothing to do"));
    let other = two.bench.install(&["--interval", "60"]);
    assert!(!other.status.success() && text(&other).contains("other arguments"), "{}", text(&other));
    assert_eq!(two.all(), before);
}

/// Killed at any instant, the folder is at the old version or goes on to the new one; never in between.
#[test]
fn killed_at_any_instant_the_update_has_not_happened_or_is_finished_by_the_next() {
    let two = Two::new();
    fs::write(two.bench.data().join("conf/mine.conf"), "mine, really\n").unwrap();
    let old = two.all();
    let started = Instant::now();
    good(&two.update(&[]));
    let mut instants = Instants(started.elapsed());
    let new = two.all();
    good(&two.rollback(&[]));
    assert_eq!(two.all(), old);
    let mut interrupted = 0;
    for round in 0.. {
        if round >= 25 && interrupted > 3 {
            break;
        }
        assert!(round < 250, "only {interrupted} of {round} were killed in time");
        let child = two.command(&two.next, &["--update", "--yes"]).stderr(std::process::Stdio::null()).spawn().unwrap();
        // Spread over the time that an update takes.
        interrupted += usize::from(instants.kill(child, round % 25 * 4));
        if two.bench.data().join("update").exists() {
            // Decided: any command of the new installer carries it out first.
            good(&two.update(&[]));
            assert_eq!(two.all(), new, "round {round}");
        } else {
            let now = two.all();
            assert!(now == old || now == new, "round {round}: {now:#?}");
        }
        if two.all() == new {
            good(&two.rollback(&[]));
        }
        assert_eq!(two.all(), old, "round {round}");
    }
}

/// A decided update that its installer did not live to finish is finished before a supervisor starts anything.
#[test]
fn a_supervisor_finishes_an_update_that_was_decided() {
    let two = Two::new();
    good(&two.update(&[]));
    // As if it had been killed right after the decision.
    let data = two.bench.data();
    good(&two.rollback(&[]));
    fs::rename(data.join("previous"), data.join("before")).unwrap();
    good(&two.update(&[]));
    fs::rename(data.join("previous"), data.join("update")).unwrap();
    fs::write(data.join("conf/theirs.conf"), "theirs 1\n").unwrap();
    two.bench.good(&["start"]);
    until("the update is finished", || !data.join("update").exists());
    assert_eq!(two.file("conf/theirs.conf").unwrap(), "theirs 2\n");
}

/// A process that ends with the test, however that ends.
struct Killed(std::process::Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Runs a few lines of Python on a database; what they printed. None where there is no Python that can.
fn python(database: &Path, script: &str) -> Option<String> {
    let mut python = Command::new("python3");
    python.args(["-c", &format!("import sqlite3, sys, os\nc = sqlite3.connect(sys.argv[1])\n{script}")]).arg(database);
    let output = python.output().ok()?;
    let said = text(&output);
    if said.contains("No module named") {
        return None;
    }
    assert!(output.status.success(), "{said}");
    Some(String::from_utf8(output.stdout).unwrap().trim().to_owned())
}

/// Grafana's database as it was comes back with the old version, what was only in its log of changes included; and what the new one
/// wrote comes back with the new one.
#[test]
fn a_rollback_brings_the_database_back() {
    let two = Two::with(&|services| services.push(json!({"name": "grafana", "types": ["backend"], "command": ["/bin/sh"]})));
    let database = two.bench.data().join("storage/grafana/grafana.db");
    fs::create_dir_all(database.parent().unwrap()).unwrap();
    // Ended without its last words: the second row is in the log alone.
    let old = "c.execute('pragma journal_mode=wal')\nc.execute('create table t (x)')\nc.execute('insert into t values (1)')\nc.commit()\n\
               c.execute('pragma wal_checkpoint(truncate)')\nc.execute('insert into t values (2)')\nc.commit()\nos._exit(0)";
    if python(&database, old).is_none() {
        eprintln!("passed over: there is no python3 with sqlite3 to write to a database");
        return;
    }
    let is = |wanted: &str| {
        let look = "print(c.execute('pragma integrity_check').fetchone()[0], [r[0] for r in c.execute('select x from t')])";
        assert_eq!(python(&database, look).unwrap(), format!("ok {wanted}"));
    };
    assert!(database.with_extension("db-wal").metadata().unwrap().len() > 0, "the case that is meant");
    good(&two.update(&[]));
    is("[1, 2]");
    // What a new Grafana may do: other columns, and again an end without last words.
    let new = "c.execute('alter table t add column y')\nc.execute('insert into t values (3, 3)')\nc.commit()\n\
               c.execute('pragma wal_checkpoint(truncate)')\nc.execute('insert into t values (4, 4)')\nc.commit()\nos._exit(0)";
    python(&database, new).unwrap();
    good(&two.rollback(&[]));
    is("[1, 2]");
    let columns = "print([r[1] for r in c.execute('pragma table_info(t)')])";
    assert_eq!(python(&database, columns).unwrap(), "['x']");
    good(&two.rollback(&[]));
    is("[1, 2, 3, 4]");
    assert_eq!(python(&database, columns).unwrap(), "['x', 'y']");
}

/// With the same Grafana in both versions its database is left alone.
#[test]
fn the_same_grafana_keeps_its_database() {
    let two = Two::with(&|services| services.push(json!({"name": "grafana", "types": ["backend"], "command": ["/bin/sh"]})));
    let path = two.next.join("manifest.json");
    let mut manifest: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    manifest["components"][0]["version"] = json!("1");
    fs::write(&path, manifest.to_string()).unwrap();
    let database = two.bench.data().join("storage/grafana/grafana.db");
    fs::create_dir_all(database.parent().unwrap()).unwrap();
    fs::write(&database, "whatever").unwrap();
    good(&two.update(&[]));
    fs::write(&database, "and more").unwrap();
    good(&two.rollback(&[]));
    assert_eq!(fs::read_to_string(&database).unwrap(), "and more");
}

/// Grafana's database is copied while it is written to, and comes back with the old version.
#[test]
fn a_database_in_use_is_copied_whole() {
    let temp = tempfile::tempdir().unwrap();
    let (from, stop) = (temp.path().join("a b.db"), temp.path().join("stop"));
    if Command::new("python3").args(["-c", "import sqlite3"]).status().is_ok_and(|status| status.success()) {
        for mode in ["wal", "delete"] {
            let _ = fs::remove_file(&stop);
            // Every transaction moves one from a row to another: the sum stays 0, and a copy that is torn shows another one.
            let script = format!(
                "import sqlite3, os, sys, random\nc = sqlite3.connect(sys.argv[1], timeout=20, isolation_level=None)\n\
                 c.execute('pragma journal_mode={mode}')\nc.execute('pragma synchronous=off')\nc.execute('pragma wal_autocheckpoint=50')\n\
                 c.execute('create table t (id integer primary key, x, filler)')\n\
                 c.execute('with recursive n(i) as (values(1) union all select i+1 from n where i<4000) insert into t select i, 0, zeroblob(3500) from n')\n\
                 open(sys.argv[1] + '.ready', 'w').close()\n\
                 while not os.path.exists(sys.argv[2]):\n  a, b = random.sample(range(1, 4001), 2)\n  c.execute('begin immediate')\n  \
                 c.execute('update t set x=x-1 where id=?', (a,))\n  c.execute('update t set x=x+1 where id=?', (b,))\n  c.execute('commit')\n"
            );
            let ready = temp.path().join("a b.db.ready");
            let mut writer = Killed(Command::new("python3").args(["-c", &script]).arg(&from).arg(&stop).spawn().unwrap());
            until("the table is there", || ready.exists());
            for round in 0..10 {
                let to = temp.path().join(format!("{mode} {round}.db"));
                assert!(dkumonitor_runtime::install::database::copy(&from, &to).unwrap());
                let check = "import sqlite3, sys\nc = sqlite3.connect(sys.argv[1])\n\
                             print(c.execute('pragma integrity_check').fetchone()[0], c.execute('select sum(x) from t').fetchone()[0])";
                let said = Command::new("python3").args(["-c", check]).arg(&to).output().unwrap();
                assert_eq!(String::from_utf8_lossy(&said.stdout).trim(), "ok 0", "{mode} {round}: {}", text(&said));
            }
            fs::write(&stop, "").unwrap();
            assert!(writer.0.wait().unwrap().success());
            fs::remove_file(&from).unwrap();
            fs::remove_file(&ready).unwrap();
        }
    } else {
        eprintln!("passed over: there is no python3 with sqlite3 to write to a database");
    }
}
