//! Listens to what goes into a log for texts that somebody waits for.

/// Texts that are waited for, found wherever the pieces that a log is written in are cut.
#[derive(Debug, Default)]
pub struct Ear {
    texts: Vec<(usize, Vec<u8>)>,
    /// The end of what came last, as long as a text may have begun in it.
    tail: Vec<u8>,
    heard: Vec<usize>,
}

impl Ear {
    /// Listens for texts, each with a number.
    #[must_use]
    pub fn new(texts: impl IntoIterator<Item = (usize, String)>) -> Self {
        let texts = texts.into_iter().map(|(number, text)| (number, text.into_bytes())).collect();
        Self { texts, tail: Vec::new(), heard: Vec::new() }
    }

    /// Whether it listens for anything.
    #[must_use]
    pub fn listens(&self) -> bool {
        !self.texts.is_empty()
    }

    /// The longest piece of output that is of no use without what comes after it.
    fn longest(&self) -> usize {
        self.texts.iter().map(|(_, text)| text.len()).max().unwrap_or(1) - 1
    }

    /// Takes in what was written.
    pub fn hear(&mut self, bytes: &[u8]) {
        let mut seen = std::mem::take(&mut self.tail);
        let old = seen.len();
        seen.extend_from_slice(bytes);
        for (number, text) in &self.texts {
            // What lies in the old part alone was found before.
            let from = old.saturating_sub(text.len() - 1);
            if !self.heard.contains(number) && find(&seen[from..], text) {
                self.heard.push(*number);
            }
        }
        let keep = seen.len().saturating_sub(self.longest());
        seen.drain(..keep);
        self.tail = seen;
    }

    /// The numbers of the texts that were heard since this was asked last.
    pub fn heard(&mut self) -> Vec<usize> {
        std::mem::take(&mut self.heard)
    }
}

fn find(bytes: &[u8], text: &[u8]) -> bool {
    let mut rest = bytes;
    while let Some(at) = text.first().and_then(|&first| crate::os::find_byte(first, rest)) {
        if rest[at..].starts_with(text) {
            return true;
        }
        rest = &rest[at + 1..];
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_found_wherever_they_are_cut() {
        let text = b"noise up and rup and running noise";
        for cut in 0..text.len() {
            let mut ear = Ear::new([(3, "up and running".to_owned()), (4, "nowhere".to_owned())]);
            ear.hear(&text[..cut]);
            ear.hear(&text[cut..]);
            assert_eq!(ear.heard(), [3], "cut at {cut}");
            ear.hear(b"!");
            assert_eq!(ear.heard(), Vec::<usize>::new(), "heard twice");
        }
    }

    #[test]
    fn every_later_one_is_heard_again() {
        let mut ear = Ear::new([(0, "beat".to_owned())]);
        for _ in 0..3 {
            ear.hear(b"be");
            ear.hear(b"at\n");
            assert_eq!(ear.heard(), [0]);
        }
    }
}
