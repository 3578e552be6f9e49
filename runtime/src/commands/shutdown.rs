//! `dkm shutdown` and `dkm upgrade-self`.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::names::Known;
use super::{act, look, no_supervisor, request, stop};
use crate::cli::dkm::{Output, Shutdown};
use crate::control::{Reply, Request, Verb, client};
use crate::home::Home;
use crate::supervise::child;
use crate::text::json;

/// How long the supervisor may take to end once nothing runs any more.
const LAST_TIME: Duration = Duration::from_secs(5);

/// Stops every service, then the supervisor, and waits for its end.
///
/// # Errors
/// When the supervisor cannot be reached, or does not end.
pub fn run(home: &Home, options: &Shutdown) -> Result<ExitCode> {
    let stream = match client::connect(home)? {
        Some(stream) => stream,
        None if stop::anything_left(home, &Known::at_least(home)) => client::connect_or_start(home)?,
        None => {
            println!("{}", if options.output.json { "[]" } else { "nothing runs" });
            return Ok(ExitCode::SUCCESS);
        }
    };
    let request = request(Verb::Shutdown, &[], options.waiting);
    let code = act::ask(home, stream, &request, &options.waiting, options.output)?;
    let end = Instant::now() + LAST_TIME;
    while request.wait && child::holder(&home.supervisor_lock()).is_some() {
        if Instant::now() > end {
            bail!("the services have stopped, and the supervisor has not ended. Look at {}", home.supervisor_log().display());
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    Ok(code)
}

/// Has this program take the supervisor's place, which keeps its process number and all services.
///
/// # Errors
/// When no supervisor runs, it refuses, or none answers afterwards.
pub fn upgrade(home: &Home, output: Output) -> Result<ExitCode> {
    let stream = client::connect(home)?.ok_or_else(|| no_supervisor(home))?;
    let program = std::env::current_exe().context("cannot find this program's own file")?;
    let Some(program) = program.to_str().map(str::to_owned) else { bail!("the path {} is not UTF-8", program.display()) };
    let request = Request { program: Some(program), ..Request::new(Verb::UpgradeSelf, &[]) };
    let Reply::Done { supervisor: before, .. } = client::ask(home, stream, &request)? else {
        bail!("the supervisor gave an answer of another kind");
    };
    let end = Instant::now() + LAST_TIME;
    let now = loop {
        match look(home, false) {
            Ok((Some(supervisor), _)) => break supervisor,
            _ if Instant::now() > end => {
                bail!("the supervisor was told, and none answers now. Look at {}", home.supervisor_log().display())
            }
            _ => std::thread::sleep(Duration::from_millis(5)),
        }
    };
    if output.json {
        println!("{}", json(&serde_json::json!({"before": before, "now": now}), true)?);
    } else {
        println!("supervisor {} is {} now, process {}; no service was touched", before.version, now.version, now.pid);
    }
    Ok(ExitCode::SUCCESS)
}
