//! What `dkm top` shows, and what keys do to it. Nothing here touches a terminal or a supervisor.
//!
//! The picture is lines of text, written where they belong: the library's tables and its solver of layouts would be a
//! twentieth of the whole launcher.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use ratatui::Frame;
use ratatui::buffer::Buffer;
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use ratatui::layout::Rect;
use ratatui::style::{Color, Modifier, Style};

use crate::clock::{now_unix, span, utc};
use crate::commands::status::note;
use crate::control::{Status, SupervisorStatus, Verb};

/// What was found by one look.
#[derive(Clone, Debug, Default)]
pub struct Look {
    /// The supervisor; none when none runs.
    pub supervisor: Option<SupervisorStatus>,
    /// The services, in the order that they start in.
    pub services: Vec<Status>,
    /// Why nothing was found.
    pub error: Option<String>,
}

/// By what the services are ordered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Order {
    Start,
    Name,
    State,
    Cpu,
    Memory,
}

/// What a key leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wish {
    /// Nothing but another picture.
    Nothing,
    /// The end.
    Quit,
    /// That something is done with a service.
    Act(Verb, String),
}

/// Everything that is shown.
#[derive(Debug)]
pub struct View {
    title: String,
    look: Look,
    /// Each service's processor time at the last look, and what share of one processor it used before that.
    cpu: BTreeMap<String, (Instant, u64, Option<f64>)>,
    order: Order,
    /// The service that the cursor is on.
    chosen: Option<String>,
    /// The first service in the table; those before it are out of sight.
    first: usize,
    /// What the last key asked for and is to be confirmed.
    asked: Option<(Verb, String)>,
    /// What came of the last thing that was done.
    pub message: String,
    /// The last lines of the chosen service, harmless.
    pub log: Vec<String>,
}

impl View {
    /// A view of nothing yet.
    #[must_use]
    pub fn new(title: String) -> Self {
        Self {
            title,
            look: Look::default(),
            cpu: BTreeMap::new(),
            order: Order::Start,
            chosen: None,
            first: 0,
            asked: None,
            message: String::new(),
            log: Vec::new(),
        }
    }

    /// Takes in what was found at `now`.
    pub fn take(&mut self, look: Look, now: Instant) {
        let mut cpu = BTreeMap::new();
        for service in &look.services {
            let Some(usage) = service.usage else { continue };
            let share = self.cpu.get(&service.name).and_then(|&(then, before, share)| {
                let elapsed = now.saturating_duration_since(then).as_secs_f64() * 1_000.0;
                // Two looks in one moment tell nothing new; and it falls when a process ends that nobody waited for.
                if elapsed < 1.0 { share } else { Some(usage.cpu_ms.checked_sub(before)? as f64 / elapsed * 100.0) }
            });
            cpu.insert(service.name.clone(), (now, usage.cpu_ms, share));
        }
        self.cpu = cpu;
        self.look = look;
        let names: Vec<String> = self.sorted().iter().map(|service| service.name.clone()).collect();
        if self.chosen.as_ref().is_none_or(|chosen| !names.contains(chosen)) {
            self.chosen = names.first().cloned();
        }
    }

    /// The service that the cursor is on.
    #[must_use]
    pub fn chosen(&self) -> Option<&str> {
        self.chosen.as_deref()
    }

    fn share(&self, name: &str) -> Option<f64> {
        self.cpu.get(name).and_then(|&(_, _, share)| share)
    }

    fn sorted(&self) -> Vec<&Status> {
        let mut services: Vec<&Status> = self.look.services.iter().collect();
        match self.order {
            Order::Start => {}
            Order::Name => services.sort_by(|a, b| a.name.cmp(&b.name)),
            Order::State => services.sort_by_key(|service| rank(service)),
            Order::Cpu => {
                services.sort_by(|a, b| self.share(&b.name).unwrap_or(0.0).total_cmp(&self.share(&a.name).unwrap_or(0.0)));
            }
            Order::Memory => services.sort_by_key(|service| std::cmp::Reverse(service.usage.map_or(0, |usage| usage.rss))),
        }
        services
    }

