//! The verbs and flags of `dkm`, for the command line and for its shell.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use super::when::{Since, Span};
use crate::service::StopSignal;

/// What the verbs that change something end with.
const ACTED: &str = "Ends with 0 when it is done (with --no-wait: asked for), 1 when a service is in trouble or unknown, 4 when root is not \
allowed, 124 when the time for waiting is over, 130 after Ctrl-C. In the last two cases it goes on in the supervisor.";

/// What the verbs that show states end with.
const SHOWN: &str = "Ends with 0 when every service asked for runs and is ready, 1 when one died and waits for its next try, 3 when one is \
stopped, 4 when a name is unknown, and 150 when one is on its way up or down. Of several the first of 4, 1, 3, 150 counts.";

/// Which services can be named, for verbs that take any.
const NAMED: &str = "Services are named by their names, as \"all\", or by a pattern with * and ? in quotes: 'carbon*'.";

/// Starts, stops and watches the services of one monitor.
///
/// Called as DATA_DIR/bin/dkm it knows its data folder. A supervisor is started when a command needs one; it starts no service by
/// itself, restarts what dies, and outlives the terminal. Without a verb, on a terminal, it is a shell that takes the same verbs.
#[derive(Debug, Parser)]
#[command(name = "dkm", version, after_help = NAMED)]
pub struct Dkm {
    /// The data folder; otherwise DKM_HOME, otherwise the folder that this dkm lies in
    #[arg(long, value_name = "DATA_DIR", global = true)]
    pub home: Option<PathBuf>,

    /// The data folder by its control socket, DATA_DIR/run/dkm.sock
    #[arg(long, value_name = "PATH", global = true, conflicts_with = "home")]
    pub socket: Option<PathBuf>,

    /// Let root start and change things too; also by DKM_ALLOW_ROOT=1. On macOS root is allowed without it
    #[arg(long, global = true)]
    pub allow_root: bool,

    /// What to do
    #[command(subcommand)]
    pub verb: Option<Verb>,
}

/// The verbs of `dkm`.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Start services, and wait until they are ready
    ///
    /// In the order that they need, those that were running already being left alone. Fails when one is not ready in its time or
    /// dies twice in a row, and shows its last lines; the supervisor goes on trying.
    #[command(after_help = ACTED)]
    Start(Act),
    /// Stop services, those that others feed on last, and wait until nothing is left of them
    #[command(after_help = ACTED)]
    Stop(Act),
    /// Stop services and start them again, and wait until they are ready
    #[command(after_help = ACTED)]
    Restart(Act),
    /// Apply changed definitions; or, with names, tell those services to read their configuration again
    ///
    /// Without names the same as "update". With names each service gets its reload signal and keeps its process; one that knows
    /// none is told of, and the end is 1. (supervisorctl's "reload" restarts the supervisor: that is "upgrade-self" here.)
    #[command(after_help = ACTED)]
    Reload(Act),
    /// Show which definitions differ from what the supervisor works with, and change nothing
    Reread(Output),
    /// Apply changed definitions: restart the services concerned, start new ones, stop those that are gone; touch no other
    #[command(after_help = ACTED)]
    Update(Act),
    /// The same as "update" for the named services
    #[command(after_help = ACTED)]
    Add(ActNamed),
    /// Stop services whose definitions are gone, and forget them
    #[command(after_help = ACTED)]
    Remove(ActNamed),
    /// Send a signal to the first processes of services
    ///
    /// Ends with 7 when one of them does not run.
    Signal(Signal),
    /// Empty the logs of services, rotated files too
    Clear(Named),
    /// Open all log files anew, after something else has moved them
    Reopenlogs,
    /// Stop every service, then the supervisor
    #[command(after_help = ACTED)]
    Shutdown(Shutdown),
    /// Replace the supervisor by this program, without touching a service
    UpgradeSelf(Output),
    /// Show what runs
    ///
    /// Starts no supervisor: without one it tells what the last one left.
    #[command(after_help = SHOWN)]
    Status(Shown),
    /// Wait until nothing is on its way any more
    ///
    /// That is until each service runs and is ready, or is stopped, or died and waits for its next try. Starts no supervisor.
    /// Ends as "status" does, with 124 when the time is over first.
    Wait(Wait),
    /// Print process numbers
    ///
    /// Of the supervisor, of a service, or, with "all", of every service, one a line; 0 for what does not run, and then the end
    /// is 3. Starts no supervisor.
    Pid(Shown),
    /// Show every service that is defined, whether the supervisor knows it, and what starts it
    Avail(Shown),
    /// Show the version of this program and of the supervisor that runs
    Version(Output),
    /// Show changes of states as they happened
    Events(Events),
    /// Show the last lines that services printed
    ///
    /// Control characters, escape sequences and what is no text are shown and not sent, so that no log can harm a terminal.
    Tail(Tail),
    /// Show the last lines of the supervisor's own log
    Maintail(Maintail),
    /// Show what services printed, merged by time
    ///
    /// All that is kept is shown, rotated files too, unless --since or -n say less. Times are UTC.
    Logs(Logs),
    /// Follow one service's output and its changes of state until Ctrl-C
    ///
    /// The service runs on after that. It has no standard input, so that nothing can be typed to it. Ends with 7 when it does not
    /// run, or is stopped.
    Fg(Named1),
    /// Run a service's command here, in the foreground, without supervision; without a name the supervisor, and all services
    ///
    /// With its environment, folder and limits, its output on this terminal: to find out why it does not start. Refuses while the
    /// service runs.
    Run(Run),
    /// A live view of all services on this terminal
    Top(Top),
    /// The shell that is also there without a verb
    ///
    /// From a file or a pipe it reads a command a line, and ends as the last one that failed.
    Shell,
    /// Check the definitions of the services, and let each service check its own configuration
    ///
    /// Ends with 1 when anything is wrong.
    Check(Shown),
    /// Print what makes a shell complete verbs, flags and services
    ///
    /// bash: dkm completions bash > ~/.local/share/bash-completion/completions/dkm;
    /// zsh: dkm completions zsh > ~/.zfunc/_dkm, with ~/.zfunc in fpath;
    /// fish: dkm completions fish > ~/.config/fish/completions/dkm.fish
    Completions {
        /// For which shell
        shell: Shell,
    },
    /// What a shell may go on with: for the functions that "completions" prints
    #[command(hide = true)]
    Complete {
        /// The words up to the cursor, the last one being completed
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        words: Vec<String>,
    },
    /// Run the supervisor itself, in the foreground
    ///
    /// The other commands start it by themselves when they need it. It starts no service by itself, unless told. What it says goes to
    /// standard output too.
    Supervisor {
        /// Start every enabled service first, as a boot service or a container wants it
        #[arg(long)]
        start: bool,
        /// What is printed
        #[command(flatten)]
        forward: Forward,
    },
}

