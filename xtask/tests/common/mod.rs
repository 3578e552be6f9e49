//! What the tests of the real program share: a stack made on the spot, a server, and ways to wait.
#![allow(dead_code, reason = "each test program uses its own part of this")]
#![allow(clippy::unwrap_used, reason = "to panic is how a test fails")]

pub mod machines;
pub mod monitor;
pub mod repacked;

use sha2::{Digest as _, Sha256};
use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// A stack in a folder whose name has blanks, with its build and dist folders.
pub struct Place {
    folder: PathBuf,
    /// Ends the folder with the place.
    _temporary: Option<tempfile::TempDir>,
}

impl Place {
    /// An empty stack.
    pub fn new() -> Self {
        let temporary = tempfile::Builder::new().prefix("a place with blanks ").tempdir().unwrap();
        Self::made(temporary.path().to_owned(), Some(temporary))
    }

    /// An empty stack for a static, which nothing ends: its folder stays until the next one of that name is made.
    pub fn lasting(name: &str) -> Self {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("a place with blanks {name}"));
        if folder.exists() {
            // Go's module cache is read-only.
            assert!(Command::new("chmod").args(["-R", "u+w"]).arg(&folder).status().unwrap().success());
            fs::remove_dir_all(&folder).unwrap();
        }
        Self::made(folder, None)
    }

    fn made(folder: PathBuf, temporary: Option<tempfile::TempDir>) -> Self {
        for name in ["stack/recipes", "stack/patches"] {
            fs::create_dir_all(folder.join(name)).unwrap();
        }
        Self { folder, _temporary: temporary }
    }

    /// A path in it.
    pub fn path(&self, inner: &str) -> PathBuf {
        self.folder.join(inner)
    }

    /// Writes a file, folders on the way included.
    pub fn write(&self, inner: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(inner);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, content).unwrap();
        path
    }

    /// Writes a stack of one component called `thing`, made from this archive without any compiling.
    pub fn one_component(&self, urls: &[String], archive: &[u8]) {
        self.locked(urls, &sha256(archive), archive.len());
        self.write(
            "stack/recipes/thing.toml",
            "summary = \"a file\"\n[[install]]\nfrom = \"src/hello.txt\"\nto = \"share/hello.txt\"\n",
        );
    }

    /// Writes the lock of that stack.
    pub fn locked(&self, urls: &[String], sha256: &str, size: usize) {
        let lock = format!(
            "[[source]]\nname = \"thing\"\nversion = \"1.0+x\"\nurls = {urls:?}\nsha256 = \"{sha256}\"\nsize = {size}\nlicense = \"MIT\"\n"
        );
        self.write("stack/vendor.lock", lock);
    }

    /// Runs the program on this stack.
    pub fn xtask(&self, args: &[&str]) -> Outcome {
        let mut command = self.command(args);
        Outcome::of(&command.output().unwrap())
    }

    /// The program, ready to be run on this stack.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_xtask"));
        command.args(&args[..1]).arg("--stack").arg(self.path("stack")).arg("--build-dir").arg(self.path("build"));
        if args[0] == "package" {
            command.arg("--dist-dir").arg(self.path("dist"));
        }
        command.args(&args[1..]);
        for name in ["http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY", "SOURCE_DATE_EPOCH"] {
            command.env_remove(name);
        }
        // What is said must not depend on who runs the tests.
        for name in ["GITHUB_ACTIONS", "GITLAB_CI", "BUILDKITE", "TF_BUILD"] {
            command.env_remove(name);
        }
        command
    }

    /// The staged tree.
    pub fn tree(&self) -> PathBuf {
        self.path("dist/dkumonitor-stack-").with_file_name(format!("dkumonitor-stack-{}", env!("CARGO_PKG_VERSION")))
    }

    /// The archive.
    pub fn archive(&self) -> PathBuf {
        self.path("dist").join(format!("dkumonitor-stack-{}.tar.gz", env!("CARGO_PKG_VERSION")))
    }
}

