//! How much memory commands take, and how loaded the machine is while a run goes on.
//!
//! On Linux the whole tree of a command's processes is looked at several times a second: what one command starts counts for
//! it, whatever process group, session or namespace it moves to, and also when its parent has ended before it. The figure is
//! the tree's proportional set size (a page that two processes share counts once), measured only when the resident
//! sizes together exceed what is known already. One thread looks for all commands; it looks less often where that would
//! take more than a hundredth of a core. A process that lives shorter than the pause between two looks can be missed; therefore
//! the kernel's own figure for the largest process is the least that a step's peak can be ([`crate::shell`]).
//!
//! Elsewhere nothing is looked at, and that figure is all there is.

use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// The pause between two looks.
const EVERY: Duration = Duration::from_millis(200);

/// A look's processor time is this part of the pause after it at most.
const SHARE: u32 = 100;

/// The first pause between two points of the machine's load.
const LOAD_EVERY: Duration = Duration::from_secs(1);

/// Points of the machine's load that are kept; with more, every second one is dropped and the pause doubled.
const LOAD_POINTS: usize = 600;

/// How loaded the machine was at a time.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Load {
    /// Seconds since the run began.
    pub at_s: f64,
    /// Part of all cores that was busy since the point before, 0 to 1.
    pub cpu: f64,
    /// Memory in use, in bytes.
    pub memory: u64,
}

/// A process, as far as its family and its memory go.
#[derive(Clone, Copy, Debug)]
struct Process {
    id: i32,
    parent: i32,
    group: i32,
    session: i32,
    /// In ticks since the machine started: tells a process from a later one of the same number.
    began: u64,
    /// Resident memory, in bytes.
    resident: u64,
}

/// A command's processes.
#[derive(Debug)]
struct Family {
    number: u64,
    root: i32,
    /// Process numbers with their times of begin.
    members: HashMap<i32, u64>,
    peak: u64,
}

impl Family {
    /// Finds the members among all processes, and gives them.
    fn gather<'a>(&mut self, all: &'a [Process]) -> Vec<&'a Process> {
        let mut members: HashMap<i32, u64> = HashMap::new();
        // Parents stand before children only by chance, so this goes on until nobody is found any more.
        loop {
            let before = members.len();
            for process in all {
                let ours = process.id == self.root
                    || members.contains_key(&process.parent)
                    || members.contains_key(&process.group)
                    || members.contains_key(&process.session)
                    || process.group == self.root
                    || self.members.get(&process.id) == Some(&process.began);
                if ours {
                    members.insert(process.id, process.began);
                }
            }
            if members.len() == before {
                break;
            }
        }
        let found = all.iter().filter(|process| members.contains_key(&process.id)).collect();
        self.members = members;
        found
    }

    /// Takes a look's figures into account. `exact` gives a process's proportional size.
    fn weigh(&mut self, all: &[Process], exact: impl Fn(i32) -> Option<u64>) {
        let family = self.gather(all);
        // Sharing only makes it less.
        if family.iter().map(|process| process.resident).sum::<u64>() > self.peak {
            let sum = family.iter().map(|process| exact(process.id).unwrap_or(process.resident)).sum();
            self.peak = self.peak.max(sum);
        }
    }
}

#[derive(Default)]
struct Watched {
    families: Vec<Family>,
    last: u64,
    load: Vec<Load>,
    stop: bool,
}

#[derive(Default)]
struct Shared {
    watched: Mutex<Watched>,
    changed: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Watched> {
        self.watched.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks again and again until it is told to stop.
    fn watch(&self, began: Instant) {
        let mut load = LoadMeter::default();
        let mut pause = EVERY;
        let mut watched = self.lock();
        while !watched.stop {
            watched = self.changed.wait_timeout(watched, pause).unwrap_or_else(PoisonError::into_inner).0;
            if watched.stop {
                break;
            }
            let wanted = !watched.families.is_empty();
            // No command should have to wait while all of /proc is read.
            drop(watched);
            let before = own_time();
            let all = if wanted { os::processes() } else { Vec::new() };
            let point = load.look(began.elapsed());
            watched = self.lock();
            for family in &mut watched.families {
                family.weigh(&all, os::proportional);
            }
            if let Some(point) = point {
                watched.load.push(point);
                load.thin(&mut watched.load);
            }
            // Processor time: on a busy machine the clock would count what others take.
            pause = EVERY.max(own_time().saturating_sub(before) * SHARE);
        }
    }
}

/// The processes whose parent is this one; none where the system does not tell.
pub fn children_of(parent: i32) -> Vec<i32> {
    os::processes().into_iter().filter(|process| process.parent == parent).map(|process| process.id).collect()
}

/// Processor time of this thread.
fn own_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::try_from(time).unwrap_or_default()
}

/// Watches commands and the machine until it is dropped.
pub struct Meter(Arc<Shared>);

