//! Asks the place of a shared cache, with bounds on time and size, and sorts what can go wrong.

use super::place::{self, Opened};
use futures_util::StreamExt as _;
use object_store::path::Path;
use object_store::{Error, ObjectStoreExt as _};
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{sleep, timeout};

/// How often something is tried that may pass by itself.
const ATTEMPTS: u32 = 3;

/// How long the shared cache is waited for. The defaults suit people; tests shorten them.
#[derive(Clone, Debug)]
pub struct Patience {
    /// For a connection to come about.
    pub connect: Duration,
    /// For anything to arrive, and for small things altogether.
    pub stall: Duration,
    /// Bytes in a second, of each of the [`AT_ONCE`] transfers; what takes longer is given up. Compiling may be quicker.
    pub slowest: u64,
    /// Before the second try; the third waits three times as long.
    pub pause: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(4),
            stall: Duration::from_secs(10),
            slowest: 50_000,
            pause: Duration::from_millis(300),
        }
    }
}

impl Patience {
    /// For so many bytes.
    fn transfer(&self, bytes: u64) -> Duration {
        self.stall + Duration::from_secs(bytes / self.slowest)
    }
}

/// How many transfers one result has at a time.
pub const AT_ONCE: usize = 4;

/// Why something was not had, or not kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// It is not there.
    Missing,
    /// What is there is not what its name says.
    Wrong(String),
    /// It may pass by itself, but did not.
    Failed(String),
    /// Nobody could be connected to; that may pass within a moment, but not later in the run.
    Unreachable(String),
    /// Asking again would only take more time: nobody answers, or says that we may not.
    Hopeless(String),
}

impl Trouble {
    /// In words.
    pub fn why(&self) -> &str {
        match self {
            Self::Missing => "is not there",
            Self::Wrong(why) | Self::Failed(why) | Self::Unreachable(why) | Self::Hopeless(why) => why,
        }
    }
}

/// How large something may be.
#[derive(Clone, Copy, Debug)]
pub enum Size {
    /// So many bytes.
    Exactly(u64),
    /// No more bytes.
    AtMost(u64),
}

/// The place, as it is asked. Cheap to clone.
#[derive(Clone)]
pub struct Remote {
    opened: Arc<Opened>,
    patience: Patience,
}

impl Remote {
    /// Opens a place.
    ///
    /// # Errors
    /// Those of [`place::open`].
    pub fn open(place: &super::Place, writes: bool, patience: &Patience) -> Result<Self, String> {
        Ok(Self { opened: Arc::new(place::open(place, writes, patience)?), patience: patience.clone() })
    }

    /// The place of something below the layout's version.
    pub fn path(&self, parts: &[&str]) -> Path {
        let start = self.opened.prefix.clone().join("v1");
        parts.iter().fold(start, |path, part| path.join(*part))
    }

    /// Brings something; its content is not judged here, but by `right`, whose complaint counts as [`Trouble::Wrong`].
    ///
    /// # Errors
    /// Why it was not had.
    pub async fn get(&self, path: &Path, size: Size, right: impl Fn(&[u8]) -> Result<(), String>) -> Result<Vec<u8>, Trouble> {
        let most = match size {
            Size::Exactly(most) | Size::AtMost(most) => most,
        };
        let patience = match size {
            Size::Exactly(_) => self.patience.transfer(most),
            // Almost all are far smaller than they may be.
            Size::AtMost(_) => self.patience.stall,
        };
        self.patiently(patience, || async {
            let bytes = self.get_once(path, size).await?;
            right(&bytes).map_err(Trouble::Wrong)?;
            Ok(bytes)
        })
        .await
    }

    async fn get_once(&self, path: &Path, size: Size) -> Result<Vec<u8>, Trouble> {
        let result = self.opened.store.get(path).await.map_err(|error| sort(&error))?;
        let claimed = result.meta.size;
        match size {
            Size::Exactly(bytes) if claimed != bytes => {
                return Err(Trouble::Wrong(format!("has {claimed} bytes instead of {bytes}")));
            }
            Size::AtMost(bytes) if claimed > bytes => {
                return Err(Trouble::Wrong(format!("claims to have {claimed} bytes, more than the {bytes} that it may")));
            }
            _ => {}
        }
        let mut stream = result.into_stream();
        let mut bytes = Vec::with_capacity(usize::try_from(claimed).unwrap_or_default());
        loop {
            match timeout(self.patience.stall, stream.next()).await {
                Err(_) => return Err(Trouble::Failed(self.silence())),
                Ok(None) => break,
                Ok(Some(Err(error))) => return Err(sort(&error)),
                Ok(Some(Ok(piece))) if bytes.len() as u64 + piece.len() as u64 > claimed => {
                    return Err(Trouble::Wrong("has more bytes than it says".to_owned()));
                }
                Ok(Some(Ok(piece))) => bytes.extend_from_slice(&piece),
            }
        }
        if bytes.len() as u64 != claimed {
            return Err(Trouble::Failed(format!("was cut after {} of {claimed} bytes", bytes.len())));
        }
        Ok(bytes)
    }

