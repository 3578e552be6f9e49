//! `dkm shutdown`.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use super::{act, stop};
use crate::cli::Shutdown;
use crate::control::{Request, Verb, client};
use crate::home::Home;
use crate::supervise::child;

/// How long the supervisor may take to end once nothing runs any more.
const LAST_TIME: Duration = Duration::from_secs(5);

/// Stops every service, then the supervisor, and waits for its end.
///
/// # Errors
/// When the supervisor cannot be reached, or does not end.
pub fn run(home: &Home, options: &Shutdown) -> Result<ExitCode> {
    let stream = match client::connect(home)? {
        Some(stream) => stream,
        None if stop::anything_left(home)? => client::connect_or_start(home)?,
        None => {
            println!("nothing runs");
            return Ok(ExitCode::SUCCESS);
        }
    };
    let request = Request { wait: !options.no_wait, ..Request::new(Verb::Shutdown, &[]) };
    let code = act::ask(home, stream, &request)?;
    let end = Instant::now() + LAST_TIME;
    while !options.no_wait && child::holder(&home.supervisor_lock()).is_some() {
        if Instant::now() > end {
            bail!("the services have stopped, and the supervisor has not ended. Look at {}", home.supervisor_log().display());
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    Ok(code)
}