impl Meter {
    /// Begins to watch. Where no thread is to be had, nothing is known later.
    pub fn start() -> Self {
        let shared = Arc::new(Shared::default());
        if os::CAN_LOOK {
            let (watcher, began) = (Arc::clone(&shared), Instant::now());
            let _ = std::thread::Builder::new().name("meter".to_owned()).spawn(move || watcher.watch(began));
        }
        Self(shared)
    }

    /// Watches the process `root` and all that it starts.
    pub fn enter(&self, root: u32) -> Metered {
        let mut watched = self.0.lock();
        watched.last += 1;
        let number = watched.last;
        let root = i32::try_from(root).unwrap_or(i32::MAX);
        watched.families.push(Family { number, root, members: HashMap::new(), peak: 0 });
        Metered { shared: Arc::clone(&self.0), number }
    }

    /// The machine's load so far.
    pub fn load(&self) -> Vec<Load> {
        self.0.lock().load.clone()
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        self.0.lock().stop = true;
        self.0.changed.notify_all();
    }
}

/// A command that is watched for as long as this lives.
pub struct Metered {
    shared: Arc<Shared>,
    number: u64,
}

impl Metered {
    /// The most memory that it was seen to have, in bytes; 0 when it was never seen.
    pub fn peak(&self) -> u64 {
        self.shared.lock().families.iter().find(|family| family.number == self.number).map_or(0, |family| family.peak)
    }
}

impl Drop for Metered {
    fn drop(&mut self) {
        self.shared.lock().families.retain(|family| family.number != self.number);
    }
}

/// Turns the kernel's ever-growing counters into points.
struct LoadMeter {
    every: Duration,
    /// When the last point was taken, with the counters of that time: busy and all ticks.
    last: Option<(Duration, (u64, u64))>,
}

impl Default for LoadMeter {
    fn default() -> Self {
        Self { every: LOAD_EVERY, last: None }
    }
}

impl LoadMeter {
    fn look(&mut self, now: Duration) -> Option<Load> {
        if self.last.is_some_and(|(then, _)| now.saturating_sub(then) < self.every) {
            return None;
        }
        let (busy, all) = os::ticks()?;
        let before = self.last.replace((now, (busy, all)));
        let (_, (busy_before, all_before)) = before?;
        let passed = all.saturating_sub(all_before).max(1);
        let cpu = (busy.saturating_sub(busy_before) as f64 / passed as f64).min(1.0);
        Some(Load { at_s: now.as_secs_f64(), cpu, memory: os::memory_used()? })
    }

    fn thin(&mut self, points: &mut Vec<Load>) {
        if points.len() > LOAD_POINTS {
            let mut place = 0;
            points.retain(|_| {
                place += 1;
                place % 2 == 0
            });
            self.every *= 2;
        }
    }
}

#[cfg(target_os = "linux")]
mod os {
    use super::Process;

    pub const CAN_LOOK: bool = true;

    /// All processes that can be seen.
    pub fn processes() -> Vec<Process> {
        let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
        let mut text = String::new();
        let numbers = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
        numbers.filter_map(|id| parse(id, read(&format!("/proc/{id}/stat"), &mut text)?)).collect()
    }

    fn read<'a>(path: &str, into: &'a mut String) -> Option<&'a str> {
        use std::io::Read as _;
        into.clear();
        std::fs::File::open(path).ok()?.read_to_string(into).ok()?;
        Some(into)
    }

    /// A line of `/proc/ID/stat`. The second field is the program's name in parentheses, which may hold anything.
    pub fn parse(id: i32, stat: &str) -> Option<Process> {
        let (_, rest) = stat.rsplit_once(')')?;
        let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
        // The state, the third field of the file, is the first here.
        let number = |field: usize| fields.get(field - 3)?.parse::<u64>().ok();
        let id_in = |field: usize| fields.get(field - 3)?.parse::<i32>().ok();
        Some(Process {
            id,
            parent: id_in(4)?,
            group: id_in(5)?,
            session: id_in(6)?,
            began: number(22)?,
            resident: number(24)? * rustix::param::page_size() as u64,
        })
    }

    /// A process's own memory and its share of what it has in common with others, in bytes.
    pub fn proportional(id: i32) -> Option<u64> {
        let text = std::fs::read_to_string(format!("/proc/{id}/smaps_rollup")).ok()?;
        kilobytes(&text, "Pss:")
    }

    /// Busy and all ticks of all cores since the machine started.
    pub fn ticks() -> Option<(u64, u64)> {
        let text = std::fs::read_to_string("/proc/stat").ok()?;
        let first = text.lines().next()?.strip_prefix("cpu ")?;
        // user, nice, system, idle, iowait, irq, softirq, steal; what follows is part of user.
        let ticks: Vec<u64> = first.split_ascii_whitespace().take(8).map(|tick| tick.parse().unwrap_or(0)).collect();
        let all: u64 = ticks.iter().sum();
        Some((all - ticks.get(3)? - ticks.get(4)?, all))
    }

    pub fn memory_used() -> Option<u64> {
        let text = std::fs::read_to_string("/proc/meminfo").ok()?;
        Some(kilobytes(&text, "MemTotal:")?.saturating_sub(kilobytes(&text, "MemAvailable:")?))
    }

    fn kilobytes(text: &str, name: &str) -> Option<u64> {
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        Some(line.trim().trim_end_matches("kB").trim().parse::<u64>().ok()? * 1024)
    }
}

