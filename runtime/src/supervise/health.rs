//! Is it still well? The health check of a service that is ready.
//!
//! One question every period; so many failures in a row make the service ill, one good answer makes it well again. What the service says
//! by itself (a line of its log, `WATCHDOG=1`) has to come once in every period.

use std::os::fd::RawFd;
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use anyhow::Result;
use nix::poll::PollFlags;

use super::probe::{Asking, Surroundings, Target};
use crate::service::{Health, HealthAction, Question};

/// The health check of one running process.
#[derive(Debug)]
pub struct Watching {
    target: Target,
    period: Duration,
    threshold: u32,
    action: HealthAction,
    current: Option<Asking>,
    /// The next question, or the end of the period in which a sign of life has to come.
    next: Instant,
    /// Whether that sign has come.
    sign: bool,
    failures: u32,
    ill: Option<String>,
    surroundings: Surroundings,
}

impl Watching {
    /// Begins one period from now: the service has only just shown that it is well.
    ///
    /// # Errors
    /// When its probe has no usable address.
    pub fn new(health: &Health, surroundings: Surroundings, now: Instant) -> Result<Self> {
        let period = health.period_s.0;
        let mut target = Target::parse(&health.probe)?;
        if health.probe.question == Question::Notify {
            "its WATCHDOG=1".clone_into(&mut target.text);
        }
        Ok(Self {
            target,
            period,
            threshold: health.threshold,
            action: health.action,
            current: None,
            next: now + period,
            sign: false,
            failures: 0,
            ill: None,
            surroundings,
        })
    }

    /// How it fails, once it has failed too often.
    #[must_use]
    pub fn ill(&self) -> Option<&str> {
        self.ill.as_deref()
    }

    /// How it fails, if something is to be done about it.
    #[must_use]
    pub fn has_to_restart(&self) -> Option<&str> {
        self.ill().filter(|_| self.action == HealthAction::Restart)
    }

    /// What to poll, and for what.
    #[must_use]
    pub fn interest(&self) -> Option<(RawFd, PollFlags)> {
        self.current.as_ref()?.interest()
    }

    /// When to call [`Watching::go_on`] at the latest.
    #[must_use]
    pub fn deadline(&self) -> Instant {
        self.current.as_ref().map_or(self.next, Asking::deadline)
    }

    /// The service has given a sign of life.
    pub fn hear(&mut self) {
        self.sign = true;
        if self.target.is_heard() {
            self.judge(None);
        }
    }

    /// A child has ended; whether it was the one that asks.
    pub fn child_ended(&mut self, pid: i32, status: ExitStatus) -> bool {
        self.current.as_mut().is_some_and(|current| current.child_ended(pid, status))
    }

    /// Does what can be done now. `woken`: poll reported the descriptor, or the program that asks has ended.
    pub fn go_on(&mut self, woken: bool, now: Instant) {
        if self.target.is_heard() {
            if now >= self.next {
                let heard = std::mem::take(&mut self.sign);
                self.next = now + self.period;
                self.judge((!heard).then(|| format!("none in {} s", self.period.as_secs_f64())));
            }
            return;
        }
        let mut woken = woken;
        let mut current = match self.current.take() {
            Some(current) => current,
            None if now < self.next => return,
            None => {
                self.next = now + self.period;
                match self.target.ask(&self.surroundings, now) {
                    Ok(current) => {
                        woken = true;
                        current
                    }
                    Err(error) => return self.judge(Some(error.to_string())),
                }
            }
        };
        match current.go_on(&self.target, woken, now) {
            Some(answer) => {
                // An answer that took longer than the period is followed by the next question, not by several.
                self.next = self.next.max(now);
                self.judge(answer.err().map(|error| error.to_string()));
            }
            None => self.current = Some(current),
        }
    }

    fn judge(&mut self, failure: Option<String>) {
        let Some(failure) = failure else {
            (self.failures, self.ill) = (0, None);
            return;
        };
        self.failures = self.failures.saturating_add(1);
        if self.failures >= self.threshold {
            self.ill = Some(format!("{} ({failure}; failure {} in a row)", self.target.text, self.failures));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::service::Seconds;

    fn health(question: Question, threshold: u32) -> Health {
        let period_s = Seconds(Duration::from_secs(10));
        Health { probe: question.into(), period_s, threshold, action: HealthAction::Restart }
    }

    #[test]
    fn only_failures_in_a_row_make_ill_and_one_good_answer_makes_well() {
        let mut now = Instant::now();
        let mut watching = Watching::new(&health(Question::Notify, 3), Surroundings::default(), now).unwrap();
        let mut period = |watching: &mut Watching, sign: bool| {
            if sign {
                watching.hear();
            }
            now += Duration::from_secs(10);
            watching.go_on(false, now);
        };
        for sign in [false, false, true, false, false] {
            period(&mut watching, sign);
            assert_eq!(watching.ill(), None);
        }
        period(&mut watching, false);
        assert!(watching.has_to_restart().unwrap().contains("failure 3 in a row"), "{:?}", watching.ill());
        watching.hear();
        assert_eq!(watching.ill(), None);
    }

    #[test]
    fn a_refused_connection_is_a_failure_at_once() {
        let now = Instant::now();
        let mut watching =
            Watching::new(&health(Question::Tcp("127.0.0.1:1".to_owned()), 1), Surroundings::default(), now).unwrap();
        watching.go_on(false, now);
        assert_eq!(watching.ill(), None, "nobody has asked yet");
        watching.go_on(false, now + Duration::from_secs(10));
        assert!(watching.ill().unwrap().contains("refused"), "{:?}", watching.ill());
        assert_eq!(watching.deadline(), now + Duration::from_secs(20));
    }
}
