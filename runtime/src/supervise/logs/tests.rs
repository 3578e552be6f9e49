use std::io::Write;

use super::*;

/// A folder with a log in it, and what belongs to it.
struct Bench {
    temp: tempfile::TempDir,
}

impl Bench {
    fn new() -> Self {
        Self { temp: tempfile::Builder::new().prefix("dkm logs ").tempdir().unwrap() }
    }

    fn fifo(&self) -> PathBuf {
        self.temp.path().join("x.out")
    }

    fn log(&self) -> PathBuf {
        self.temp.path().join("x.log")
    }

    fn output(&self, policy: LogPolicy) -> Output {
        Output::open(&self.fifo(), &self.log(), policy).unwrap()
    }

    /// Every plain file of the log in the order of time.
    fn files(&self) -> Vec<String> {
        let old = names::old(&self.log()).into_iter().map(|old| old.path);
        old.chain([self.log()]).map(|path| fs::read_to_string(path).unwrap()).collect()
    }
}

fn policy(max_bytes: u64) -> LogPolicy {
    LogPolicy { max_bytes, keep: 1_000, ..LogPolicy::default() }
}

fn lines(count: u32) -> String {
    (0..count).map(|number| format!("line {number}\n")).collect()
}

/// The stamps taken away, each having been there.
fn unstamped(text: &str) -> String {
    let line = |line: &str| {
        assert!(stamp::parse(line.as_bytes()).is_some(), "no stamp: {line}");
        line[stamp::LENGTH + 1..].to_owned() + "\n"
    };
    text.lines().map(line).collect()
}

#[test]
fn rotation_loses_and_tears_nothing() {
    let bench = Bench::new();
    let mut log = Log::open(&bench.log(), policy(1_000)).unwrap();
    let text = lines(2_000);
    for chunk in text.as_bytes().chunks(37) {
        log.write(chunk);
    }
    let files = bench.files();
    assert_eq!(files.concat(), text);
    assert!(files.len() > 10);
    for old in &files[..files.len() - 1] {
        assert!(old.ends_with('\n') && old.len() <= 1_050, "{} bytes", old.len());
    }
}

#[test]
fn rotation_out_of_a_pipe_loses_and_tears_nothing() {
    for timestamps in [false, true] {
        let bench = Bench::new();
        let mut output = bench.output(LogPolicy { timestamps, ..policy(1_000) });
        let mut writer = output.writer().unwrap();
        let text = lines(2_000);
        for (at, chunk) in text.as_bytes().chunks(137).enumerate() {
            writer.write_all(chunk).unwrap();
            if at % 3 == 0 {
                output.carry(&mut [0; 4096]);
            }
        }
        // One round rotates only so often.
        (0..20).for_each(|_| output.carry(&mut [0; 4096]));
        let files = bench.files();
        let all = if timestamps { unstamped(&files.concat()) } else { files.concat() };
        assert_eq!(all, text);
        assert!(files.len() > 10);
        for old in &files[..files.len() - 1] {
            assert!(old.ends_with('\n') && old.len() <= 1_050, "{} bytes", old.len());
        }
        assert_eq!(output.direct, cfg!(target_os = "linux"), "the quick way was taken where there is one");
    }
}

#[test]
fn only_what_the_policy_keeps_is_kept() {
    let bench = Bench::new();
    let mut log = Log::open(&bench.log(), LogPolicy { keep: 2, ..policy(100) }).unwrap();
    lines(1_000).split_inclusive('\n').for_each(|line| log.write(line.as_bytes()));
    assert_eq!(names::old(&bench.log()).len(), 2);

    log.set_policy(LogPolicy { keep_bytes: 1_000, ..policy(100) });
    lines(1_000).split_inclusive('\n').for_each(|line| log.write(line.as_bytes()));
    let sum: u64 = names::old(&bench.log()).iter().map(|old| names::bytes(&bench.log(), old.ended)).sum();
    assert!((500..=900).contains(&sum), "{sum} bytes");

    log.set_policy(LogPolicy { keep: 0, ..policy(100) });
    lines(100).split_inclusive('\n').for_each(|line| log.write(line.as_bytes()));
    assert_eq!(names::old(&bench.log()), []);
}

