//! A bundle of small helper programs, an installation of it, and the waiting for conditions.
//!
//! The helper that listens on a port is this test program itself: called with `HELPER` in its environment, the test
//! [`helper_entry`] does not return. (With one thread, as on a machine of one core, the test's name would begin its first
//! line.) What only has to do with signals is a line of shell.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::free_ports;

/// No condition may take longer.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// Not a test: what the services of the test bundles run, see the module's documentation.
#[test]
fn helper_entry() {
    let Ok(kind) = std::env::var("HELPER") else { return };
    if let Ok(sign) = std::env::var("HELPER_WAITS_FOR") {
        until("the sign", || Path::new(&sign).exists());
    }
    if let Ok(delay) = std::env::var("HELPER_DELAY_MS") {
        std::thread::sleep(Duration::from_millis(delay.parse().unwrap()));
    }
    match kind.as_str() {
        "listen" => listen(),
        "listen-on" => listen_on(),
        "halves" => halves(),
        "count" => count(),
        "count-on" => count_on(),
        "read-late" => read_late(),
        "notify" => notify(),
        other => panic!("no helper {other}"),
    }
}

/// Answers every HTTP request with 200.
fn listen() {
    let listener = TcpListener::bind(("127.0.0.1", std::env::var("HELPER_PORT").unwrap().parse().unwrap())).unwrap();
    println!("listening");
    for stream in listener.incoming() {
        let mut stream = stream.unwrap();
        let _ = stream.read(&mut [0; 1024]);
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    }
}

/// Listens on several addresses and does nothing else.
fn listen_on() {
    let text = std::env::var("HELPER_LISTEN").unwrap();
    let _listeners: Vec<TcpListener> = text.split(' ').map(|address| TcpListener::bind(address).unwrap()).collect();
    println!("listening");
    std::thread::sleep(PATIENCE * 10);
}

/// Writes the same number to both ends of a file, under a lock and with a pause between them, as go-carbon updates a whisper file.
fn halves() {
    use std::os::unix::fs::FileExt;
    let path = std::env::var("HELPER_FILE").unwrap();
    for number in 1_u64.. {
        let file = fs::OpenOptions::new().write(true).create(true).truncate(false).open(&path).unwrap();
        file.lock().unwrap();
        file.write_all_at(&number.to_le_bytes(), 0).unwrap();
        std::thread::sleep(Duration::from_millis(3));
        file.write_all_at(&number.to_le_bytes(), 20_000).unwrap();
        if number == 1 {
            println!("writing");
        }
        drop(file);
        std::thread::sleep(Duration::from_micros(100));
    }
}

/// Prints numbers as fast as they are taken, each by a write of its own.
fn count() {
    for number in 0_u64.. {
        println!("number {number}");
    }
}