    /// Does what a key stands for.
    pub fn press(&mut self, key: KeyEvent) -> Wish {
        if key.modifiers.contains(KeyModifiers::CONTROL) {
            return if key.code == KeyCode::Char('c') { Wish::Quit } else { Wish::Nothing };
        }
        if let Some((verb, service)) = self.asked.take() {
            return match key.code {
                KeyCode::Char('y' | 'Y') => Wish::Act(verb, service),
                _ => Wish::Nothing,
            };
        }
        self.message.clear();
        match key.code {
            KeyCode::Char('q') | KeyCode::Esc => return Wish::Quit,
            KeyCode::Up | KeyCode::Char('k') => self.step(-1),
            KeyCode::Down | KeyCode::Char('j') => self.step(1),
            KeyCode::PageUp => self.step(-10),
            KeyCode::PageDown => self.step(10),
            KeyCode::Home => self.step(isize::MIN),
            KeyCode::End => self.step(isize::MAX),
            KeyCode::Char('s') => self.ask(Verb::Start),
            KeyCode::Char('t') => self.ask(Verb::Stop),
            KeyCode::Char('r') => self.ask(Verb::Restart),
            KeyCode::Char('o') => self.order = Order::Start,
            KeyCode::Char('n') => self.order = Order::Name,
            KeyCode::Char('a') => self.order = Order::State,
            KeyCode::Char('c') => self.order = Order::Cpu,
            KeyCode::Char('m') => self.order = Order::Memory,
            _ => {}
        }
        Wish::Nothing
    }

    fn ask(&mut self, verb: Verb) {
        self.asked = self.chosen.clone().map(|service| (verb, service));
    }

    fn step(&mut self, by: isize) {
        let names: Vec<String> = self.sorted().iter().map(|service| service.name.clone()).collect();
        let at = names.iter().position(|name| Some(name.as_str()) == self.chosen()).unwrap_or(0);
        let last = names.len().saturating_sub(1);
        self.chosen = names.get(at.saturating_add_signed(by).min(last)).cloned();
    }

    /// Draws everything.
    pub fn draw(&mut self, frame: &mut Frame) {
        let area = frame.area();
        let room = area.height.saturating_sub(2);
        let services = u16::try_from(self.look.services.len()).unwrap_or(u16::MAX);
        // The table as high as it needs, but the log has a third.
        let table = services.saturating_add(1).min(room - room / 3).max(2).min(room);
        let buffer = frame.buffer_mut();
        put(buffer, 0, 0, &self.head(), Style::new().add_modifier(Modifier::BOLD));
        self.draw_table(buffer, table);
        self.draw_log(buffer, 1 + table, room - table);
        if area.height > 1 {
            let (text, style) = self.foot();
            put(buffer, 0, area.height - 1, &text, style);
            // What is asked stands out as a whole line.
            buffer.set_style(Rect::new(0, area.height - 1, area.width, 1), style);
        }
    }