#[test]
fn age_rotates_between_two_lines_and_expires() {
    const DAY: u64 = 86_400_000;
    let bench = Bench::new();
    let ages = LogPolicy { max_age_s: 86_400, keep_age_s: 3 * 86_400, ..policy(0) };
    let mut log = Log::open(&bench.log(), ages.clone()).unwrap();
    log.write_raw(b"first\nseco", 1_000);
    log.write_raw(b"nd\nthird\n", 1_000 + DAY);
    assert_eq!(bench.files(), ["first\nsecond\n", "third\n"]);
    for day in 2..10 {
        log.write_raw(format!("day {day}\n").as_bytes(), 2_000 + day * DAY);
    }
    assert_eq!(names::old(&bench.log()).len(), 3);
    assert!(log.expiry.is_some());
    // The clock set back an hour: the names ascend all the same, and no line is lost.
    log.write_raw(b"late\n", 2_000 + 10 * DAY);
    log.rotate(9 * DAY);
    log.write_raw(b"last\n", 9 * DAY);
    assert_eq!(bench.files()[3..], ["late\n", "last\n"]);
}

#[test]
fn an_endless_line_is_cut_in_the_end() {
    for timestamps in [false, true] {
        let bench = Bench::new();
        let mut output = bench.output(LogPolicy { timestamps, keep: 1, ..policy(100) });
        let mut writer = output.writer().unwrap();
        for _ in 0..100 {
            writer.write_all(&[b'x'; 50]).unwrap();
            output.carry(&mut [0; 4096]);
        }
        assert!(fs::metadata(bench.log()).unwrap().len() <= 300);
    }
}

#[test]
fn a_folder_that_cannot_be_changed_does_not_hold_the_loop() {
    let bench = Bench::new();
    let mut output = bench.output(policy(100));
    let mut writer = output.writer().unwrap();
    // Something is in the way of every rotation.
    let folder = bench.temp.path().to_owned();
    writer.write_all(lines(10).as_bytes()).unwrap();
    output.carry(&mut [0; 4096]);
    let moved = folder.with_extension("moved");
    fs::rename(&folder, &moved).unwrap();
    writer.write_all(lines(1_000).as_bytes()).unwrap();
    output.carry(&mut [0; 4096]);
    fs::rename(&moved, &folder).unwrap();
    let said = bench.files().concat();
    assert!(said.starts_with("line 0\n"), "{said}");
    writer.write_all(b"again\n").unwrap();
    output.carry(&mut [0; 4096]);
    assert!(bench.files().concat().ends_with("again\n"));
}

#[test]
fn a_file_that_was_emptied_or_removed_is_gone_on_with() {
    for timestamps in [false, true] {
        let bench = Bench::new();
        let mut output = bench.output(LogPolicy { timestamps, ..LogPolicy::default() });
        let mut writer = output.writer().unwrap();
        let mut say = |text: &str| {
            writer.write_all(text.as_bytes()).unwrap();
            output.carry(&mut [0; 4096]);
            let log = fs::read_to_string(bench.log()).unwrap();
            if timestamps { unstamped(&log) } else { log }
        };
        assert_eq!(say("before\n"), "before\n");
        fs::write(bench.log(), "").unwrap();
        assert_eq!(say("after\n"), "after\n");
        fs::remove_file(bench.log()).unwrap();
        assert_eq!(say("anew\n"), "anew\n");
        // As logrotate does, which then asks for `reopenlogs`.
        fs::rename(bench.log(), bench.temp.path().join("x.log.1")).unwrap();
        writer.write_all(b"still there\n").unwrap();
        output.carry(&mut [0; 4096]);
        output.reopen();
        writer.write_all(b"in the new one\n").unwrap();
        output.carry(&mut [0; 4096]);
        assert_eq!(fs::read_to_string(bench.temp.path().join("x.log.1")).unwrap().lines().count(), 2);
        assert_eq!(fs::read_to_string(bench.log()).unwrap().lines().count(), 1);
    }
}

