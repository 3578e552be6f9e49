//! What a supervisor in the foreground prints on its standard output: below systemd it is the journal, in a container the engine's log.
//!
//! What the supervisor itself says is always printed there, and what services print where that is wanted ([`Showing`]), a line each:
//! the time, who it is from, and the line as a terminal may see it. What lies in the log files does not change with it.
//!
//! **Nobody waits for the reader.** Lines go into a queue of a bounded size, and a thread of its own writes them. What does not fit is
//! counted, and a line says how much it was. The supervisor's own lines have a part of the queue for themselves, so that no flood of a
//! service keeps them out. A reader that goes away ends the printing and nothing else.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, SigmaskHow};

use super::logs::stamp;
use crate::home::Home;
use crate::text::{LONGEST_LINE, beginning};

/// What says to print what services do, as the flag `--forward-logs` does.
const VARIABLE: &str = "DKM_FORWARD_LOGS";

/// So many bytes wait for a reader at most.
const MOST: usize = 256 * 1024;

/// The part of them that is the supervisor's own.
const OWN: usize = 64 * 1024;

/// Whom the supervisor's own lines are from.
const SUPERVISOR: &str = "supervisor";

/// What is printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Showing {
    /// Nothing: standard output is nobody's, or the supervisor's own log.
    #[default]
    Nothing,
    /// What the supervisor says.
    Own,
    /// What services print, too.
    All,
}

impl Showing {
    /// What is wanted of a supervisor that begins: `forward` is what its command line says.
    ///
    /// # Errors
    /// When the variable says what cannot be understood.
    pub fn wanted(home: &Home, forward: bool) -> Result<Self> {
        let out = File::from(io::stdout().as_fd().try_clone_to_owned().context("cannot use standard output")?);
        let out = out.metadata().context("cannot look at standard output")?;
        let is_log = std::fs::metadata(home.supervisor_log()).is_ok_and(|log| (log.dev(), log.ino()) == (out.dev(), out.ino()));
        let null = std::fs::metadata("/dev/null").map_or(0, |null| null.rdev());
        if is_log || (out.file_type().is_char_device() && out.rdev() == null) {
            return Ok(Self::Nothing);
        }
        let said = std::env::var_os(VARIABLE).unwrap_or_default();
        Ok(match said.to_str() {
            _ if forward => Self::All,
            Some("" | "0") => Self::Own,
            Some("1") => Self::All,
            _ => bail!("cannot use {VARIABLE}={}: 1 forwards what services print, 0 does not", said.display()),
        })
    }

    /// As a program that takes the supervisor's place is told.
    #[must_use]
    pub fn number(self) -> i32 {
        self as i32
    }

    /// From what the program before has told; one of an earlier version tells nothing.
    #[must_use]
    pub fn of_number(number: Option<&str>) -> Self {
        match number {
            Some("1") => Self::Own,
            Some("2") => Self::All,
            _ => Self::Nothing,
        }
    }
}

/// The way to standard output.
#[derive(Clone, Debug, Default)]
pub struct Outlet {
    showing: Showing,
    shared: Option<Arc<Shared>>,
}

#[derive(Debug, Default)]
struct Shared {
    queue: Mutex<Queue>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Queue {
    lines: Vec<u8>,
    /// How many lines did not fit behind these.
    dropped: u64,
    /// Whether the thread is writing what it has taken out.
    writing: bool,
    /// Whether there is no reader any more.
    gone: bool,
}

impl Outlet {
    /// Begins to print, if anything is to be.
    ///
    /// # Errors
    /// When there is no descriptor or no thread for it.
    pub fn open(showing: Showing) -> Result<Self> {
        if showing == Showing::Nothing {
            return Ok(Self::default());
        }
        let out = File::from(io::stdout().as_fd().try_clone_to_owned().context("cannot use standard output")?);
        let shared = Arc::new(Shared::default());
        let theirs = Arc::clone(&shared);
        // Signals are for the supervisor's own thread, which waits for them.
        let before = SigSet::all().thread_swap_mask(SigmaskHow::SIG_SETMASK).context("cannot hold signals back")?;
        let begun = std::thread::Builder::new().stack_size(64 * 1024).spawn(move || theirs.write(&out));
        before.thread_set_mask().context("cannot let signals come again")?;
        begun.context("cannot start what writes to standard output")?;
        Ok(Self { showing, shared: Some(shared) })
    }

