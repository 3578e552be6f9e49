//! A line of text that is being typed: what each key does to it, and how it is drawn. Nothing here touches a terminal.
//!
//! The keys are those that shells share: arrows, Home, End, ^A ^E ^B ^F, words by Alt and Ctrl, ^K ^U ^W ^Y, history by
//! arrows and ^P ^N (of lines that begin with what was typed), Tab, ^L, ^C, ^D.

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use unicode_width::UnicodeWidthChar;

/// What a key leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The line is to be drawn anew.
    Draw,
    /// The line is finished.
    Done(String),
    /// Ctrl-C: the line is thrown away.
    Cancelled,
    /// Ctrl-D on an empty line.
    End,
    /// The screen is to be cleared.
    Clear,
    /// Several completions are possible: they are to be shown.
    Show(Vec<String>),
}

/// A line being edited.
#[derive(Debug)]
pub struct Editor<'a> {
    text: Vec<char>,
    cursor: usize,
    /// Older lines, the newest last.
    history: &'a [String],
    /// The line of the history that is shown; the number of lines: none.
    at: usize,
    /// What was typed before the history was looked at.
    typed: Vec<char>,
    /// What was cut last.
    cut: Vec<char>,
}

impl<'a> Editor<'a> {
    /// An empty line.
    #[must_use]
    pub fn new(history: &'a [String]) -> Self {
        Self { text: Vec::new(), cursor: 0, history, at: history.len(), typed: Vec::new(), cut: Vec::new() }
    }

    /// Puts in what was pasted; line ends become blanks.
    pub fn paste(&mut self, text: &str) {
        for c in text.chars() {
            self.insert(if c.is_whitespace() { ' ' } else { c });
        }
    }

    /// Does what a key stands for. `complete`: what can come after these words in place of the last one.
    pub fn press(&mut self, key: KeyEvent, complete: impl Fn(&[String], &str) -> Vec<String>) -> Outcome {
        let control = key.modifiers.contains(KeyModifiers::CONTROL);
        let alt = key.modifiers.contains(KeyModifiers::ALT);
        match key.code {
            KeyCode::Enter => return Outcome::Done(self.text.iter().collect()),
            KeyCode::Char('j' | 'm') if control => return Outcome::Done(self.text.iter().collect()),
            KeyCode::Char('c') if control => return Outcome::Cancelled,
            KeyCode::Char('d') if control && self.text.is_empty() => return Outcome::End,
            KeyCode::Char('l') if control => return Outcome::Clear,
            KeyCode::Tab => return self.complete(complete),
            KeyCode::Char('i') if control => return self.complete(complete),
            KeyCode::Up => self.recall(false),
            KeyCode::Char('p') if control => self.recall(false),
            KeyCode::Down => self.recall(true),
            KeyCode::Char('n') if control => self.recall(true),
            KeyCode::Left if control || alt => self.cursor = self.word_start(),
            KeyCode::Right if control || alt => self.cursor = self.word_end(),
            KeyCode::Left => self.cursor = self.cursor.saturating_sub(1),
            KeyCode::Right => self.cursor = (self.cursor + 1).min(self.text.len()),
            KeyCode::Home => self.cursor = 0,
            KeyCode::End => self.cursor = self.text.len(),
            KeyCode::Backspace if alt || control => self.cut(self.word_start(), self.cursor),
            KeyCode::Backspace => self.remove(self.cursor.wrapping_sub(1)),
            KeyCode::Delete => self.remove(self.cursor),
            KeyCode::Char(c) if control => self.control(c),
            KeyCode::Char('b') if alt => self.cursor = self.word_start(),
            KeyCode::Char('f') if alt => self.cursor = self.word_end(),
            KeyCode::Char('d') if alt => self.cut(self.cursor, self.word_end()),
            KeyCode::Char(c) if !alt => self.insert(c),
            _ => {}
        }
        Outcome::Draw
    }

    fn control(&mut self, c: char) {
        match c {
            'a' => self.cursor = 0,
            'e' => self.cursor = self.text.len(),
            'b' => self.cursor = self.cursor.saturating_sub(1),
            'f' => self.cursor = (self.cursor + 1).min(self.text.len()),
            'd' => self.remove(self.cursor),
            'h' => self.remove(self.cursor.wrapping_sub(1)),
            'k' => self.cut(self.cursor, self.text.len()),
            'u' => self.cut(0, self.cursor),
            'w' => self.cut(self.word_start(), self.cursor),
            'y' => std::mem::take(&mut self.cut).into_iter().for_each(|c| {
                self.insert(c);
                self.cut.push(c);
            }),
            _ => {}
        }
    }

    fn insert(&mut self, c: char) {
        if !c.is_control() {
            self.text.insert(self.cursor, c);
            self.cursor += 1;
        }
    }

