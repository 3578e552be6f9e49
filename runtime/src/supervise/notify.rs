//! The socket on which a service tells of itself, as `sd_notify(3)` has it.
//!
//! `run/NAME.notify`, in a folder that only its owner enters. Its path is the same for every supervisor, so that a service that
//! outlives one goes on telling the next. `READY=1`, `WATCHDOG=1` and `STATUS=…` are understood, everything else is ignored;
//! descriptors that come along (`BARRIER=1`) are closed by the system, which is the answer that their sender waits for.

use std::fs;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::Path;

use anyhow::{Context, Result};

/// The longest status text that is kept, in bytes.
const STATUS: usize = 256;
/// No more messages are taken in one round, so that a chatterbox does not keep the others waiting.
const ROUND: usize = 64;

/// What a service has said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Said {
    /// That it is ready.
    pub ready: bool,
    /// That it is alive.
    pub alive: bool,
    /// What it does.
    pub status: Option<String>,
}

/// The listening end.
#[derive(Debug)]
pub struct Ears {
    socket: UnixDatagram,
}

impl Ears {
    /// Makes the socket, in place of one that an earlier supervisor left.
    ///
    /// # Errors
    /// When it cannot be made, most likely because its path is longer than the system takes.
    pub fn open(path: &Path) -> Result<Self> {
        let make = || -> io::Result<UnixDatagram> {
            if let Err(error) = fs::remove_file(path)
                && error.kind() != io::ErrorKind::NotFound
            {
                return Err(error);
            }
            let socket = UnixDatagram::bind(path)?;
            fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
            socket.set_nonblocking(true)?;
            Ok(socket)
        };
        let socket = make().with_context(|| {
            format!(
                "cannot make the socket {} for its messages (the system takes about 100 bytes for such a path)",
                path.display()
            )
        })?;
        Ok(Self { socket })
    }

    /// What to poll.
    #[must_use]
    pub fn fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }

    /// What was said since this was asked last.
    #[must_use]
    pub fn listen(&self) -> Said {
        let mut said = Said::default();
        let mut buffer = [0_u8; 4096];
        for _ in 0..ROUND {
            match self.socket.recv(&mut buffer) {
                Ok(count) => understand(&buffer[..count], &mut said),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => break,
            }
        }
        said
    }
}

fn understand(message: &[u8], said: &mut Said) {
    for line in message.split(|&byte| byte == b'\n') {
        match line {
            b"READY=1" => said.ready = true,
            b"WATCHDOG=1" => said.alive = true,
            line => {
                if let Some(status) = line.strip_prefix(b"STATUS=") {
                    let text = String::from_utf8_lossy(&status[..status.len().min(STATUS)]);
                    said.status = Some(text.trim().to_owned());
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_is_understood_and_the_rest_ignored() {
        let temp = tempfile::Builder::new().prefix("a b").tempdir().unwrap();
        let path = temp.path().join("x.notify");
        // A leftover of an earlier one is no obstacle.
        fs::write(&path, "").unwrap();
        let ears = Ears::open(&path).unwrap();
        let mouth = UnixDatagram::unbound().unwrap();
        for message in ["STATUS=loading 3 files\nX=1", "MAINPID=7", "READY=1\nSTATUS=serving", "\0\u{1}"] {
            mouth.send_to(message.as_bytes(), &path).unwrap();
        }
        assert_eq!(ears.listen(), Said { ready: true, alive: false, status: Some("serving".into()) });
        assert_eq!(ears.listen(), Said::default());
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }
}
