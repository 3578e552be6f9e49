//! The real program with a shared cache: a folder, a WebDAV server (wsgidav), an S3 server (versitygw), and servers that fail.

#![allow(clippy::unwrap_used, reason = "to panic is how a test fails")]

mod common;

use common::{Outcome, Place, closed_port, serve, tar_gz, wait_for};
use std::fs;
use std::io::Write as _;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(60);

/// The one component of all stacks here; its archive is on no server that is still asked.
fn archive() -> Vec<u8> {
    tar_gz(&[("thing-1.0/hello.txt", "hello"), ("thing-1.0/LICENSE", "do what you like")])
}

/// A stack on a machine of its own.
struct Machine {
    place: Place,
    variables: Vec<(&'static str, String)>,
}

impl Machine {
    /// One that can fetch the source.
    fn with_source() -> Self {
        let place = Place::new();
        place.one_component(&["http://127.0.0.1:9/thing.tar.gz".to_owned()], &archive());
        place.write("mirror/thing-1.0+x.tar.gz", archive());
        // What a bundle's files are dated by; else the stack's own time.
        Self { place, variables: vec![("SOURCE_DATE_EPOCH", "1700000000".to_owned())] }
    }

    /// One that cannot: what it needs has to come from the shared cache.
    fn without_source() -> Self {
        let machine = Self::with_source();
        fs::remove_dir_all(machine.place.path("mirror")).unwrap();
        machine
    }