    fn remove(&mut self, at: usize) {
        if at < self.text.len() {
            self.text.remove(at);
            if at < self.cursor {
                self.cursor -= 1;
            }
        }
    }

    fn cut(&mut self, from: usize, to: usize) {
        if from < to {
            self.cut = self.text.drain(from..to).collect();
            self.cursor = from;
        }
    }

    fn word_start(&self) -> usize {
        let before = &self.text[..self.cursor];
        let end = before.iter().rposition(|c| !c.is_whitespace()).map_or(0, |at| at + 1);
        before[..end].iter().rposition(|c| c.is_whitespace()).map_or(0, |at| at + 1)
    }

    fn word_end(&self) -> usize {
        let after = &self.text[self.cursor..];
        let start = after.iter().position(|c| !c.is_whitespace()).unwrap_or(after.len());
        let length = after[start..].iter().position(|c| c.is_whitespace()).unwrap_or(after.len() - start);
        self.cursor + start + length
    }

    /// Shows the next older or younger line that begins with what was typed.
    fn recall(&mut self, younger: bool) {
        if self.at == self.history.len() {
            self.typed = self.text.clone();
        }
        let start: String = self.typed.iter().collect();
        let fits = |at: &usize| self.history[*at].starts_with(&start) && self.history[*at] != start;
        let found = if younger { (self.at + 1..self.history.len()).find(fits) } else { (0..self.at).rev().find(fits) };
        match found {
            Some(at) => (self.at, self.text) = (at, self.history[at].chars().collect()),
            None if younger => (self.at, self.text) = (self.history.len(), self.typed.clone()),
            None => {}
        }
        self.cursor = self.text.len();
    }

    /// Completes the word before the cursor as far as all possibilities agree.
    fn complete(&mut self, complete: impl Fn(&[String], &str) -> Vec<String>) -> Outcome {
        let mut words: Vec<String> =
            self.text[..self.cursor].iter().collect::<String>().split(' ').map(str::to_owned).collect();
        let last = words.pop().unwrap_or_default();
        words.retain(|word| !word.is_empty());
        let found = complete(&words, &last);
        let Some(first) = found.first() else { return Outcome::Draw };
        let mut common: &str = first;
        for other in &found {
            let same = common.char_indices().zip(other.chars()).find(|((_, a), b)| a != b).map(|((at, _), _)| at);
            common = &common[..same.unwrap_or(common.len().min(other.len()))];
        }
        let more = common.get(last.len()..).unwrap_or_default().to_owned();
        if more.is_empty() && found.len() > 1 {
            return Outcome::Show(found);
        }
        more.chars().for_each(|c| self.insert(c));
        if found.len() == 1 {
            self.insert(' ');
        }
        Outcome::Draw
    }

    /// The part of the line that fits into so many columns, and in which of them the cursor is.
    #[must_use]
    pub fn view(&self, columns: usize) -> (String, usize) {
        let width = |chars: &[char]| chars.iter().map(|c| c.width().unwrap_or(0)).sum::<usize>();
        let columns = columns.max(2);
        let mut start = 0;
        while width(&self.text[start..self.cursor]) >= columns {
            start += 1;
        }
        let mut end = self.text.len();
        while width(&self.text[start..end]) > columns {
            end -= 1;
        }
        (self.text[start..end].iter().collect(), width(&self.text[start..self.cursor]))
    }
}