#[test]
fn a_writer_survives_the_reader_and_nothing_is_lost() {
    let bench = Bench::new();
    let first = bench.output(LogPolicy::default());
    let mut writer = first.writer().unwrap();
    drop(first);
    writer.write_all(b"while nobody reads\n").unwrap();
    let mut second = bench.output(LogPolicy::default());
    second.carry(&mut [0; 1024]);
    assert_eq!(fs::read(bench.log()).unwrap(), b"while nobody reads\n");
}

#[test]
fn lines_with_and_without_stamps_are_not_mixed_in_a_file() {
    let bench = Bench::new();
    let mut output = bench.output(LogPolicy::default());
    let mut writer = output.writer().unwrap();
    for (at, timestamps) in [false, true, true, false].into_iter().enumerate() {
        output.set_policy(LogPolicy { timestamps, keep: 9, ..LogPolicy::default() });
        writer.write_all(format!("text {at}\n").as_bytes()).unwrap();
        output.carry(&mut [0; 1024]);
    }
    let files = bench.files();
    assert_eq!(files.len(), 3);
    assert_eq!(unstamped(&files[1]), "text 1\ntext 2\n");
    let all: Vec<_> = History::open(&bench.log(), 0).unwrap().map(|line| line.unwrap().text).collect();
    assert_eq!(all, [b"text 0", b"text 1", b"text 2", b"text 3"]);
}

/// What a supervisor leaves that is killed while it writes stamped lines, at every place where it can be.
#[cfg(target_os = "linux")]
#[test]
fn an_interrupted_spool_is_finished_without_a_line_twice() {
    let stamped = LogPolicy { timestamps: true, ..policy(200) };
    for cut in 0..60 {
        let bench = Bench::new();
        let mut output = bench.output(stamped.clone());
        let mut writer = output.writer().unwrap();
        writer.write_all(b"done before\n").unwrap();
        output.carry(&mut [0; 4096]);
        // Moved into the spool, perhaps written to the log in part, and not noted.
        let more = lines(3);
        writer.write_all(more.as_bytes()).unwrap();
        let spool = output.spool.as_mut().unwrap();
        assert_eq!(spool.take_from(&output.fifo, 1_000).unwrap(), more.len());
        let part: String = more.lines().map(|line| format!("{} {line}\n", stamp::format(5))).collect();
        output.log.write_raw(&part.as_bytes()[..cut], stamp::now());
        drop(output);
        writer.write_all(b"after\n").unwrap();
        let mut next = bench.output(stamped.clone());
        next.carry(&mut [0; 4096]);
        assert_eq!(unstamped(&bench.files().concat()), format!("done before\n{more}after\n"), "cut at {cut}");
    }
}

#[test]
fn a_spool_that_was_emptied_and_not_noted_is_empty() {
    let bench = Bench::new();
    let place = Place { inode: 1, size: 2 };
    let path = bench.temp.path().join("x.spool");
    let mut spool = Spool::create(&path, place).unwrap();
    fs::write(&path, [&fs::read(&path).unwrap(), "content".as_bytes()].concat()).unwrap();
    let (reopened, known) = Spool::open(&path).unwrap().unwrap();
    assert_eq!((reopened.read(&mut [0; 99]).unwrap(), known), (b"content".as_slice(), place));
    spool.advance(5, place).unwrap();
    assert!(Spool::open(&path).unwrap().unwrap().0.read(&mut [0; 99]).unwrap().len() == 2);
    OpenOptions::new().write(true).open(&path).unwrap().set_len(32).unwrap();
    assert!(Spool::open(&path).unwrap().unwrap().0.is_done());
    fs::write(&path, "half").unwrap();
    assert!(Spool::open(&path).unwrap().is_none());
}