    /// The titles and as many services as there is room for, the one with the cursor among them.
    fn draw_table(&mut self, buffer: &mut Buffer, height: u16) {
        if height == 0 {
            return;
        }
        let (rows, at) = self.rows();
        let shown = usize::from(height - 1);
        // Nothing is left empty below, and the cursor is in sight.
        let at_most = rows.len().saturating_sub(shown);
        let cursor = at.unwrap_or(0);
        self.first = self.first.min(at_most).clamp((cursor + 1).saturating_sub(shown.max(1)), cursor);
        let longest = self.look.services.iter().map(|service| service.name.len()).max().unwrap_or(0).max(7);
        // The last one has the rest of the line.
        let widths = [longest, 11, 8, 6, 8, 13, usize::MAX];
        let bold = Style::new().add_modifier(Modifier::BOLD);
        let titles = TITLES.map(|(title, order)| {
            let by = order == self.order && order != Order::Start;
            (title.to_owned(), if by { bold.add_modifier(Modifier::UNDERLINED) } else { bold })
        });
        let lines = std::iter::once(titles).chain(rows.into_iter().skip(self.first).take(shown));
        for (y, cells) in (1..).zip(lines) {
            let mut x = 0;
            for (column, (text, style)) in cells.into_iter().enumerate() {
                let width = widths[column];
                let right = RIGHT.contains(&column);
                let text = if right { format!("{text:>width$}") } else { text };
                let end = put_within(buffer, x, y, &text, width, style);
                x = if width == usize::MAX { end } else { x.saturating_add(width.saturating_add(1)) };
            }
        }
        if let Some(at) = at.and_then(|at| at.checked_sub(self.first)).filter(|&at| at < shown) {
            let line = Rect::new(0, 2 + u16::try_from(at).unwrap_or(0), buffer.area.width, 1);
            buffer.set_style(line, Style::new().add_modifier(Modifier::REVERSED));
        }
    }

    /// The last lines of the chosen service, below a line with its name.
    fn draw_log(&self, buffer: &mut Buffer, top: u16, height: u16) {
        let Some(lines) = height.checked_sub(1) else { return };
        put(buffer, 0, top, &"─".repeat(buffer.area.width.into()), Style::new());
        if let Some(name) = &self.chosen {
            put(buffer, 0, top, &format!(" {name} "), Style::new());
        }
        let from = self.log.len().saturating_sub(lines.into());
        for (y, line) in (top + 1..).zip(&self.log[from..]) {
            put(buffer, 0, y, &line.replace('\t', "    "), Style::new());
        }
    }

    fn head(&self) -> String {
        let supervisor = match &self.look.supervisor {
            Some(supervisor) => format!("supervisor {}, process {}", supervisor.version, supervisor.pid),
            None => "no supervisor".to_owned(),
        };
        let running = self.look.services.iter().filter(|service| service.state == "running").count();
        let memory: u64 = self.look.services.iter().filter_map(|service| service.usage).map(|usage| usage.rss).sum();
        let (number, memory) = (self.look.services.len(), bytes(memory));
        format!("{}  {supervisor}  {running} of {number} run, {memory}  {}", self.title, utc(now_unix()))
    }

    /// The rows, and which of them the cursor is on.
    fn rows(&self) -> (Vec<Cells>, Option<usize>) {
        let now = now_unix();
        let services = self.sorted();
        let at = services.iter().position(|service| Some(service.name.as_str()) == self.chosen());
        let none = || "-".to_owned();
        let rows = services.into_iter().map(|service| {
            let since = if service.since == 0 { none() } else { span(Duration::from_secs(now.saturating_sub(service.since))) };
            let texts = [
                service.name.clone(),
                service.state.clone(),
                service.pid.map_or_else(none, |pid| pid.to_string()),
                self.share(&service.name).map_or_else(none, |share| format!("{share:.1}")),
                service.usage.map_or_else(none, |usage| bytes(usage.rss)),
                since,
                note(service),
            ];
            let mut cells = texts.map(|text| (text, Style::new()));
            cells[1].1 = colour(service);
            cells
        });
        (rows.collect(), at)
    }

    fn foot(&self) -> (String, Style) {
        if let Some((verb, service)) = &self.asked {
            let verb = match verb {
                Verb::Start => "start",
                Verb::Stop => "stop",
                _ => "restart",
            };
            let text = format!("{verb} {service}? y does it, any other key does not");
            return (text, Style::new().add_modifier(Modifier::REVERSED));
        }
        if let Some(error) = &self.look.error {
            return (error.clone(), Style::new().fg(Color::Red));
        }
        let text = if self.message.is_empty() { KEYS } else { &self.message };
        (text.to_owned(), Style::new())
    }
}

/// The cells of one line of the table.
type Cells = [(String, Style); 7];