#[cfg(not(target_os = "linux"))]
mod os {
    use super::Process;

    pub const CAN_LOOK: bool = false;

    pub fn processes() -> Vec<Process> {
        Vec::new()
    }

    pub fn proportional(_: i32) -> Option<u64> {
        None
    }

    pub fn ticks() -> Option<(u64, u64)> {
        None
    }

    pub fn memory_used() -> Option<u64> {
        None
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    fn process(id: i32, parent: i32, own: i32, resident: u64) -> Process {
        Process { id, parent, group: own, session: own, began: 100, resident }
    }

    #[test]
    fn a_family_is_all_that_its_root_has_started_wherever_it_went() {
        let mut family = Family { number: 1, root: 10, members: HashMap::new(), peak: 0 };
        // 12 is listed before its parent; 13 has a session of its own; 20 and 21 are strangers.
        let all = [process(12, 11, 10, 2), process(10, 1, 10, 1), process(11, 10, 10, 1), process(13, 11, 13, 4)];
        let strangers = [process(20, 1, 20, 100), process(21, 20, 20, 100)];
        family.weigh(&[&all[..], &strangers[..]].concat(), |_| None);
        assert_eq!(family.peak, 8);
        // 11 has ended, and its child was given to process 1; of the same number as before 12 is another one.
        let orphan = Process { parent: 1, resident: 50, ..all[3] };
        let newcomer = Process { began: 200, group: 12, session: 12, parent: 20, resident: 1000, ..all[0] };
        family.weigh(&[all[1], orphan, newcomer, strangers[0]], |_| None);
        assert_eq!(family.peak, 51);
        assert_eq!(family.members.len(), 2);
    }

    #[test]
    fn what_processes_share_counts_once_and_is_not_measured_without_need() {
        let mut family = Family { number: 1, root: 10, members: HashMap::new(), peak: 0 };
        let all = [process(10, 1, 10, 60), process(11, 10, 10, 60)];
        family.weigh(&all, |_| Some(40));
        assert_eq!(family.peak, 80);
        let smaller = [process(10, 1, 10, 40), process(11, 10, 10, 40)];
        family.weigh(&smaller, |_| panic!("80 cannot be exceeded"));
    }

    #[test]
    fn a_programs_name_cannot_lead_the_parser_astray() {
        let line = "7 (a) R 1 (x) S 5 6 7 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 4242 1000 3 0";
        let process = os::parse(7, line).unwrap();
        assert_eq!((process.parent, process.group, process.session, process.began), (5, 6, 7, 4242));
        assert_eq!(process.resident, 3 * rustix::param::page_size() as u64);
    }

    /// Two processes side by side, one of them in a session of its own, hold 40 MB each until a file appears.
    #[test]
    fn the_peak_is_that_of_all_processes_of_a_command_together() {
        let folder = tempfile::Builder::new().prefix("a folder ").tempdir().unwrap();
        let hold = "x=$(head -c 40000000 /dev/zero | tr '\\0' x); while [ ! -e go ]; do sleep 0.05; done; : ${#x}";
        let meter = Meter::start();
        let mut child = Command::new("sh")
            .args(["-c", &format!("setsid sh -c '{}' & {hold}; wait", hold.replace('\'', "'\\''"))])
            .current_dir(folder.path())
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let metered = meter.enter(child.id());
        let deadline = Instant::now() + Duration::from_secs(60);
        while metered.peak() < 80_000_000 {
            assert!(Instant::now() < deadline, "the tree was seen to have {} bytes at most", metered.peak());
            std::thread::sleep(Duration::from_millis(20));
        }
        std::fs::write(folder.path().join("go"), "").unwrap();
        assert!(child.wait().unwrap().success());
        // Far more would mean that somebody else's processes were counted.
        assert!(metered.peak() < 400_000_000, "{}", metered.peak());
    }

    #[test]
    fn points_of_load_become_rarer_instead_of_more() {
        let mut meter = LoadMeter::default();
        let point = |at: usize| Load { at_s: at as f64, cpu: 0.5, memory: 1 };
        let mut points: Vec<_> = (0..=LOAD_POINTS).map(point).collect();
        meter.thin(&mut points);
        assert_eq!((points.len(), meter.every), (LOAD_POINTS / 2, LOAD_EVERY * 2));
        assert_eq!(points[0].at_s, 1.0);
        assert_eq!(meter.look(Duration::ZERO), None);
        let load = meter.look(Duration::from_secs(5)).unwrap();
        assert!((0.0..=1.0).contains(&load.cpu) && load.memory > 1_000_000, "{load:?}");
    }
}