    /// How large something is that is there.
    ///
    /// # Errors
    /// Why that cannot be told; [`Trouble::Missing`] when it is not there.
    pub async fn size(&self, path: &Path) -> Result<u64, Trouble> {
        self.patiently(self.patience.stall, || async {
            Ok(self.opened.store.head(path).await.map_err(|error| sort(&error))?.size)
        })
        .await
    }

    /// Puts something there, whatever is there now.
    ///
    /// # Errors
    /// Why it was not kept.
    pub async fn put(&self, path: &Path, bytes: bytes::Bytes) -> Result<(), Trouble> {
        if let Some(root) = self.opened.folder.clone() {
            let to = path.clone();
            let made = tokio::task::spawn_blocking(move || place::make_parents(&root, &to));
            let made = timeout(self.patience.stall, made).await.map_err(|_| Trouble::Hopeless(self.silence()))?;
            made.map_err(|error| error.to_string())
                .and_then(|made| made.map_err(|error| error.to_string()))
                .map_err(Trouble::Hopeless)?;
        }
        self.patiently(self.patience.transfer(bytes.len() as u64), || async {
            self.opened.store.put(path, bytes.clone().into()).await.map(drop).map_err(|error| sort(&error))
        })
        .await
        .map_err(|trouble| match trouble {
            Trouble::Missing => Trouble::Hopeless("there is no such bucket or folder to write to".to_owned()),
            other => other,
        })
    }

    /// Tries several times, with pauses, what may pass by itself; waits in vain only once.
    async fn patiently<T, F: Future<Output = Result<T, Trouble>>>(
        &self,
        patience: Duration,
        mut attempt: impl FnMut() -> F,
    ) -> Result<T, Trouble> {
        let mut tries = 1;
        loop {
            let Ok(outcome) = timeout(patience, attempt()).await else {
                return Err(Trouble::Hopeless(format!("is too slow (not done within {} s)", patience.as_secs_f32())));
            };
            match outcome {
                Err(Trouble::Failed(_) | Trouble::Unreachable(_)) if tries < ATTEMPTS => {}
                Err(Trouble::Failed(why)) => return Err(Trouble::Failed(format!("{why} (tried {tries} times)"))),
                Err(Trouble::Unreachable(why)) => return Err(Trouble::Hopeless(format!("{why} (tried {tries} times)"))),
                other => return other,
            }
            sleep(self.patience.pause * (tries * 2 - 1)).await;
            tries += 1;
        }
    }

    fn silence(&self) -> String {
        format!("stalled (nothing for {} s)", self.patience.stall.as_secs_f32())
    }
}

/// Sorts an error by what can be done about it.
fn sort(error: &Error) -> Trouble {
    match error {
        Error::NotFound { .. } => Trouble::Missing,
        Error::PermissionDenied { .. } | Error::Unauthenticated { .. } => Trouble::Hopeless(brief(error)),
        other => {
            let why = brief(other);
            // Of the request's own faults only these pass; that somebody else makes the same folder just now is one (405, 409).
            let passes = ["HTTP 405", "HTTP 408", "HTTP 409", "HTTP 425", "HTTP 429"].iter().any(|code| why.starts_with(code));
            match web_error(other) {
                Some(error) if error.is_connect() => Trouble::Unreachable(why),
                None if why.starts_with("HTTP 4") && !passes => Trouble::Hopeless(why),
                _ => Trouble::Failed(why),
            }
        }
    }
}

/// The web client's error at the bottom of another.
fn web_error(error: &Error) -> Option<&reqwest::Error> {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(one) = cause {
        if let Some(found) = one.downcast_ref() {
            return Some(found);
        }
        cause = one.source();
    }
    None
}

/// An error for people: what is at its bottom, in one line, without addresses.
pub fn brief(error: &Error) -> String {
    const STATUS: &str = "Server returned non-2xx status code: ";
    if let Some(error) = web_error(error) {
        return crate::fetch::http::chain(error);
    }
    let mut cause: &(dyn std::error::Error + 'static) = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    let text = cause.to_string();
    let Some(rest) = text.strip_prefix(STATUS) else { return one_line(&text) };
    let (status, body) = rest.split_once(": ").unwrap_or((rest, ""));
    let code = body.split_once("<Code>").and_then(|(_, rest)| rest.split_once("</Code>")).map(|(code, _)| code);
    let hint = "; S3 says so of what is not there, too, where s3:ListBucket is not allowed";
    match code {
        Some(code @ "AccessDenied") => one_line(&format!("HTTP {status} ({code}){hint}")),
        Some(code) => one_line(&format!("HTTP {status} ({code})")),
        None => one_line(&format!("HTTP {status}")),
    }
}

/// What a server says must not fill the screen, or move its cursor.
fn one_line(text: &str) -> String {
    const MOST: usize = 240;
    let line: String = crate::progress::printable(text.lines().next().unwrap_or_default()).chars().take(MOST).collect();
    line.trim_end().to_owned()
}