/// The arguments with `-100` after a verb written as `--lines=100`, as tail(1) and supervisorctl have it.
#[must_use]
pub fn as_of_old(arguments: &[OsString]) -> Vec<OsString> {
    let tails = arguments.iter().any(|argument| argument == "tail" || argument == "maintail");
    let number = |argument: &OsString| {
        let digits = argument.to_str()?.strip_prefix('-')?;
        (tails && !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()))
            .then(|| format!("--lines={digits}").into())
    };
    arguments.iter().map(|argument| number(argument).unwrap_or_else(|| argument.clone())).collect()
}

/// Which services; all when none is named.
#[derive(Args, Clone, Debug, Default)]
pub struct Names {
    /// The services; all when none is named
    #[arg(value_name = "SERVICE")]
    pub services: Vec<String>,
}

/// Which services; for what should not happen to all by an oversight.
#[derive(Args, Clone, Debug)]
pub struct Named {
    /// The services, or "all"
    #[arg(value_name = "SERVICE", required = true)]
    pub services: Vec<String>,
    /// How to print
    #[command(flatten)]
    pub output: Output,
}

/// Which one.
#[derive(Args, Clone, Debug)]
pub struct Named1 {
    /// The service
    #[arg(value_name = "SERVICE")]
    pub service: String,
}

/// How results are printed.
#[derive(Args, Clone, Copy, Debug, Default)]
pub struct Output {
    /// Print JSON, for programs
    #[arg(long)]
    pub json: bool,
}

/// How long to wait.
#[derive(Args, Clone, Copy, Debug, Default)]
pub struct Waiting {
    /// Only ask for it, and do not wait for it to happen
    #[arg(long)]
    pub no_wait: bool,
    /// How long to wait, as 90, 90s or 5min; otherwise as long as the services concerned may take by their definitions
    #[arg(long, value_name = "TIME", conflicts_with = "no_wait")]
    pub timeout: Option<Span>,
}

/// What the verbs that change something have in common.
#[derive(Args, Clone, Debug, Default)]
pub struct Act {
    /// Which services
    #[command(flatten)]
    pub names: Names,
    /// How long to wait
    #[command(flatten)]
    pub waiting: Waiting,
    /// How to print
    #[command(flatten)]
    pub output: Output,
}

/// The same, with a name that has to be given.
#[derive(Args, Clone, Debug)]
pub struct ActNamed {
    /// The services, or "all"
    #[arg(value_name = "SERVICE", required = true)]
    pub services: Vec<String>,
    /// How long to wait
    #[command(flatten)]
    pub waiting: Waiting,
    /// How to print
    #[command(flatten)]
    pub output: Output,
}

/// `dkm shutdown`.
#[derive(Args, Clone, Debug)]
pub struct Shutdown {
    /// How long to wait
    #[command(flatten)]
    pub waiting: Waiting,
    /// How to print
    #[command(flatten)]
    pub output: Output,
}