/// A stack whose one component is compiled by a `configure` and a make file of its own.
pub fn compiled(makefile: &str) -> Place {
    let place = Place::new();
    place.write("stack/vendor.lock", "[[source]]\nname = \"thing\"\nversion = \"1\"\npath = \"thing\"\nlicense = \"MIT\"\n");
    place.write(
        "stack/recipes/thing.toml",
        "summary = \"x\"\n[[step]]\nname = \"compile\"\n[step.autotools]\n[[install]]\nfrom = \"dest/opt/thing\"\nto = \"bin/thing\"\n",
    );
    let configure = place.write("stack/thing/configure", "#!/bin/sh\necho configuring in \"$PWD\"\n");
    fs::set_permissions(configure, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    place.write("stack/thing/Makefile", makefile);
    place
}

/// A make file for [`compiled`] that does what the recipe wants.
pub const GOOD_MAKEFILE: &str =
    "all:\n\techo made > thing\ninstall:\n\tmkdir -p \"$(DESTDIR)/opt\"\n\tinstall -m 755 thing \"$(DESTDIR)/opt/thing\"\n";

/// Writes a new secret key of minisign to a file that only its owner can read, and the public one beside it, as `.pub`.
pub fn new_key(path: &Path, password: Option<&str>) {
    let (public, secret) = match password {
        Some(password) => {
            let (mut public, mut secret) = (Vec::new(), Vec::new());
            let password = Some(password.to_owned());
            minisign::KeyPair::generate_and_write_encrypted_keypair(&mut public, &mut secret, None, password).unwrap();
            (public, secret)
        }
        None => {
            let pair = minisign::KeyPair::generate_unencrypted_keypair().unwrap();
            (pair.pk.to_box().unwrap().to_bytes(), pair.sk.to_box(None).unwrap().to_bytes())
        }
    };
    fs::write(path.with_added_extension("pub"), public).unwrap();
    fs::write(path, secret).unwrap();
    fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
}

/// How a run ended and what it said.
#[derive(Debug)]
pub struct Outcome {
    /// The exit status; -1 for a signal.
    pub status: i32,
    /// Standard output and standard error.
    pub text: String,
}

impl Outcome {
    /// Of a finished process.
    pub fn of(output: &Output) -> Self {
        let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        Self { status: output.status.code().unwrap_or(-1), text }
    }

    /// Fails the test unless the run was good.
    #[track_caller]
    pub fn good(self) -> String {
        assert_eq!(self.status, 0, "{}", self.text);
        self.text
    }

    /// Fails the test unless the run failed with this status and said all of this.
    #[track_caller]
    pub fn bad(self, status: i32, parts: &[&str]) -> String {
        assert_eq!(self.status, status, "{}", self.text);
        for part in parts {
            assert!(self.text.contains(part), "\"{part}\" is not in:\n{}", self.text);
        }
        self.text
    }
}

/// The Python of an environment that has what a file of `xtask/tests/` pins, made on first use; none where Python cannot make
/// one.
pub fn python(requirements: &str) -> Option<PathBuf> {
    static MAKING: Mutex<()> = Mutex::new(());
    let _one = MAKING.lock().unwrap();
    let path = workspace().join("xtask/tests").join(requirements);
    let wanted = fs::read_to_string(&path).unwrap();
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(requirements.trim_end_matches(".txt"));
    let (python, done) = (folder.join("bin/python"), folder.join("requirements.txt"));
    if fs::read_to_string(&done).is_ok_and(|made| made == wanted) {
        return Some(python);
    }
    let made = Command::new("python3").args(["-m", "venv", "--clear"]).arg(&folder).output();
    if !made.is_ok_and(|made| made.status.success()) {
        return None;
    }
    let pip =
        ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--only-binary", ":all:", "--require-hashes", "-r"];
    let installed = Command::new(&python).args(pip).arg(&path).output().unwrap();
    assert!(installed.status.success(), "{}", Outcome::of(&installed).text);
    fs::write(done, wanted).unwrap();
    Some(python)
}

/// The hash of bytes as the lock has it.
pub fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A `.tar.gz` of these files.
pub fn tar_gz(files: &[(&str, &str)]) -> Vec<u8> {
    let mut tar = tar::Builder::new(flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast()));
    for (name, content) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        // Set byte by byte: the library itself refuses the names that hostile archives have.
        let field = &mut header.as_old_mut().name;
        field[..name.len()].copy_from_slice(name.as_bytes());
        header.set_cksum();
        tar.append(&header, content.as_bytes()).unwrap();
    }
    tar.into_inner().unwrap().finish().unwrap()
}

/// A server on loopback that answers every request with these bytes and counts nothing. It ends with the test program.
pub fn serve(status: &str, content_type: &str, body: Vec<u8>, said_length: Option<usize>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let length = said_length.unwrap_or(body.len());
    let head =
        format!("HTTP/1.1 {status}\r\ncontent-type: {content_type}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n");
    let (head, body) = (Arc::new(head), Arc::new(body));
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let (head, body) = (Arc::clone(&head), Arc::clone(&body));
            std::thread::spawn(move || {
                // Whole, or what is sent could be lost to a reset.
                if read_request(&mut stream).is_some() {
                    let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&body));
                }
            });
        }
    });
    address
}

/// Reads a request with its body; none where the client has left before its end, as a probe does.
fn read_request(stream: &mut TcpStream) -> Option<()> {
    let mut reader = BufReader::new(stream);
    let mut length = 0;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok().filter(|count| *count > 0)?;
        if line.trim_end().is_empty() {
            break;
        }
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().ok()?;
        }
    }
    reader.read_exact(&mut vec![0; length]).ok()
}