/// Prints numbers, some thousand a second, and goes on where an earlier one was killed: each number is in a file before it is printed,
/// so that of one number at most it is unknown whether it was printed. That one is passed over, and said.
fn count_on() {
    use std::os::unix::fs::FileExt;
    let path = std::env::var("HELPER_FILE").unwrap();
    let file = fs::OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path).unwrap();
    let mut known = [0; 8];
    let mut number = 0;
    if file.read_exact_at(&mut known, 0).is_ok() {
        number = u64::from_le_bytes(known) + 1;
        println!("passing over {}", number - 1);
    }
    loop {
        for _ in 0..20 {
            file.write_all_at(&number.to_le_bytes(), 0).unwrap();
            println!("number {number}");
            number += 1;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Takes one connection, and reads it only a good while later.
fn read_late() {
    let listener = TcpListener::bind(("127.0.0.1", std::env::var("HELPER_PORT").unwrap().parse().unwrap())).unwrap();
    println!("listening");
    let (mut stream, _) = listener.accept().unwrap();
    std::thread::sleep(Duration::from_millis(700));
    let mut all = Vec::new();
    stream.read_to_end(&mut all).unwrap();
    println!("read {}", all.len());
    std::thread::sleep(PATIENCE);
}

/// Tells of itself what files in the data folder say: that it is `ready`, its `status`, and that it lives until it shall `hang`.
fn notify() {
    let data = PathBuf::from(std::env::var("DKM_DATA").unwrap());
    let to = std::env::var("NOTIFY_SOCKET").unwrap();
    let mouth = std::os::unix::net::UnixDatagram::unbound().unwrap();
    let say = |text: &str| mouth.send_to(text.as_bytes(), &to).is_ok();
    let mut ready = false;
    let mut status = String::from("serving");
    loop {
        if !ready && data.join("ready").exists() {
            ready = say("READY=1\nSTATUS=serving");
        }
        let new = fs::read_to_string(data.join("status")).unwrap_or_else(|_| status.clone());
        if !new.is_empty() && new != status && say(&format!("STATUS={new}")) {
            status = new;
        }
        if std::env::var_os("WATCHDOG_USEC").is_some() && !data.join("hang").exists() {
            say("WATCHDOG=1");
            println!("sign");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A service that is one of this program's helpers, see [`helper_entry`].
pub fn helper(name: &str, kind: &str) -> Value {
    json!({
        "name": name,
        "types": ["backend"],
        "command": ["{{ bundle }}/bin/helper", "bench::helper_entry", "--exact", "--nocapture", "--test-threads=2"],
        "environment": {"HELPER": kind},
        "stop-timeout-s": 5,
        "ready-timeout-s": 90,
    })
}

/// A service of a test bundle, as its manifest has it. `{{ bundle }}/bin/helper` is this program.
pub fn listener(name: &str, port: &str, after: &[&str]) -> Value {
    json!({
        "name": name,
        "types": ["backend"],
        "command": ["{{ bundle }}/bin/helper", "bench::helper_entry", "--exact", "--nocapture", "--test-threads=2"],
        "environment": {"HELPER": "listen", "HELPER_PORT": format!("{{{{ ports.{port} }}}}")},
        "after": after,
        "stop-timeout-s": 5,
        "ready-timeout-s": 90,
        "ports": [{"name": port, "port": format!("{{{{ ports.{port} }}}}")}],
        "probes": [{"http": format!("http://{{{{ reach.{port} }}}}/ready")}],
    })
}

/// A service that prints numbers all its lives long, each once.
pub fn counter(name: &str, log: &Value) -> Value {
    json!({
        "name": name,
        "types": ["backend"],
        "command": ["{{ bundle }}/bin/helper", "bench::helper_entry", "--exact", "--nocapture", "--test-threads=2"],
        "environment": {"HELPER": "count-on", "HELPER_FILE": format!("{{{{ data }}}}/{name}.count")},
        "stop-timeout-s": 5,
        "log": log,
    })
}

/// A service that is a line of shell.
pub fn shell(name: &str, script: &str) -> Value {
    json!({"name": name, "types": ["backend"], "command": ["/bin/sh", "-c", script], "stop-timeout-s": 5, "ready-timeout-s": 90})
}

/// A bundle, and perhaps a data folder made from it. Whatever was started from it ends with it.
pub struct Bench {
    temp: tempfile::TempDir,
    pub port: u16,
    /// The data folder's name.
    pub place: PathBuf,
}

impl Bench {
    /// A bundle with these services.
    pub fn bundle(services: &[Value]) -> Self {
        let temp = tempfile::Builder::new().prefix("dkm test ").tempdir().unwrap();
        let bench = Self { temp, port: free_ports::ten().unwrap(), place: "the data".into() };
        let bundle = bench.bundle_path();
        fs::create_dir_all(bundle.join("bin")).unwrap();
        fs::create_dir_all(bundle.join("static")).unwrap();
        fs::create_dir_all(bundle.join("conf")).unwrap();
        // By another process: a file that this one has open for writing could be inherited by a child of another test, and then
        // cannot be executed.
        let copied = Command::new("cp").arg(env!("CARGO_BIN_EXE_dkm")).arg(bundle.join("bin/dkm")).status().unwrap();
        assert!(copied.success());
        symlink("bin/dkm", bundle.join("installer")).unwrap();
        symlink("dkm", bundle.join("bin/dkmadmin")).unwrap();
        symlink(std::env::current_exe().unwrap(), bundle.join("bin/helper")).unwrap();
        fs::write(bundle.join("conf/a.conf.j2"), "data = {{ data | toml }}\nport = {{ ports.carbon }}\n").unwrap();
        bench.write_manifest(services);
        bench
    }

    /// Puts into the bundle what `dkmadmin` takes from one.
    pub fn with_assets(self) -> Self {
        let assets = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/assets/conf"));
        let parts = ["boot", "audit.toml"].map(|name| assets.join(name));
        let copied = Command::new("cp").arg("-r").args(parts).arg(self.bundle_path().join("conf")).status().unwrap();
        assert!(copied.success());
        self
    }

    /// A bundle with these services, installed as the type `backend`.
    pub fn installed(services: &[Value]) -> Self {
        let bench = Self::bundle(services);
        let output = bench.install(&[]);
        assert!(output.status.success(), "{}", text(&output));
        bench
    }

    /// The two components that a backend consists of, both listening, the second after the first.
    pub fn two() -> Vec<Value> {
        vec![listener("go-carbon", "carbon", &[]), listener("carbonapi", "carbonapi", &["go-carbon"])]
    }

    /// A bundle with the shipped templates and the services of the shipped recipes. Its programs do nothing for as long as they may.
    pub fn shipped() -> Self {
        let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        let mut services = Vec::new();
        for name in ["go-carbon", "carbonapi", "grafana", "collectd"] {
            let recipe = fs::read_to_string(workspace.join(format!("recipes/{name}.toml"))).unwrap();
            let recipe: toml::Table = recipe.parse().unwrap();
            let mut service = serde_json::to_value(&recipe["service"]).unwrap();
            service["name"] = json!(name);
            services.push(service);
        }
        let bench = Self::bundle(&services);
        let bundle = bench.bundle_path();
        for folder in ["conf", "dashboards"] {
            let from = workspace.join("runtime/assets").join(folder);
            assert!(Command::new("cp").arg("-R").arg(from).arg(&bundle).status().unwrap().success());
        }
        for name in ["go-carbon", "carbonapi", "grafana", "collectd"] {
            symlink("/bin/true", bundle.join("bin").join(name)).unwrap();
        }
        bench
    }

    pub fn write_manifest(&self, services: &[Value]) {
        let platform = json!({"os": std::env::consts::OS, "arch": std::env::consts::ARCH});
        let manifest = json!({
            "schema": 1, "name": "dkumonitor", "stack": "test", "version": "9.9.9", "platform": platform,
            "components": [], "services": services, "files": [],
        });
        fs::write(self.bundle_path().join("manifest.json"), manifest.to_string()).unwrap();
    }

    pub fn root(&self) -> PathBuf {
        self.temp.path().canonicalize().unwrap()
    }

    pub fn bundle_path(&self) -> PathBuf {
        self.root().join("the bundle")
    }

    pub fn data(&self) -> PathBuf {
        self.root().join(&self.place)
    }

    /// Runs the installer for the type `backend`, with more arguments.
    pub fn install(&self, more: &[&str]) -> Output {
        let mut command = Command::new(self.bundle_path().join("installer"));
        command.arg("-d").arg(self.data()).arg("-p").arg(self.port.to_string());
        command.args(["-t", "backend", "--hostname", "local.test"]).args(more);
        command.output().unwrap()
    }

    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(self.data().join("bin/dkm"));
        command.args(arguments).stdin(Stdio::null());
        command
    }

    /// The same for a data folder elsewhere.
    pub fn command_in(&self, place: &Path, arguments: &[&str]) -> Command {
        let mut command = Command::new(place.join("bin/dkm"));
        command.args(arguments).stdin(Stdio::null());
        command
    }

    pub fn dkm(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// Runs dkm, which has to succeed; what it printed.
    pub fn good(&self, arguments: &[&str]) -> String {
        let output = self.dkm(arguments);
        assert!(output.status.success(), "dkm {arguments:?}: {}\n{}", text(&output), self.supervisor_log());
        String::from_utf8(output.stdout).unwrap()
    }

    pub fn supervisor_log(&self) -> String {
        fs::read_to_string(self.data().join("run/supervisor.log")).unwrap_or_default()
    }

    pub fn log(&self, service: &str) -> String {
        fs::read_to_string(self.data().join(format!("run/log/{service}.log"))).unwrap_or_default()
    }

    /// The file that defines a service.
    pub fn definition(&self, service: &str) -> PathBuf {
        self.data().join(format!("conf/services.d/{service}.toml"))
    }

    /// A connection to the supervisor on which this was asked; the protocol's number is added.
    pub fn asking(&self, request: &Value) -> BufReader<UnixStream> {
        let mut request = request.clone();
        request["v"] = request.get("v").cloned().unwrap_or_else(|| dkumonitor_runtime::control::VERSION.into());
        let mut stream = UnixStream::connect(self.data().join("run/dkm.sock")).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(format!("{request}\n").as_bytes()).unwrap();
        BufReader::new(stream)
    }

    /// Asks the supervisor; all of its answers.
    pub fn ask(&self, request: &Value) -> Vec<Value> {
        self.asking(request).lines().map(|line| serde_json::from_str(&line.unwrap()).unwrap()).collect()
    }

    /// Asks the supervisor for what has to be done without a problem; the last answer.
    pub fn done(&self, request: &Value) -> Value {
        let answer = self.ask(request).pop().unwrap();
        assert!(answer["type"] == "done" && answer["problems"] == json!([]), "{request}: {answer}\n{}", self.supervisor_log());
        answer
    }

    /// One service as `status --json` has it.
    pub fn status(&self, service: &str) -> Value {
        let output = self.dkm(&["status", "--json"]);
        let all: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {}", text(&output)));
        all.as_array().unwrap().iter().find(|status| status["name"] == service).unwrap().clone()
    }

    pub fn state(&self, service: &str) -> String {
        self.status(service)["state"].as_str().unwrap().to_owned()
    }

    /// Whether a service runs with another process than this one.
    pub fn renewed(&self, service: &str, old: i32) -> bool {
        let status = self.status(service);
        status["state"] == "running" && status["pid"].as_i64().is_some_and(|pid| pid != i64::from(old))
    }

    /// The PID of a service, or of the supervisor for "".
    pub fn pid(&self, service: &str) -> i32 {
        let arguments: Vec<&str> = if service.is_empty() { vec!["pid"] } else { vec!["pid", service] };
        String::from_utf8(self.dkm(&arguments).stdout).unwrap().trim().parse().unwrap()
    }

    /// Every living supervisor of this data folder, by reading /proc.
    #[cfg(target_os = "linux")]
    pub fn supervisors(&self) -> Vec<i32> {
        let wanted = format!("--home\0{}\0supervisor\0", self.data().display());
        let all = fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        // One that took another's place in the same process says so.
        let resumed = format!("dkm\0@resume\0{}\0", self.data().display());
        let fits = |line: String| line.ends_with(&wanted) || line.starts_with(&resumed);
        let is_one = |pid: &i32| fs::read_to_string(format!("/proc/{pid}/cmdline")).is_ok_and(fits);
        all.filter(is_one).filter(|&pid| alive(pid)).collect()
    }

    /// Every living process with this data folder's tag, by reading /proc; the supervisor has none.
    #[cfg(target_os = "linux")]
    pub fn processes(&self) -> Vec<i32> {
        self.processes_of(None)
    }

    /// Those of one service (none: of all).
    #[cfg(target_os = "linux")]
    pub fn processes_of(&self, service: Option<&str>) -> Vec<i32> {
        let mut tags = vec![format!("DKM_DATA={}", self.data().display())];
        tags.extend(service.map(|service| format!("DKM_SERVICE={service}")));
        let mut out = Vec::new();
        for entry in fs::read_dir("/proc").unwrap().flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
            let environment = fs::read(entry.path().join("environ")).unwrap_or_default();
            let has = |tag: &String| environment.split(|&byte| byte == 0).any(|entry| entry == tag.as_bytes());
            if tags.iter().all(has) && alive(pid) {
                out.push(pid);
            }
        }
        out
    }

    /// The keeper of the logs, once it is at work.
    #[cfg(target_os = "linux")]
    pub fn keeper(&self) -> Option<i32> {
        let pid = fs::read_to_string(self.data().join("run/keeper.lock")).ok()?.trim().parse().ok()?;
        self.helpers("@keep").contains(&pid).then_some(pid)
    }

    /// The launcher's own processes of one kind, `@keep` or `@compress`.
    #[cfg(target_os = "linux")]
    pub fn helpers(&self, word: &str) -> Vec<i32> {
        let wanted = format!("dkm\0{word}\0{}\0", self.data().display());
        let all = fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        let is_one = |pid: &i32| fs::read_to_string(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line == wanted);
        all.filter(is_one).filter(|&pid| alive(pid)).collect()
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        if !self.data().join("bin/dkm").exists() {
            return;
        }
        // A supervisor that a failed test has left in a bad way may not answer.
        if let Ok(mut shutdown) = self.command(&["shutdown"]).stdout(Stdio::null()).stderr(Stdio::null()).spawn() {
            let end = Instant::now() + PATIENCE;
            while matches!(shutdown.try_wait(), Ok(None)) && Instant::now() < end {
                std::thread::sleep(Duration::from_millis(5));
            }
            let _ = shutdown.kill();
            let _ = shutdown.wait();
        }
        #[cfg(target_os = "linux")]
        for pid in [self.supervisors(), self.helpers("@keep"), self.processes()].concat() {
            send(pid, Signal::SIGKILL);
        }
    }
}

pub fn text(output: &Output) -> String {
    format!("{}\n{}{}", output.status, String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

pub fn send(pid: i32, signal: Signal) {
    assert!(pid > 1, "there is no process {pid} to signal");
    let _ = kill(Pid::from_raw(pid), signal);
}

/// Whether a process lives; one that is dead and only not reaped does not.
pub fn alive(pid: i32) -> bool {
    match fs::read_to_string(format!("/proc/{pid}/stat")) {
        Ok(stat) => !stat.rsplit(')').next().unwrap_or("").trim_start().starts_with(['Z', 'X']),
        Err(_) if Path::new("/proc/self").exists() => false,
        Err(_) => kill(Pid::from_raw(pid), None).is_ok(),
    }
}

/// Waits until something holds.
pub fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < end, "waited too long for: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Instants at which a process is killed, spread over the time that it takes. How long that is depends on the machine and on what else it
/// does, so that it is learnt from how the processes before ended.
pub struct Instants(pub Duration);

impl Instants {
    /// Kills a process after so many hundredths of that time; whether it still ran.
    pub fn kill(&mut self, mut child: std::process::Child, hundredths: u32) -> bool {
        let instant = Instant::now() + self.0 * hundredths / 100;
        while Instant::now() < instant && child.try_wait().unwrap().is_none() {
            std::thread::sleep(Duration::from_micros(200));
        }
        let _ = child.kill();
        let killed = !child.wait().unwrap().success();
        if killed && hundredths >= 100 {
            self.0 *= 2;
        } else if !killed && hundredths < 100 {
            self.0 = self.0 * 3 / 4;
        }
        killed
    }
}

/// A number from the environment, so that CI runs a short form of what is run by hand in full.
pub fn wanted(variable: &str, default: u64) -> u64 {
    std::env::var(variable).map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{variable}={text} is not a number")))
}

/// Numbers that look random and are the same for the same seed, which is printed: xorshift64*.
pub struct Random(u64);

impl Random {
    /// Begins with DKM_FAULT_SEED, or with the seed that CI has each time.
    pub fn new(what: &str) -> Self {
        let seed = wanted("DKM_FAULT_SEED", 0xfa17);
        println!("{what}: DKM_FAULT_SEED={seed}");
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// A number below `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32) % end
    }
}

/// A command that leads a process group of its own, as a shell's job does.
pub fn as_job(command: &mut Command) -> &mut Command {
    command.process_group(0)
}