    /// What is printed.
    #[must_use]
    pub fn showing(&self) -> Showing {
        self.showing
    }

    /// What takes a service's output, if that is printed.
    #[must_use]
    pub fn forward(&self, service: &str) -> Option<Forward> {
        let wanted = self.showing == Showing::All;
        wanted.then(|| Forward { outlet: self.clone(), name: service.to_owned(), begun: Vec::new(), length: 0 })
    }

    /// Prints what the supervisor says.
    pub fn say(&self, text: &str) {
        let text = crate::text::harmless_line(text.as_bytes());
        self.line(SUPERVISOR, &text, MOST);
    }

    fn line(&self, from: &str, text: &str, most: usize) {
        let Some(shared) = &self.shared else { return };
        let line = format!("{}  {from:<10}  {text}\n", stamp::format(stamp::now()));
        let mut queue = shared.lock();
        if queue.lines.len() + line.len() > most {
            queue.dropped += 1;
        } else if !queue.gone {
            queue.lines.extend_from_slice(line.as_bytes());
            shared.changed.notify_all();
        }
    }

    /// Waits until all is printed, and not for longer than this.
    pub fn finish(&self, patience: Duration) {
        let Some(shared) = &self.shared else { return };
        let end = Instant::now() + patience;
        let mut queue = shared.lock();
        while !queue.gone && (queue.writing || queue.is_due()) {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            queue = shared.changed.wait_timeout(queue, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl Queue {
    /// Whether there is anything to write.
    fn is_due(&self) -> bool {
        !self.lines.is_empty() || self.dropped > 0
    }

    /// Takes out what is to be written.
    fn take(&mut self) -> Vec<u8> {
        let mut lines = std::mem::take(&mut self.lines);
        let dropped = std::mem::take(&mut self.dropped);
        if dropped > 0 {
            let now = stamp::format(stamp::now());
            let text = format!("{dropped} lines are missing here: standard output is read too slowly. They are in the logs");
            let _ = writeln!(lines, "{now}  {SUPERVISOR}  {text}");
        }
        lines
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes what comes, until the reader goes.
    fn write(&self, mut out: &File) {
        let mut queue = self.lock();
        loop {
            while !queue.is_due() {
                queue = self.changed.wait(queue).unwrap_or_else(PoisonError::into_inner);
            }
            let lines = queue.take();
            queue.writing = true;
            drop(queue);
            let written = write_all(&mut out, &lines);
            drop(lines);
            queue = self.lock();
            queue.writing = false;
            queue.gone = written.is_err();
            self.changed.notify_all();
            if queue.gone {
                queue.lines = Vec::new();
                return;
            }
        }
    }
}

/// Writes all of it, however others have set up what it is written to.
fn write_all(out: &mut &File, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match out.write(bytes) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(count) => bytes = &bytes[count..],
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // It was told not to wait; so we do.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                let _ = poll(&mut [PollFd::new(out.as_fd(), PollFlags::POLLOUT)], PollTimeout::NONE);
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// One service's output on its way there: pieces become lines.
#[derive(Debug)]
pub struct Forward {
    outlet: Outlet,
    name: String,
    /// What of a line has come: its beginning, as far as that is shown.
    begun: Vec<u8>,
    /// How long that line is already.
    length: usize,
}

impl Forward {
    /// Takes what the service has printed.
    pub fn take(&mut self, bytes: &[u8]) {
        let mut rest = bytes;
        while let Some(end) = crate::os::find_byte(b'\n', rest) {
            if self.length == 0 {
                self.print(&rest[..end], end);
            } else {
                self.keep(&rest[..end]);
                self.end();
            }
            rest = &rest[end + 1..];
        }
        self.keep(rest);
    }

    /// Prints what has no end yet: there will be none.
    pub fn end(&mut self) {
        if self.length > 0 {
            let (begun, length) = (std::mem::take(&mut self.begun), std::mem::take(&mut self.length));
            self.print(&begun, length);
        }
    }

    fn keep(&mut self, bytes: &[u8]) {
        // One more than is shown, since it tells where a character ends.
        let room = (LONGEST_LINE + 1).saturating_sub(self.begun.len()).min(bytes.len());
        self.begun.extend_from_slice(&bytes[..room]);
        self.length += bytes.len();
    }

    fn print(&self, line: &[u8], length: usize) {
        self.outlet.line(&self.name, &beginning(line, length, "they are in its log"), MOST - OWN);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An outlet that nobody writes from.
    fn outlet() -> Outlet {
        Outlet { showing: Showing::All, shared: Some(Arc::default()) }
    }

    /// What lies in its queue, without the times.
    fn queued(outlet: &Outlet) -> Vec<String> {
        let lines = outlet.shared.as_ref().unwrap().lock().take();
        String::from_utf8(lines).unwrap().lines().map(|line| line[26..].to_owned()).collect()
    }

    #[test]
    fn lines_are_whole_wherever_their_pieces_are_cut() {
        let text = "one\n\ntwo \x1b[2J\nhälf";
        for cut in 0..=text.len() {
            let outlet = outlet();
            let mut forward = outlet.forward("a").unwrap();
            forward.take(&text.as_bytes()[..cut]);
            forward.take(&text.as_bytes()[cut..]);
            assert_eq!(queued(&outlet), ["a           one", "a           ", "a           two \\x1b[2J"], "cut at {cut}");
            forward.end();
            forward.end();
            assert_eq!(queued(&outlet), ["a           hälf"], "cut at {cut}");
        }
    }

    #[test]
    fn a_long_line_is_shown_by_its_beginning_and_kept_no_longer() {
        let outlet = outlet();
        let mut forward = outlet.forward("a").unwrap();
        (0..100).for_each(|_| forward.take(&[b'x'; 1000]));
        assert_eq!(forward.begun.len(), LONGEST_LINE + 1);
        forward.take(b"\n");
        let whole = [&[b'x'; 100_000][..], b"\n"].concat();
        forward.take(&whole);
        let said = format!("a           {} [83616 more bytes in this line; they are in its log]", "x".repeat(LONGEST_LINE));
        assert_eq!(queued(&outlet), [said.clone(), said]);
    }

    #[test]
    fn what_does_not_fit_is_counted_and_the_supervisors_own_lines_have_room() {
        let outlet = outlet();
        let mut forward = outlet.forward("a").unwrap();
        (0..10_000).for_each(|number| forward.take(format!("{number:0100}\n").as_bytes()));
        outlet.say("still heard");
        let lines = queued(&outlet);
        let kept = lines.iter().filter(|line| line.starts_with("a ")).count();
        assert!(kept < 10_000 && lines[kept] == "supervisor  still heard", "{kept}");
        let missing = format!(
            "supervisor  {} lines are missing here: standard output is read too slowly. They are in the logs",
            10_000 - kept
        );
        assert_eq!(lines[kept + 1..], [missing]);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn what_a_full_disk_keeps_out_of_a_log_is_printed_all_the_same() {
        use crate::service::LogPolicy;
        use crate::supervise::logs::Output;
        for timestamps in [false, true] {
            let temp = tempfile::tempdir().unwrap();
            let log = temp.path().join("a.log");
            std::os::unix::fs::symlink("/dev/full", &log).unwrap();
            let policy = LogPolicy { timestamps, ..LogPolicy::default() };
            let mut output = Output::open(&temp.path().join("a.out"), &log, policy).unwrap();
            let outlet = outlet();
            output.forward_to(outlet.forward("a"));
            let text: String = (0..100).map(|number| format!("line {number}\n")).collect();
            output.writer().unwrap().write_all(text.as_bytes()).unwrap();
            output.carry(&mut [0; 4096]);
            let wanted: Vec<String> = text.lines().map(|line| format!("a           {line}")).collect();
            assert_eq!((queued(&outlet), output.dropped()), (wanted, 100), "stamps: {timestamps}");
        }
    }

    #[test]
    fn what_the_program_before_printed_is_printed_on() {
        for showing in [Showing::Nothing, Showing::Own, Showing::All] {
            assert_eq!(Showing::of_number(Some(&showing.number().to_string())), showing);
        }
        assert_eq!(Showing::of_number(None), Showing::Nothing);
    }
}
