//! `dkm completions` and what stands behind it: which words can come next. The shells' own functions ([`completions`]) are a few
//! lines that ask `dkm complete`, so that they know the services, and all three know the same as `dkm`'s own shell.

use std::ffi::OsStr;
use std::process::ExitCode;

use anyhow::Result;
use clap::builder::ArgAction;
use clap::{Arg, Command, CommandFactory};

use super::names::Known;
use crate::cli::completions;
use crate::cli::dkm::{Dkm, Shell};

/// Prints the function for a shell.
///
/// # Errors
/// Never; it is a verb like others.
pub fn script(shell: Shell) -> Result<ExitCode> {
    print!("{}", completions::function(shell));
    Ok(ExitCode::SUCCESS)
}

/// Prints what can come in place of the last word, one a line, with a tab and a word of explanation.
pub fn answer(arguments: &Dkm, called_as: &OsStr, words: &[String]) -> ExitCode {
    let (last, before) = words.split_last().map_or(("", &[][..]), |(last, before)| (last.as_str(), before));
    // The words may name another data folder than this call does.
    let named = before.iter().position(|word| word == "--home").and_then(|at| before.get(at + 1)).map(std::path::PathBuf::from);
    let home = crate::home::Home::find(named.as_deref().or(arguments.home.as_deref()), called_as).ok();
    let services: Vec<String> =
        home.map(|home| Known::at_least(&home).names().map(str::to_owned).collect()).unwrap_or_default();
    for (word, about) in candidates(before, last, &services) {
        println!("{word}\t{about}");
    }
    ExitCode::SUCCESS
}

/// What can come after the words `before`, of what begins with `last`; with explanations.
#[must_use]
pub fn candidates(before: &[String], last: &str, services: &[String]) -> Vec<(String, String)> {
    let mut root = Dkm::command();
    root.build();
    let mut command = &root;
    let mut values = 0;
    let mut option: Option<&Arg> = None;
    let mut flags = true;
    for word in before {
        if option.take().is_some() {
            continue;
        }
        if flags && word == "--" {
            flags = false;
        } else if flags && word.starts_with('-') && word.len() > 1 {
            option = taking_a_value(command, word);
        } else if let Some(sub) = command.find_subcommand(word) {
            command = sub;
        } else {
            values += 1;
        }
    }
    let mut all = match option {
        Some(option) => of_argument(option, services),
        None if flags && last.starts_with('-') => flags_of(command),
        None if command.has_subcommands() => {
            let subs = command.get_subcommands().filter(|sub| !sub.is_hide_set());
            subs.map(|sub| (sub.get_name().to_owned(), sub.get_about().map_or_else(String::new, ToString::to_string))).collect()
        }
        None => {
            let places: Vec<&Arg> = command.get_positionals().collect();
            let place = places.get(values).or_else(|| places.last().filter(|arg| takes_many(arg)));
            place.map_or_else(Vec::new, |arg| of_argument(arg, services))
        }
    };
    all.retain(|(word, _)| word.starts_with(last) && !(before.contains(word) && services.contains(word)));
    all
}

/// The option behind a word, if the next word is its value.
fn taking_a_value<'a>(command: &'a Command, word: &str) -> Option<&'a Arg> {
    let found = command.get_arguments().find(|arg| match word.strip_prefix("--") {
        Some(long) => arg.get_long() == Some(long),
        None => arg.get_short().is_some_and(|short| word.ends_with(short)),
    });
    found.filter(|arg| arg.get_action().takes_values())
}

fn takes_many(arg: &Arg) -> bool {
    matches!(arg.get_action(), ArgAction::Append)
}

fn flags_of(command: &Command) -> Vec<(String, String)> {
    let visible = command.get_arguments().filter(|arg| !arg.is_hide_set());
    visible.filter_map(|arg| Some((format!("--{}", arg.get_long()?), about(arg)))).collect()
}

/// What an argument can be.
fn of_argument(arg: &Arg, services: &[String]) -> Vec<(String, String)> {
    let name = arg.get_value_names().and_then(<[_]>::first).map_or("", |name| name.as_str());
    match name {
        "SERVICE" => {
            let all = takes_many(arg).then(|| ("all".to_owned(), "every service".to_owned()));
            services.iter().map(|name| (name.clone(), "service".to_owned())).chain(all).collect()
        }
        "SIGNAL" => ["HUP", "INT", "QUIT", "USR1", "USR2", "TERM", "STOP", "CONT", "KILL"]
            .map(|name| (name.to_owned(), "signal".to_owned()))
            .into(),
        _ => {
            let values = arg.get_possible_values();
            let help = |value: &clap::builder::PossibleValue| value.get_help().map_or_else(String::new, ToString::to_string);
            values.iter().map(|value| (value.get_name().to_owned(), help(value))).collect()
        }
    }
}

/// The first line of an argument's help.
fn about(arg: &Arg) -> String {
    arg.get_help().map_or_else(String::new, |help| help.to_string().lines().next().unwrap_or_default().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<String> {
        let mut before: Vec<String> = line.split(' ').map(str::to_owned).collect();
        let last = before.pop().unwrap();
        let services = ["go-carbon".to_owned(), "carbonapi".to_owned()];
        candidates(&before, &last, &services).into_iter().map(|(word, _)| word).collect()
    }

    #[test]
    fn verbs_flags_services_and_values() {
        assert_eq!(words("sta"), ["start", "status"]);
        assert!(words("").contains(&"tail".to_owned()) && !words("").contains(&"complete".to_owned()));
        assert_eq!(words("start "), ["go-carbon", "carbonapi", "all"]);
        assert_eq!(words("start go-carbon "), ["carbonapi", "all"]);
        assert_eq!(words("start go-carbon c"), ["carbonapi"]);
        assert_eq!(words("--home /x/y restart --no-wait g"), ["go-carbon"]);
        assert_eq!(words("start --timeout "), Vec::<String>::new());
        assert_eq!(words("tail -n 5 --r"), ["--raw"]);
        assert!(words("tail --").contains(&"--home".to_owned()));
        assert_eq!(words("signal HU"), ["HUP"]);
        assert_eq!(words("signal HUP g"), ["go-carbon"]);
        assert_eq!(words("fg "), ["go-carbon", "carbonapi"]);
        assert_eq!(words("fg go-carbon "), Vec::<String>::new());
        assert_eq!(words("completions "), ["bash", "zsh", "fish"]);
        assert_eq!(words("help sta"), ["start", "status"]);
        assert_eq!(words("nonsense x"), Vec::<String>::new());
    }
}