/// The columns, and by what order they are marked.
const TITLES: [(&str, Order); 7] = [
    ("SERVICE", Order::Name),
    ("STATE", Order::State),
    ("PID", Order::Start),
    ("CPU %", Order::Cpu),
    ("MEMORY", Order::Memory),
    ("SINCE", Order::Start),
    ("NOTE", Order::Start),
];

/// The columns of numbers.
const RIGHT: [usize; 3] = [2, 3, 4];

const KEYS: &str = "q quit  ↑↓ choose  s start  t stop  r restart  order: n name  a state  c CPU  m memory  o as started";

/// Writes a text as far as the line goes.
fn put(buffer: &mut Buffer, x: usize, y: u16, text: &str, style: Style) {
    put_within(buffer, x, y, text, usize::MAX, style);
}

/// Writes a text as far as a width and the line go; where it ends.
fn put_within(buffer: &mut Buffer, x: usize, y: u16, text: &str, width: usize, style: Style) -> usize {
    match u16::try_from(x) {
        Ok(x) if x < buffer.area.width && y < buffer.area.height => buffer.set_stringn(x, y, text, width, style).0.into(),
        _ => x,
    }
}

/// What needs attention first.
fn rank(service: &Status) -> u8 {
    match service.state.as_str() {
        "backing-off" | "broken" => 0,
        "exited" if service.failed => 0,
        "running" if service.ill.is_some() => 1,
        "stopping" | "starting" | "waiting" => 2,
        "running" => 3,
        _ => 4,
    }
}

fn colour(service: &Status) -> Style {
    match rank(service) {
        0 => Style::new().fg(Color::Red),
        1 | 2 => Style::new().fg(Color::Yellow),
        3 => Style::new().fg(Color::Green),
        _ => Style::new(),
    }
}

/// A number of bytes in three digits or so.
fn bytes(count: u64) -> String {
    match count {
        0..1_000_000 => format!("{} kB", count / 1_000),
        1_000_000..10_000_000 => format!("{:.1} MB", count as f64 / 1e6),
        10_000_000..1_000_000_000 => format!("{} MB", count / 1_000_000),
        _ => format!("{:.1} GB", count as f64 / 1e9),
    }
}

#[cfg(test)]
mod tests {
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    use super::*;
    use crate::control::Usage;

    fn service(name: &str, state: &str, cpu_ms: u64, rss: u64) -> Status {
        let usage = (state == "running").then_some(Usage { processes: 1, cpu_ms, rss });
        Status { name: name.into(), state: state.into(), pid: usage.map(|_| 4711), usage, ..Status::default() }
    }

    fn look(cpu: [u64; 2]) -> Look {
        let mut dead = service("carbonapi", "backing-off", 0, 0);
        dead.reason = Some("ended with status 7\x1b[2J".into());
        dead.next_try_ms = Some(12_000);
        let services =
            vec![service("go-carbon", "running", cpu[0], 52_300_000), dead, service("grafana", "running", cpu[1], 131_000_000)];
        Look { supervisor: None, services, error: None }
    }

    fn picture(view: &mut View) -> Vec<String> {
        let mut terminal = Terminal::new(TestBackend::new(100, 12)).unwrap();
        terminal.draw(|frame| view.draw(frame)).unwrap();
        let buffer = terminal.backend().buffer();
        let row = |y| (0..buffer.area.width).map(|x| buffer[(x, y)].symbol()).collect::<String>().trim_end().to_owned();
        (0..buffer.area.height).map(row).collect()
    }

    fn press(view: &mut View, keys: &str) -> Wish {
        keys.chars().map(|c| view.press(KeyEvent::new(KeyCode::Char(c), KeyModifiers::NONE))).last().unwrap()
    }

    fn view() -> View {
        let mut view = View::new("/data".into());
        let begin = Instant::now();
        view.take(look([1_000, 500]), begin);
        view.take(look([1_500, 520]), begin + Duration::from_secs(1));
        view.log = vec!["one".into(), "two".into()];
        view
    }

