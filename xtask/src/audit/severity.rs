//! How bad a vulnerability is.

use serde_json::Value;
use std::str::FromStr;

/// How bad, in CVSS's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Severity {
    /// Nobody says, which can mean anything.
    #[value(skip)]
    Unknown,
    /// A score of zero.
    #[value(skip)]
    None,
    /// Below 4.0.
    Low,
    /// From 4.0; also called moderate.
    #[value(alias = "moderate")]
    Medium,
    /// From 7.0.
    High,
    /// From 9.0.
    Critical,
}

impl Severity {
    /// The greater, the worse. What nobody knows is taken for as bad as it can be.
    pub fn weight(self) -> u8 {
        match self {
            Self::None => 0,
            Self::Low => 1,
            Self::Medium => 2,
            Self::High => 3,
            Self::Critical => 4,
            Self::Unknown => 5,
        }
    }

    /// The worse of two; that somebody does not know says nothing against who does.
    pub fn max_known(self, other: Self) -> Self {
        match (self, other) {
            (Self::Unknown, other) | (other, Self::Unknown) => other,
            (one, other) => {
                if one.weight() < other.weight() {
                    other
                } else {
                    one
                }
            }
        }
    }

    /// In one word.
    pub fn word(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::None => "none",
            Self::Low => "low",
            Self::Medium => "medium",
            Self::High => "high",
            Self::Critical => "critical",
        }
    }

    /// By a CVSS vector of version 2, 3 or 4. (Version 2 knows nothing above high.)
    pub fn of_vector(vector: &str) -> Option<Self> {
        Some(match cvss::Cvss::from_str(vector).ok()?.severity() {
            cvss::Severity::None => Self::None,
            cvss::Severity::Low => Self::Low,
            cvss::Severity::Medium => Self::Medium,
            cvss::Severity::High => Self::High,
            cvss::Severity::Critical => Self::Critical,
        })
    }

    /// By a word, as GitHub's advisories have it.
    pub fn of_word(word: &str) -> Option<Self> {
        Some(match word.to_ascii_lowercase().as_str() {
            "none" => Self::None,
            "low" => Self::Low,
            "moderate" | "medium" => Self::Medium,
            "high" => Self::High,
            "critical" => Self::Critical,
            _ => return None,
        })
    }

    /// By what stands in `database_specific`: a word, or a vector.
    pub fn of_database(value: &Value) -> Option<Self> {
        let words = [&value["severity"], &value["cvss"]["score"], &value["cvss"], &value["cvss"]["vectorString"]];
        words.iter().filter_map(|value| value.as_str()).find_map(|word| Self::of_word(word).or_else(|| Self::of_vector(word)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vectors_and_words_say_how_bad_it_is() {
        for (vector, wanted) in [
            ("CVSS:3.1/AV:N/AC:L/PR:N/UI:N/S:U/C:H/I:H/A:H", Severity::Critical),
            ("CVSS:3.0/AV:L/AC:H/PR:H/UI:R/S:U/C:L/I:N/A:N", Severity::Low),
            ("AV:N/AC:L/Au:N/C:C/I:C/A:C", Severity::High),
            ("AV:L/AC:M/Au:N/C:N/I:P/A:N", Severity::Low),
            ("CVSS:4.0/AV:N/AC:L/AT:N/PR:N/UI:N/VC:H/VI:H/VA:H/SC:N/SI:N/SA:N", Severity::Critical),
        ] {
            assert_eq!(Severity::of_vector(vector), Some(wanted), "{vector}");
        }
        assert_eq!(Severity::of_vector("CVSS:9.9/what"), None);
        assert_eq!(Severity::of_database(&serde_json::json!({ "severity": "MODERATE" })), Some(Severity::Medium));
        assert_eq!(Severity::of_database(&serde_json::json!({})), None);
        assert_eq!(Severity::Unknown.max_known(Severity::Low), Severity::Low);
        assert!(Severity::Unknown.weight() > Severity::Critical.weight());
    }
}
