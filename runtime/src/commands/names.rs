//! Names of services: aliases, `all`, and patterns.

use anyhow::{Result, bail};

use crate::home::Home;
use crate::service::matches;
use crate::supervise::store::Stored;

/// The names that there are.
#[derive(Debug)]
pub struct Known {
    /// Each service's name and its aliases.
    services: Vec<(String, Vec<String>)>,
}

/// What was asked for.
#[derive(Debug, PartialEq, Eq)]
pub struct Found {
    /// The services' own names, in the order that they start in, each once.
    pub names: Vec<String>,
    /// What no service answers to.
    pub unknown: Vec<String>,
}

impl Known {
    /// The services that are defined, and those that the supervisor still has although their definitions are gone.
    ///
    /// # Errors
    /// When the definitions cannot be used.
    pub fn defined(home: &Home) -> Result<Self> {
        let mut services: Vec<(String, Vec<String>)> =
            home.services()?.into_iter().map(|service| (service.name, service.aliases)).collect();
        for status in Stored::read(home).services {
            if services.iter().all(|(name, _)| *name != status.name) {
                services.push((status.name, Vec::new()));
            }
        }
        Ok(Self { services })
    }

    /// The same, for verbs that should work whatever is wrong with the definitions: then only what the supervisor has.
    #[must_use]
    pub fn at_least(home: &Home) -> Self {
        Self::defined(home).unwrap_or_else(|_| {
            let stored = Stored::read(home).services.into_iter();
            Self { services: stored.map(|status| (status.name, Vec::new())).collect() }
        })
    }

    /// Every name, in the order that they start in.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.services.iter().map(|(name, _)| name.as_str())
    }

    /// Finds what was asked for; everything when nothing was.
    #[must_use]
    pub fn find(&self, asked: &[String]) -> Found {
        let answers = |asked: &str, (name, aliases): &(String, Vec<String>)| {
            asked == "all" || std::iter::once(name).chain(aliases).any(|name| matches(asked.as_bytes(), name.as_bytes()))
        };
        let wanted = |service: &&(String, Vec<String>)| asked.is_empty() || asked.iter().any(|asked| answers(asked, service));
        let unknown = |asked: &&String| *asked != "all" && !self.services.iter().any(|service| answers(asked, service));
        Found {
            names: self.services.iter().filter(wanted).map(|(name, _)| name.clone()).collect(),
            unknown: asked.iter().filter(unknown).cloned().collect(),
        }
    }

    /// The same, for verbs that cannot do anything about unknown names.
    ///
    /// # Errors
    /// When a name is unknown; the message has the known ones.
    pub fn need(&self, asked: &[String]) -> Result<Vec<String>> {
        let found = self.find(asked);
        if found.unknown.is_empty() {
            return Ok(found.names);
        }
        bail!("{}", self.nobody(&found.unknown))
    }

    /// The one service that a name or a pattern means.
    ///
    /// # Errors
    /// When it means none or several.
    pub fn need_one(&self, asked: &str) -> Result<String> {
        let mut names = self.need(&[asked.to_owned()])?;
        match names.pop() {
            Some(name) if names.is_empty() => Ok(name),
            Some(name) => bail!("\"{}\" means {} and {name}: name one", asked.escape_debug(), names.join(", ")),
            None => bail!("there are no services"),
        }
    }

    /// That nobody answers to these, in words.
    #[must_use]
    pub fn nobody(&self, unknown: &[String]) -> String {
        let names: Vec<&str> = self.names().collect();
        let known = if names.is_empty() { "There are none".to_owned() } else { format!("There are: {}", names.join(", ")) };
        format!("there is no service {}. {known}", unknown.join(", ").escape_debug())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known() -> Known {
        let service = |name: &str, aliases: &[&str]| (name.to_owned(), aliases.iter().map(ToString::to_string).collect());
        Known {
            services: vec![
                service("go-carbon", &["carbon-server"]),
                service("carbonapi", &[]),
                service("grafana", &["grafana-server"]),
            ],
        }
    }

    fn find(asked: &[&str]) -> (Vec<String>, Vec<String>) {
        let asked: Vec<String> = asked.iter().map(ToString::to_string).collect();
        let Found { names, unknown } = known().find(&asked);
        (names, unknown)
    }

    #[test]
    fn names_aliases_patterns_and_all() {
        for (asked, wanted) in [
            (&[][..], &["go-carbon", "carbonapi", "grafana"][..]),
            (&["all"], &["go-carbon", "carbonapi", "grafana"]),
            (&["grafana", "go-carbon", "grafana"], &["go-carbon", "grafana"]),
            (&["grafana-server"], &["grafana"]),
            (&["*carbon*"], &["go-carbon", "carbonapi"]),
            (&["carbon*"], &["go-carbon", "carbonapi"]),
            (&["g?-*"], &["go-carbon"]),
        ] {
            assert_eq!(find(asked), (wanted.iter().map(ToString::to_string).collect(), Vec::new()), "{asked:?}");
        }
        assert_eq!(
            find(&["grafana", "nobody", "x*"]),
            (vec!["grafana".to_owned()], vec!["nobody".to_owned(), "x*".to_owned()])
        );
    }

    #[test]
    fn one_means_one() {
        assert_eq!(known().need_one("graf*").unwrap(), "grafana");
        let error = known().need_one("*carbon*").unwrap_err().to_string();
        assert!(error.contains("means go-carbon and carbonapi"), "{error}");
        assert!(known().need_one("x").unwrap_err().to_string().contains("There are: go-carbon, carbonapi, grafana"));
    }
}
