//! What `dkm top` shows, and what keys do to it. Nothing here touches a terminal or a supervisor.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use ratatui::Frame;
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use ratatui::layout::{Alignment, Constraint, Layout};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span, Text};
use ratatui::widgets::{Block, Borders, Cell, Paragraph, Row, Table, TableState};

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
    table: TableState,
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
            table: TableState::default(),
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
        let services = u16::try_from(self.look.services.len()).unwrap_or(u16::MAX);
        let room = frame.area().height.saturating_sub(2);
        // The table as high as it needs, but the log has a third.
        let table = services.saturating_add(1).min(room.saturating_sub(room / 3)).max(2);
        let [head, middle, log, foot] =
            Layout::vertical([Constraint::Length(1), Constraint::Length(table), Constraint::Min(0), Constraint::Length(1)])
                .areas(frame.area());
        frame.render_widget(self.head(), head);
        let (rows, at) = self.rows();
        self.table.select(at);
        let widths = [
            Constraint::Length(
                self.look.services.iter().map(|service| service.name.len()).max().unwrap_or(0).max(7).try_into().unwrap_or(64),
            ),
            Constraint::Length(11),
            Constraint::Length(8),
            Constraint::Length(6),
            Constraint::Length(8),
            Constraint::Length(13),
            Constraint::Fill(1),
        ];
        let titles = [
            ("SERVICE", Order::Name),
            ("STATE", Order::State),
            ("PID", Order::Start),
            ("CPU %", Order::Cpu),
            ("MEMORY", Order::Memory),
            ("SINCE", Order::Start),
            ("NOTE", Order::Start),
        ];
        let titles = titles.map(|(title, order)| {
            let by = order == self.order && order != Order::Start;
            Cell::from(if matches!(title, "PID" | "CPU %" | "MEMORY") {
                Text::from(title).alignment(Alignment::Right)
            } else {
                Text::from(title)
            })
            .style(if by { Style::new().add_modifier(Modifier::UNDERLINED) } else { Style::new() })
        });
        let table = Table::new(rows, widths)
            .header(Row::new(titles).style(Style::new().add_modifier(Modifier::BOLD)))
            .row_highlight_style(Style::new().add_modifier(Modifier::REVERSED));
        frame.render_stateful_widget(table, middle, &mut self.table);
        let title = self.chosen.as_ref().map_or_else(String::new, |name| format!(" {name} "));
        let block = Block::new().borders(Borders::TOP).title(title);
        let lines = usize::from(block.inner(log).height);
        let shown: Vec<Line> = self.log[self.log.len().saturating_sub(lines)..]
            .iter()
            .map(|line| Line::from(line.replace('\t', "    ")))
            .collect();
        frame.render_widget(Paragraph::new(shown).block(block), log);
        frame.render_widget(self.foot(), foot);
    }

    fn head(&self) -> Line<'_> {
        let supervisor = match &self.look.supervisor {
            Some(supervisor) => format!("supervisor {}, process {}", supervisor.version, supervisor.pid),
            None => "no supervisor".to_owned(),
        };
        let running = self.look.services.iter().filter(|service| service.state == "running").count();
        let memory: u64 = self.look.services.iter().filter_map(|service| service.usage).map(|usage| usage.rss).sum();
        let text = format!(
            "{}  {supervisor}  {running} of {} run, {}  {}",
            self.title,
            self.look.services.len(),
            bytes(memory),
            utc(now_unix())
        );
        Line::from(text).style(Style::new().add_modifier(Modifier::BOLD))
    }

    /// The rows, and which of them the cursor is on.
    fn rows(&self) -> (Vec<Row<'static>>, Option<usize>) {
        let now = now_unix();
        let services = self.sorted();
        let at = services.iter().position(|service| Some(service.name.as_str()) == self.chosen());
        let right = |text: String| Cell::from(Text::from(text).alignment(Alignment::Right));
        let rows = services.into_iter().map(|service| {
            let share = self.share(&service.name).map_or_else(|| "-".to_owned(), |share| format!("{share:.1}"));
            let since =
                if service.since == 0 { "-".to_owned() } else { span(Duration::from_secs(now.saturating_sub(service.since))) };
            Row::new([
                Cell::from(service.name.clone()),
                Cell::from(Span::styled(service.state.clone(), colour(service))),
                right(service.pid.map_or_else(|| "-".to_owned(), |pid| pid.to_string())),
                right(share),
                right(service.usage.map_or_else(|| "-".to_owned(), |usage| bytes(usage.rss))),
                Cell::from(since),
                Cell::from(note(service)),
            ])
        });
        (rows.collect(), at)
    }

    fn foot(&self) -> Line<'_> {
        if let Some((verb, service)) = &self.asked {
            let verb = match verb {
                Verb::Start => "start",
                Verb::Stop => "stop",
                _ => "restart",
            };
            return Line::from(format!("{verb} {service}? y does it, any other key does not"))
                .style(Style::new().add_modifier(Modifier::REVERSED));
        }
        if let Some(error) = &self.look.error {
            return Line::from(error.as_str()).style(Style::new().fg(Color::Red));
        }
        if !self.message.is_empty() {
            return Line::from(self.message.as_str());
        }
        Line::from("q quit  ↑↓ choose  s start  t stop  r restart  order: n name  a state  c CPU  m memory  o as started")
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