    fn having(mut self, variables: &[(&'static str, String)]) -> Self {
        self.variables.extend_from_slice(variables);
        self
    }

    fn run(&self, args: &[&str]) -> Outcome {
        let mut command = self.place.command(args);
        if args[0] == "package" {
            command.arg("--mirror").arg(self.place.path("mirror"));
        }
        for (name, _) in std::env::vars_os() {
            if ["AWS_", "DKUMONITOR_"].iter().any(|start| name.to_string_lossy().starts_with(start)) {
                command.env_remove(name);
            }
        }
        command.envs(self.variables.iter().map(|(name, value)| (name, value)));
        Outcome::of(&command.output().unwrap())
    }
}

fn files(root: &Path) -> Vec<PathBuf> {
    let all = walkdir::WalkDir::new(root).sort_by_file_name().into_iter().flatten();
    all.filter(|entry| entry.file_type().is_file()).map(walkdir::DirEntry::into_path).collect()
}

/// One machine builds and puts there, another takes from there and builds nothing, and so it says. `stored` is where the
/// server keeps what it is given.
fn from_one_machine_to_another(cache: &str, variables: &[(&'static str, String)], stored: &Path) {
    let one = Machine::with_source().having(variables);
    let reader = ["package", "--cache", cache, "--cache-mode", "read-only"];
    one.run(&reader).good();
    assert!(files(stored).is_empty(), "read-only has written {:?}", files(stored));
    // What was built without is put there when it may be.
    let text = one.run(&["package", "--cache", cache]).good();
    assert!(text.contains("1 result, "), "{text}");
    let there = files(stored);
    assert!(there.len() >= 2, "{there:?}");
    let text = one.run(&["package", "--cache", cache]).good();
    assert!(!text.contains("1 result"), "{text}");

    let other = Machine::without_source().having(variables);
    let plan = other.run(&["plan", "--cache", cache]).good();
    assert!(plan.contains("in the shared cache ("), "{plan}");
    let json = other.run(&["plan", "--cache", cache, "--json"]).good();
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert!(json["components"][0]["in-shared-cache"].as_u64().unwrap() > 0, "{json}");
    let explained = other.run(&["explain", "thing", "--cache", cache]).good();
    assert!(explained.contains("it is in the shared cache"), "{explained}");
    let text = other.run(&["package", "--cache", cache]).good();
    assert!(text.contains("thing from the shared cache") && !text.contains("unpack"), "{text}");
    assert!(fs::read(one.place.archive()).unwrap() == fs::read(other.place.archive()).unwrap());
    assert_eq!(files(stored), there);
    let text = other.run(&["package", "--offline", "--cache", cache]).good();
    assert!(text.contains("unchanged"), "{text}");

    // A flipped bit is named; where the source can be had it is built, and what is there is mended.
    let block = there.iter().find(|path| path.to_string_lossy().contains("/blocks/")).unwrap();
    let mut content = fs::read(block).unwrap();
    *content.last_mut().unwrap() ^= 1;
    fs::write(block, content).unwrap();
    let third = Machine::with_source().having(variables);
    let text = third.run(&["package", "--cache", cache]).good();
    let name = block.file_name().unwrap().to_str().unwrap();
    assert!(text.contains("is ignored") && text.contains(name) && text.contains("1 result, "), "{text}");
    let text = Machine::without_source().having(variables).run(&["package", "--cache", cache]).good();
    assert!(text.contains("thing from the shared cache"), "{text}");
}

#[test]
fn a_folder_serves_a_team() {
    let folder = tempfile::Builder::new().prefix("a shared folder ").tempdir().unwrap();
    let path = folder.path().join("the cache");
    fs::create_dir(&path).unwrap();
    from_one_machine_to_another(path.to_str().unwrap(), &[], &path);
}

#[test]
fn the_environment_may_name_the_place_and_mistakes_are_usage_errors() {
    let folder = tempfile::tempdir().unwrap();
    let place = |value: &str| [("DKUMONITOR_CACHE", value.to_owned()), ("DKUMONITOR_CACHE_MODE", "read-write".to_owned())];
    let machine = Machine::with_source().having(&place(folder.path().to_str().unwrap()));
    let text = machine.run(&["package"]).good();
    assert!(text.contains("1 result, ") && !files(folder.path()).is_empty(), "{text}");
    Machine::with_source().having(&place("ftp://host/x")).run(&["package"]).bad(2, &["DKUMONITOR_CACHE: ftp:// is not known"]);
    Machine::with_source().having(&place("ftp://host/x")).run(&["package", "--cache", "off"]).good();
    let outcome = machine.run(&["package", "--cache", "https://me:hunter2@host/x?sig=hunter2"]);
    assert!(!outcome.text.contains("hunter2"), "{}", outcome.text);
    outcome.bad(2, &["--cache must not have"]);
    machine.run(&["package", "--cache-mode", "sometimes"]).bad(2, &["read-write", "read-only"]);
}

#[test]
fn a_cache_that_is_of_no_use_costs_a_warning() {
    let refusing = serve("403 Forbidden", "text/xml", b"<Error><Code>AccessDenied</Code></Error>".to_vec(), None);
    let lying = serve("200 OK", "text/plain", b"hello".to_vec(), Some(1 << 40));
    let places = [
        (format!("http://127.0.0.1:{}/x", closed_port()), "is not used any more"),
        (format!("http://{refusing}/x"), "HTTP 403 Forbidden (AccessDenied)"),
        (format!("http://{lying}/x"), "claims to have 1099511627776 bytes"),
        ("/proc/no such folder/x".to_owned(), "cannot be used"),
    ];
    for (cache, why) in places {
        let token = [("DKUMONITOR_CACHE_TOKEN", "hunter2".to_owned())];
        let machine = Machine::with_source().having(&token);
        let text = machine.run(&["package", "--cache", &cache]).good();
        let said = text.lines().filter(|line| line.contains("! ") && line.contains("shared cache")).count();
        assert!(text.contains(why) && (1..=2).contains(&said) && !text.contains("hunter2"), "{cache}: {text}");
        assert!(machine.place.archive().is_file());
    }
    let text = Machine::with_source().run(&["package", "--offline", "--cache", "s3://bucket/x"]).good();
    assert!(text.contains("not asked: --offline"), "{text}");
}

/// A server's process on a port of its own; it ends with this value.
struct Server {
    process: Child,
    port: u16,
}

impl Server {
    /// `command` is given a port that was free just now; if it cannot have it, another one.
    fn start(name: &str, command: impl Fn(u16) -> Command) -> Self {
        wait_for(name, PATIENCE, || {
            let port = xtask::free_ports::ten().unwrap();
            let mut process = command(port).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
            wait_for(&format!("an answer of {name}"), PATIENCE, || {
                let ended = process.try_wait().unwrap().is_some();
                (ended || TcpStream::connect(("127.0.0.1", port)).is_ok()).then_some(())
            });
            let alive = process.try_wait().unwrap().is_none();
            alive.then_some(Self { process, port })
        })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Says, past the test harness, that something is not tested here.
fn pass_over(what: &str, why: &str) {
    let _ = writeln!(std::io::stderr(), "── {what}: passed over, {why}");
}

#[test]
fn a_real_webdav_server_serves_a_team_that_has_a_password() {
    let Some(python) = common::python("webdav-requirements.txt") else {
        return pass_over("a real WebDAV server", "python3 cannot make an environment (apt install python3-venv)");
    };
    let folder = tempfile::Builder::new().prefix("webdav ").tempdir().unwrap();
    let root = folder.path().join("root");
    fs::create_dir(&root).unwrap();
    let config = folder.path().join("config.json");
    let settings = serde_json::json!({
        "host": "127.0.0.1",
        "provider_mapping": { "/": root },
        "simple_dc": { "user_mapping": { "*": { "me": { "password": "hunter2" } } } },
        "http_authenticator": { "accept_basic": true, "accept_digest": false, "default_to_digest": false },
    });
    fs::write(&config, settings.to_string()).unwrap();
    let server = Server::start("wsgidav", |port| {
        let mut command = Command::new(&python);
        command.args(["-m", "wsgidav.server.server_cli", "--port", &port.to_string(), "--config"]).arg(&config);
        command
    });
    let cache = format!("http://127.0.0.1:{}/team/cache", server.port);
    let user =
        |password: &str| [("DKUMONITOR_CACHE_USER", "me".to_owned()), ("DKUMONITOR_CACHE_PASSWORD", password.to_owned())];
    let text = Machine::with_source().having(&user("wrong")).run(&["package", "--cache", &cache]).good();
    assert!(text.contains("HTTP 401"), "{text}");
    from_one_machine_to_another(&cache, &user("hunter2"), &root);
}

#[test]
fn a_real_s3_server_serves_a_team() {
    let Some(program) = std::env::split_paths(&std::env::var_os("PATH").unwrap())
        .map(|path| path.join("versitygw"))
        .find(|path| path.is_file())
    else {
        return pass_over(
            "a real S3 server",
            "versitygw is not installed (go install github.com/versity/versitygw/cmd/versitygw@v1.8.0)",
        );
    };
    let folder = tempfile::Builder::new().prefix("s3 ").tempdir().unwrap();
    let root = folder.path().join("root");
    fs::create_dir_all(root.join("team")).unwrap();
    let server = Server::start("versitygw", |port| {
        let mut command = Command::new(&program);
        command.args(["--quiet", "--port", &format!("127.0.0.1:{port}"), "posix"]).arg(&root);
        command.env("ROOT_ACCESS_KEY", "tester").env("ROOT_SECRET_KEY", "hunter2hunter2");
        command
    });
    let access = |secret: &str| {
        [
            ("AWS_ACCESS_KEY_ID", "tester".to_owned()),
            ("AWS_SECRET_ACCESS_KEY", secret.to_owned()),
            ("AWS_ENDPOINT_URL", format!("http://127.0.0.1:{}", server.port)),
            ("AWS_ALLOW_HTTP", "true".to_owned()),
        ]
    };
    let text = Machine::with_source().having(&access("not-hunter2")).run(&["package", "--cache", "s3://team/a"]).good();
    assert!(text.contains("HTTP 403") && text.contains("SignatureDoesNotMatch") && !text.contains("hunter2"), "{text}");
    let text = Machine::with_source().having(&access("hunter2hunter2")).run(&["package", "--cache", "s3://nobody/a"]).good();
    assert!(text.contains("there is no such bucket"), "{text}");
    from_one_machine_to_another("s3://team/some/path", &access("hunter2hunter2"), &root.join("team/some"));
}