    #[test]
    fn the_picture_has_what_one_looks_for() {
        let rows = picture(&mut view());
        assert!(rows[0].starts_with("/data  no supervisor  2 of 3 run, 183 MB  "), "{rows:#?}");
        assert_eq!(rows[2], "go-carbon running         4711   50.0    52 MB -");
        assert!(
            rows[3].starts_with(
                "carbonapi backing-off        -      -        - -             ended with status 7\\x1b[2J; next try in"
            ),
            "{rows:#?}"
        );
        assert_eq!(rows[4], "grafana   running         4711    2.0   131 MB -");
        assert!(rows[5].contains(" go-carbon ") && rows[6] == "one" && rows[7] == "two", "{rows:#?}");
        assert!(rows[11].starts_with("q quit"), "{rows:#?}");
    }

    #[test]
    fn keys_choose_order_and_ask_before_they_act() {
        let mut view = view();
        assert_eq!(press(&mut view, "jj"), Wish::Nothing);
        assert_eq!(view.chosen(), Some("grafana"));
        press(&mut view, "jk");
        assert_eq!(view.chosen(), Some("carbonapi"));
        press(&mut view, "t");
        assert!(picture(&mut view)[11].starts_with("stop carbonapi? y"));
        assert_eq!(press(&mut view, "n"), Wish::Nothing);
        assert_eq!(press(&mut view, "ty"), Wish::Act(Verb::Stop, "carbonapi".into()));
        assert_eq!(press(&mut view, "sy"), Wish::Act(Verb::Start, "carbonapi".into()));
        assert_eq!(press(&mut view, "ry"), Wish::Act(Verb::Restart, "carbonapi".into()));
        for (key, wanted) in [("n", "carbonapi"), ("c", "go-carbon"), ("m", "grafana"), ("a", "carbonapi"), ("o", "go-carbon")]
        {
            press(&mut view, key);
            assert!(picture(&mut view)[2].starts_with(wanted), "{key}");
        }
        assert_eq!(view.chosen(), Some("carbonapi"), "the cursor stays with its service");
        assert_eq!(press(&mut view, "q"), Wish::Quit);
    }

    #[test]
    fn the_cursor_stays_in_sight_and_a_line_ends_with_the_terminal() {
        let mut view = View::new("/data".into());
        let services: Vec<Status> = (0..40).map(|number| service(&format!("s{number}"), "running", 0, 0)).collect();
        view.take(Look { services, ..Look::default() }, Instant::now());
        view.log = vec!["ü".repeat(300)];
        // Twelve lines: head, titles, six services, the log's two and its line, foot.
        let first = |view: &mut View| picture(view)[2].split(' ').next().unwrap().to_owned();
        assert_eq!(first(&mut view), "s0");
        press(&mut view, "jjjjjj");
        assert_eq!(first(&mut view), "s1");
        assert_eq!(view.chosen(), Some("s6"));
        press(&mut view, "kkk");
        assert_eq!(first(&mut view), "s1", "it moves only when it has to");
        view.press(KeyEvent::new(KeyCode::End, KeyModifiers::NONE));
        assert_eq!(first(&mut view), "s34");
        view.press(KeyEvent::new(KeyCode::Home, KeyModifiers::NONE));
        assert_eq!(first(&mut view), "s0");
        assert_eq!(picture(&mut view)[9], "ü".repeat(100));
    }

    #[test]
    fn a_service_that_is_gone_is_not_chosen_any_more_and_small_terminals_are_enough() {
        let mut view = view();
        press(&mut view, "jj");
        view.take(Look { services: vec![service("x", "stopped", 0, 0)], ..Look::default() }, Instant::now());
        assert_eq!(view.chosen(), Some("x"));
        view.take(Look::default(), Instant::now());
        assert_eq!(press(&mut view, "jt"), Wish::Nothing);
        assert_eq!(view.chosen(), None);
        for (width, height) in [(1, 1), (3, 2), (20, 4), (300, 3)] {
            let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
            terminal.draw(|frame| view.draw(frame)).unwrap();
        }
    }
}