/// Flips a bit in the checksum of an archive's last block: one that always means something. Elsewhere there are bits that mean nothing,
/// such as those between the end of a block's data and the next byte; what becomes of each bit is tested where archives are read.
pub fn flip_checksum(path: &Path) {
    let mut bytes = fs::read(path).unwrap();
    let checksum = bytes.len() - 8;
    bytes[checksum] ^= 1;
    fs::write(path, bytes).unwrap();
}

/// A port on loopback where nobody listens: unlike one that was free just now it is given to nobody else.
pub fn closed_port() -> u16 {
    1
}

/// The body of a GET on loopback, whatever its status; none where nobody answers.
pub fn get(port: u16, path: &str) -> Option<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(10))).ok()?;
    stream.write_all(format!("GET {path} HTTP/1.0\r\nHost: 127.0.0.1\r\n\r\n").as_bytes()).ok()?;
    let mut text = Vec::new();
    stream.read_to_end(&mut text).ok()?;
    let text = String::from_utf8_lossy(&text).into_owned();
    text.split_once("\r\n\r\n").map(|(_, body)| body.to_owned())
}

/// Waits until `look` finds something, and fails the test with `what` after `patience`.
#[track_caller]
pub fn wait_for<T>(what: &str, patience: Duration, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + patience;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited {patience:?} in vain for {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// How a process that was started with piped output ends; it is killed, and the test fails, when it does not.
#[track_caller]
pub fn end_of(mut child: std::process::Child, patience: Duration) -> Outcome {
    let read = |stream: Option<Box<dyn std::io::Read + Send>>| {
        std::thread::spawn(move || {
            let mut text = Vec::new();
            // What a killed process leaves unread is not missed.
            let _ = stream.map(|mut stream| stream.read_to_end(&mut text));
            text
        })
    };
    let stdout = read(child.stdout.take().map(|stream| Box::new(stream) as _));
    let stderr = read(child.stderr.take().map(|stream| Box::new(stream) as _));
    let deadline = Instant::now() + patience;
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        if Instant::now() > deadline {
            let _ = child.kill();
            panic!("waited {patience:?} in vain for the end of process {}", child.id());
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    Outcome::of(&Output { status, stdout: stdout.join().unwrap(), stderr: stderr.join().unwrap() })
}

/// So many characters that look random, so that they stay as many however they are packed, and are the same in every run.
pub fn noise(count: usize) -> String {
    let mut state = 1_u64;
    let next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        char::from(b' ' + (state >> 58) as u8)
    };
    std::iter::repeat_with(next).take(count).collect()
}

/// Numbers that look random and are the same in every run.
pub fn pseudo_random(seed: u64) -> impl FnMut() -> u64 {
    let mut state = seed;
    move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        state >> 33
    }
}

/// Kills runs at any instant, and sees to it that enough of them are really killed however fast the machine is just now: the
/// span within which it does so shrinks with each run that ended before, and grows with each that was killed.
pub struct Kills {
    random: Box<dyn FnMut() -> u64>,
    span: Duration,
    /// How many runs were killed.
    pub killed: usize,
    /// How many runs had ended before.
    pub ended: usize,
}

impl Kills {
    /// None yet; a run takes about `span`.
    pub fn within(span: Duration, seed: u64) -> Self {
        Self { random: Box::new(pseudo_random(seed)), span, killed: 0, ended: 0 }
    }

    /// A number that looks random and is the same in every run.
    pub fn number(&mut self) -> u64 {
        (self.random)()
    }

    /// Kills a run, unless it ends before.
    pub fn kill(&mut self, mut run: std::process::Child) {
        let instant = Instant::now() + self.span.mul_f64((self.number() % 1000) as f64 / 1000.0);
        while Instant::now() < instant && run.try_wait().unwrap().is_none() {
            std::thread::sleep(Duration::from_millis(1));
        }
        let _ = run.kill();
        if run.wait().unwrap().success() {
            self.ended += 1;
            self.span = self.span.mul_f64(0.7);
        } else {
            self.killed += 1;
            self.span = self.span.mul_f64(1.2);
        }
    }
}

/// A file system of 1 MB, mounted for as long as this lives. Only root can have one.
pub struct Tmpfs(pub PathBuf);

impl Tmpfs {
    /// Mounts it there; none where that is not allowed.
    pub fn mount(at: PathBuf) -> Option<Self> {
        fs::create_dir_all(&at).unwrap();
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=1m", "tmpfs"]).arg(&at).status();
        mounted.is_ok_and(|status| status.success()).then_some(Self(at))
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
    }
}

/// The repository's root.
pub fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// Where the miniature stack is built, for all tests: the next run finds there what has not changed. The blank is there on
/// purpose.
pub fn ministack_place(inner: &str) -> PathBuf {
    let place = Path::new(env!("CARGO_TARGET_TMPDIR")).join("ministack built here").join(inner);
    fs::create_dir_all(place.parent().unwrap()).unwrap();
    place
}