/// `dkm signal`.
#[derive(Args, Clone, Debug)]
pub struct Signal {
    /// The signal's name, with or without SIG, or its number
    #[arg(value_name = "SIGNAL")]
    pub signal: StopSignal,
    /// Which services
    #[command(flatten)]
    pub named: Named,
}

/// The verbs that show something.
#[derive(Args, Clone, Debug, Default)]
pub struct Shown {
    /// Which services
    #[command(flatten)]
    pub names: Names,
    /// How to print
    #[command(flatten)]
    pub output: Output,
}

/// `dkm wait`.
#[derive(Args, Clone, Debug)]
pub struct Wait {
    /// Which services
    #[command(flatten)]
    pub names: Names,
    /// Wait until every one of them runs and is ready, whatever happens in between
    #[arg(long)]
    pub ready: bool,
    /// How long to wait, as 90, 90s or 5min; otherwise as long as the services may take by their definitions
    #[arg(long, value_name = "TIME")]
    pub timeout: Option<Span>,
    /// How to print
    #[command(flatten)]
    pub output: Output,
}

/// `dkm events`.
#[derive(Args, Clone, Debug)]
pub struct Events {
    /// Which services
    #[command(flatten)]
    pub names: Names,
    /// Go on showing them as they come
    #[arg(short, long)]
    pub follow: bool,
    /// How to print
    #[command(flatten)]
    pub output: Output,
}

/// How bytes of logs are shown.
#[derive(Args, Clone, Copy, Debug, Default)]
pub struct Bytes {
    /// Send bytes as they are, escape sequences too: for files, and for terminals if you trust the services
    #[arg(long)]
    pub raw: bool,
}

/// `dkm tail`.
#[derive(Args, Clone, Debug)]
pub struct Tail {
    /// Which services
    #[command(flatten)]
    pub names: Names,
    /// Go on showing lines as they come
    #[arg(short, long)]
    pub follow: bool,
    /// How many lines; -100 means -n 100
    #[arg(short = 'n', long, default_value_t = 20, value_name = "COUNT")]
    pub lines: usize,
    /// How many bytes instead
    #[arg(short = 'c', long, value_name = "COUNT", conflicts_with = "lines")]
    pub bytes: Option<usize>,
    /// How to show bytes
    #[command(flatten)]
    pub shown: Bytes,
}

/// `dkm maintail`.
#[derive(Args, Clone, Debug)]
pub struct Maintail {
    /// Go on showing lines as they come
    #[arg(short, long)]
    pub follow: bool,
    /// How many lines; -100 means -n 100
    #[arg(short = 'n', long, default_value_t = 20, value_name = "COUNT")]
    pub lines: usize,
    /// How many bytes instead
    #[arg(short = 'c', long, value_name = "COUNT", conflicts_with = "lines")]
    pub bytes: Option<usize>,
    /// How to show bytes
    #[command(flatten)]
    pub shown: Bytes,
}

/// `dkm logs`.
#[derive(Args, Clone, Debug)]
pub struct Logs {
    /// Which services
    #[command(flatten)]
    pub names: Names,
    /// Go on showing lines as they come
    #[arg(short, long)]
    pub follow: bool,
    /// Nothing older: a length of time (90s, 10min, 2h, 3d), a time (14:30), a date (2026-01-31) or both (2026-01-31T14:30)
    #[arg(long, value_name = "TIME|AGO")]
    pub since: Option<Since>,
    /// Only the last lines of what would be shown
    #[arg(short = 'n', long, value_name = "COUNT")]
    pub lines: Option<usize>,
    /// How to show bytes
    #[command(flatten)]
    pub shown: Bytes,
    /// Print one object a line, for programs
    #[arg(long, conflicts_with = "raw")]
    pub json: bool,
}

/// `dkm run`.
#[derive(Args, Clone, Debug)]
pub struct Run {
    /// The service; without one the supervisor
    #[arg(value_name = "SERVICE", conflicts_with = "forward_logs")]
    pub service: Option<String>,
    /// What the supervisor prints
    #[command(flatten)]
    pub forward: Forward,
}

/// What a supervisor in the foreground prints.
#[derive(Args, Clone, Copy, Debug, Default)]
pub struct Forward {
    /// Print what services print, too, each line with the time and the service's name; also by DKM_FORWARD_LOGS=1
    #[arg(long)]
    pub forward_logs: bool,
}

/// `dkm top`.
#[derive(Args, Clone, Copy, Debug)]
pub struct Top {
    /// How often to look, as 2, 500ms or 1min
    #[arg(short, long, value_name = "TIME", default_value = "1")]
    pub interval: Span,
}

/// Shells that can be taught to complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Shell {
    /// The Bourne-again shell, 4.0 or later
    Bash,
    /// The Z shell
    Zsh,
    /// The friendly interactive shell
    Fish,
}