/// Splits a line into words as shells do: blanks part them, quotes and backslashes keep them together.
///
/// # Errors
/// When a quote is not closed.
pub fn split(line: &str) -> Result<Vec<String>, String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        match (quote, c) {
            (Some(open), c) if c == open => quote = None,
            (None, '"' | '\'') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (None | Some('"'), '\\') => word.get_or_insert_default().extend(chars.next()),
            (None, c) if c.is_whitespace() => words.extend(word.take()),
            (None, '#') if word.is_none() => break,
            (_, c) => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    match quote {
        Some(quote) => Err(format!("a {quote} is not closed")),
        None => Ok(words),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(code: KeyCode, modifiers: KeyModifiers) -> KeyEvent {
        KeyEvent::new(code, modifiers)
    }

    /// Types characters; `^x` is Ctrl-x, `<` and `>` are arrows left and right, `u` after `^` is Ctrl-u.
    fn typed(editor: &mut Editor, keys: &str) -> Outcome {
        let mut out = Outcome::Draw;
        let mut chars = keys.chars();
        while let Some(c) = chars.next() {
            let event = match c {
                '^' => key(KeyCode::Char(chars.next().unwrap()), KeyModifiers::CONTROL),
                '<' => key(KeyCode::Left, KeyModifiers::NONE),
                '>' => key(KeyCode::Right, KeyModifiers::NONE),
                '\t' => key(KeyCode::Tab, KeyModifiers::NONE),
                '\n' => key(KeyCode::Enter, KeyModifiers::NONE),
                '\x7f' => key(KeyCode::Backspace, KeyModifiers::NONE),
                c => key(KeyCode::Char(c), KeyModifiers::NONE),
            };
            out = editor.press(event, |before, last| {
                let all: &[&str] = if before.is_empty() { &["start", "status", "stop", "tail"] } else { &["go-carbon", "all"] };
                all.iter().filter(|word| word.starts_with(last)).map(ToString::to_string).collect()
            });
        }
        out
    }

    fn line(keys: &str) -> String {
        let mut editor = Editor::new(&[]);
        match typed(&mut editor, &format!("{keys}\n")) {
            Outcome::Done(line) => line,
            other => panic!("{keys}: {other:?}"),
        }
    }

    #[test]
    fn keys_edit() {
        for (keys, wanted) in [
            ("abc<<X", "aXbc"),
            ("abc^aX^eY", "XabcY"),
            ("abc\x7f\x7fd", "ad"),
            ("one two^wthree", "one three"),
            ("one two^u^y^y", "one twoone two"),
            ("one two^a^kx", "x"),
            ("añ日\x7f!", "añ!"),
            ("ab^a^dX", "Xb"),
            ("abc^b^b^fX", "abXc"),
        ] {
            assert_eq!(line(keys), wanted, "{keys}");
        }
        let mut editor = Editor::new(&[]);
        assert_eq!(typed(&mut editor, "^d"), Outcome::End);
        assert_eq!(typed(&mut editor, "x^c"), Outcome::Cancelled);
        editor.paste("a\nb\x1b[2J");
        assert_eq!(editor.view(80).0, "xa b[2J");
    }

    #[test]
    fn words_are_moved_over_and_cut() {
        let mut editor = Editor::new(&[]);
        typed(&mut editor, "start go-carbon now");
        editor.press(key(KeyCode::Left, KeyModifiers::CONTROL), |_, _| Vec::new());
        editor.press(key(KeyCode::Char('b'), KeyModifiers::ALT), |_, _| Vec::new());
        editor.press(key(KeyCode::Char('d'), KeyModifiers::ALT), |_, _| Vec::new());
        assert_eq!(editor.view(80), ("start  now".to_owned(), 6));
        editor.press(key(KeyCode::Char('f'), KeyModifiers::ALT), |_, _| Vec::new());
        assert_eq!(editor.view(80).1, 10);
        editor.press(key(KeyCode::Backspace, KeyModifiers::ALT), |_, _| Vec::new());
        assert_eq!(editor.view(80), ("start  ".to_owned(), 7));
    }

    #[test]
    fn history_is_searched_by_what_was_typed() {
        let history = ["start a", "status", "start b"].map(str::to_owned);
        let mut editor = Editor::new(&history);
        typed(&mut editor, "start");
        for (code, wanted) in [
            (KeyCode::Up, "start b"),
            (KeyCode::Up, "start a"),
            (KeyCode::Up, "start a"),
            (KeyCode::Down, "start b"),
            (KeyCode::Down, "start"),
        ] {
            editor.press(key(code, KeyModifiers::NONE), |_, _| Vec::new());
            assert_eq!(editor.view(80).0, wanted);
        }
    }

    #[test]
    fn tab_completes_as_far_as_all_agree() {
        assert_eq!(line("sta\tr\tg\t"), "start go-carbon ");
        assert_eq!(line("x\t"), "x");
        let mut editor = Editor::new(&[]);
        typed(&mut editor, "s\t");
        assert_eq!(editor.view(80).0, "st");
        assert_eq!(typed(&mut editor, "\t"), Outcome::Show(vec!["start".into(), "status".into(), "stop".into()]));
    }

    #[test]
    fn a_long_line_is_shown_around_the_cursor() {
        let mut editor = Editor::new(&[]);
        typed(&mut editor, &"0123456789".repeat(3));
        let (view, cursor) = editor.view(10);
        assert_eq!((view.as_str(), cursor), ("123456789", 9));
        typed(&mut editor, "^a");
        assert_eq!(editor.view(10), ("0123456789".to_owned(), 0));
        let mut wide = Editor::new(&[]);
        typed(&mut wide, "日本語日本語");
        let (view, cursor) = wide.view(7);
        assert_eq!((view.as_str(), cursor), ("日本語", 6));
    }

    #[test]
    fn lines_are_split_like_a_shell_does() {
        for (line, wanted) in [
            ("tail  -f x", &["tail", "-f", "x"][..]),
            ("a 'b c' \"d \\\" e\" f\\ g ''", &["a", "b c", "d \" e", "f g", ""]),
            ("status # all", &["status"]),
            ("  ", &[]),
            ("a'b'c", &["abc"]),
        ] {
            assert_eq!(split(line).unwrap(), wanted, "{line}");
        }
        assert!(split("a 'b").is_err());
    }
}
