//! One archive from one http(s) address: streamed, hashed on the way, tried again and gone on with where that may help.
//!
//! An unfinished `H.part` is gone on with only when its note says that it came from this very address, and only by a
//! request whose `If-Range` holds the validator that the server gave then (a strong `ETag`, else `Last-Modified`):
//! the server itself then sends the rest of the same file, or the whole of another.
//!
//! Redirects: at most five, never from https to http. Nothing is decompressed on the way: the pin is that of the file.

use super::account::Failure;
use super::store::{CHUNK, Note, Part};
use super::{Pin, Retry, reach, shown};
use crate::progress::{Step, bytes};
use reqwest::blocking::{Client, Response};
use reqwest::header::{
    ACCEPT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, ETAG, HeaderMap, HeaderName, IF_RANGE, LAST_MODIFIED, RANGE, RETRY_AFTER,
    TRANSFER_ENCODING,
};
use reqwest::{StatusCode, Url, redirect};
use std::collections::HashMap;
use std::error::Error;
use std::hash::{BuildHasher as _, RandomState};
use std::io::Read as _;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// What this program calls itself.
pub const USER_AGENT: &str = concat!("dkumonitor-xtask/", env!("CARGO_PKG_VERSION"));

/// More redirects than any release page needs; a loop ends here.
const MAX_REDIRECTS: usize = 5;

/// Where the lock has no size, no archive may be larger, in bytes.
const MAX_UNKNOWN_SIZE: u64 = 4 * 1024 * 1024 * 1024;

/// A try that brought so many bytes was worth it and is not counted, however it ended.
const PROGRESS: u64 = 64 * 1024;

/// The end of all patience with an address that gives a little each time: tries for each allowed attempt.
const MAX_TRIES_FACTOR: u32 = 10;

/// What all downloads of a run share: the client, and what is known about hosts. Nothing is set up before its first use.
pub(super) struct Network {
    retry: Retry,
    urls: Vec<Url>,
    refuse: Refuse,
    client: OnceLock<Result<Client, String>>,
    unreachable: OnceLock<Mutex<HashMap<String, String>>>,
}

impl Network {
    /// For downloads from these addresses. `refuse` is asked about each redirect.
    pub(super) fn new(retry: &Retry, urls: Vec<Url>, refuse: Refuse) -> Self {
        Self { retry: retry.clone(), urls, refuse, client: OnceLock::new(), unreachable: OnceLock::new() }
    }

    fn client(&self) -> Result<&Client, Failure> {
        self.client.get_or_init(|| build_client(&self.retry, self.refuse)).as_ref().map_err(|why| Failure::Refused(why.clone()))
    }

    fn hosts(&self) -> &Mutex<HashMap<String, String>> {
        self.unreachable.get_or_init(|| Mutex::new(reach::unreachable(&self.urls, self.retry.connect)))
    }

    /// Why this host cannot be reached, if that is known.
    fn unreachable(&self, host: &str) -> Option<String> {
        self.hosts().lock().unwrap_or_else(PoisonError::into_inner).get(host).cloned()
    }

    fn set_unreachable(&self, host: &str, why: &str) {
        self.hosts().lock().unwrap_or_else(PoisonError::into_inner).insert(host.to_owned(), why.to_owned());
    }
}

/// Says why a redirect is not followed, by the addresses so far and the one to come.
pub type Refuse = fn(&[Url], &Url) -> Option<String>;

/// What has a pin may come from anywhere, but not by a way that became less safe.
pub fn refuse_downgrade(from: &[Url], to: &Url) -> Option<String> {
    let downgraded = to.scheme() != "https" && from.last().is_some_and(|from| from.scheme() == "https");
    downgraded.then(|| format!("is redirected from https to {}, which anyone on the way could change", shown(to)))
}

/// Follows a bounded number of redirects.
pub fn redirects(refuse: Refuse) -> redirect::Policy {
    redirect::Policy::custom(move |attempt| {
        if attempt.previous().len() > MAX_REDIRECTS {
            return attempt.error(format!("is redirected more than {MAX_REDIRECTS} times"));
        }
        match refuse(attempt.previous(), attempt.url()) {
            Some(why) => attempt.error(why),
            None => attempt.follow(),
        }
    })
}

/// A client with this program's manners: its name, its patience, a bound on redirects, and root certificates from the
/// system. Fails, in words, when TLS cannot be set up.
fn build_client(retry: &Retry, refuse: Refuse) -> Result<Client, String> {
    // Fails only when a provider is there already, which is as well.
    let _ = rustls::crypto::ring::default_provider().install_default();
    Client::builder()
        .user_agent(USER_AGENT)
        .connect_timeout(retry.connect)
        // Of the blocking client this is for each wait by itself, not for the whole download.
        .timeout(retry.stall)
        .redirect(redirects(refuse))
        .build()
        .map_err(|error| {
            let why = chain(&error);
            format!("cannot set up TLS: {why}; install ca-certificates or let SSL_CERT_FILE name a file of root certificates")
        })
}

/// Why a try did not bring the whole file.
enum Problem {
    /// May pass by itself; the server may have said when.
    Passing(String, Option<Duration>),
    /// The host could not be connected to. Waiting in vain is not worth a second try, a quick refusal is.
    Connect { why: String, quick: bool },
    /// Nothing that another try would change.
    Final(Failure),
}

impl From<std::io::Error> for Problem {
    fn from(error: std::io::Error) -> Self {
        Self::Final(Failure::local(error))
    }
}

/// The download of one archive from one address.
pub(super) struct Download<'a> {
    network: &'a Network,
    client: &'a Client,
    url: &'a Url,
    step: &'a Step,
    /// Its pinned size, where known.
    size: Option<u64>,
    /// Its pinned hash, where there is one yet.
    sha256: Option<&'a str>,
}

impl<'a> Download<'a> {
    /// Fails at once where the host is known to be out of reach, or no client can be had.
    pub(super) fn new(network: &'a Network, url: &'a Url, step: &'a Step) -> Result<Self, Failure> {
        let host = reach::host_of(url);
        if let Some(why) = network.unreachable(&host) {
            return Err(Failure::Unreachable { host, why });
        }
        Ok(Self { network, client: network.client()?, url, step, size: None, sha256: None })
    }

    /// With what is known of the archive: how large it may become, and when it is whole.
    pub(super) fn pinned(self, pin: &Pin<'a>) -> Self {
        Self { size: pin.source.size, sha256: Some(pin.sha256), ..self }
    }

    /// Tries until all is in the part that the server has, or no further try would help. Whether it is right is not
    /// looked at.
    pub(super) fn run(&self, part: &mut Part) -> Result<(), Failure> {
        let retry = &self.network.retry;
        let (mut in_a_row, mut tries, mut furthest) = (0, 0, 0);
        loop {
            tries += 1;
            let (why, asked) = match self.attempt(part) {
                Ok(()) => return Ok(()),
                Err(Problem::Final(failure)) => return Err(failure),
                Err(Problem::Connect { why, quick }) => {
                    if !quick || in_a_row > 0 {
                        let host = reach::host_of(self.url);
                        self.network.set_unreachable(&host, &why);
                        return Err(Failure::Unreachable { host, why });
                    }
                    (why, None)
                }
                Err(Problem::Passing(why, asked)) => (why, asked),
            };
            if part.length() >= furthest + PROGRESS {
                furthest = part.length();
                in_a_row = 0;
            }
            in_a_row += 1;
            if in_a_row >= retry.attempts || tries >= retry.attempts.saturating_mul(MAX_TRIES_FACTOR) {
                let times = if tries == 1 { "once".to_owned() } else { format!("{tries} times") };
                return Err(Failure::GaveUp(format!("{why} (tried {times})")));
            }
            let pause = match asked {
                Some(asked) if asked > retry.longest_pause => {
                    return Err(Failure::GaveUp(format!("{why}, asks to come back in {} s", asked.as_secs())));
                }
                Some(asked) => asked,
                None => pause(retry, in_a_row),
            };
            self.step.message(&format!("{why}; again in {:.1} s", pause.as_secs_f32()));
            std::thread::sleep(pause);
        }
    }

    /// One request, and its answer read to the end.
    fn attempt(&self, part: &mut Part) -> Result<(), Problem> {
        let note = part.note().filter(|note| note.url == self.url.as_str());
        let start = if note.is_some() { part.catch_up()? } else { 0 };
        if start > 0 && self.size == Some(start) {
            // All there: an earlier run was killed just before it could say so.
            return Ok(());
        }
        let mut request = self.client.get(self.url.clone()).header(ACCEPT_ENCODING, "identity");
        match note.filter(|_| start > 0) {
            Some(note) => request = request.header(RANGE, format!("bytes={start}-")).header(IF_RANGE, &note.validator),
            None => part.restart()?,
        }
        let start = part.length();
        let response = request.send().map_err(|error| problem(error, &self.network.retry))?;
        match response.status() {
            StatusCode::OK => {
                part.restart()?;
                let validator = validator(response.headers());
                part.set_note(validator.map(|validator| Note { url: self.url.to_string(), validator }).as_ref())?;
            }
            StatusCode::PARTIAL_CONTENT if start > 0 => self.check_range(part, &response, start)?,
            StatusCode::RANGE_NOT_SATISFIABLE if start > 0 => {
                part.restart()?;
                return Err(Problem::Passing("has nothing behind what came before".to_owned(), None));
            }
            status => return Err(unwanted(status, response.headers())),
        }
        self.body(part, response)
    }

    /// Checks that the rest which a server sends is the rest of the same file.
    fn check_range(&self, part: &mut Part, response: &Response, start: u64) -> Result<(), Problem> {
        let text = header(response.headers(), CONTENT_RANGE).unwrap_or_default();
        let range = content_range(text);
        let right = range.is_some_and(|(first, total)| {
            first == start && total.is_none_or(|total| self.size.is_none_or(|size| size == total))
        });
        let now = validator(response.headers());
        let same = now.is_none() || part.note().map(|note| note.validator) == now;
        if right && same {
            return Ok(());
        }
        let why = if same {
            format!("sent the wrong range \"{text}\" for bytes {start}-")
        } else {
            "changed the file under way".to_owned()
        };
        part.restart()?;
        Err(Problem::Passing(why, None))
    }

    /// Streams the answer into the part, never more than was pinned.
    fn body(&self, part: &mut Part, mut response: Response) -> Result<(), Problem> {
        let limit = self.size.unwrap_or(MAX_UNKNOWN_SIZE);
        let delimited = [CONTENT_LENGTH, TRANSFER_ENCODING].iter().any(|name| response.headers().contains_key(name));
        let expected = response.content_length().map(|rest| rest + part.length());
        let mut chunk = vec![0; CHUNK];
        loop {
            let count = match response.read(&mut chunk) {
                Ok(0) => break,
                Ok(count) => count,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                // A server that announced too much has given everything all the same.
                Err(_) if self.sha256.is_some_and(|pinned| part.sha256() == pinned) => return Ok(()),
                Err(error) => return Err(self.broken(&error, part.length(), expected)),
            };
            // One byte more than the limit is kept: it is enough to see that the file is too large.
            let room = usize::try_from(limit + 1 - part.length().min(limit)).unwrap_or(usize::MAX);
            part.add(&chunk[..count.min(room)])?;
            self.step.position(part.length());
            if part.length() > limit {
                let endless = || Problem::Final(Failure::Refused(format!("gives more than {}", bytes(limit))));
                return if self.sha256.is_some() { Ok(()) } else { Err(endless()) };
            }
        }
        match self.size {
            Some(size) if part.length() < size && !delimited => {
                Err(Problem::Passing(format!("was cut after {} of {size} bytes", part.length()), None))
            }
            _ => Ok(()),
        }
    }

    /// What to say of a body that ended with an error.
    fn broken(&self, error: &std::io::Error, got: u64, expected: Option<u64>) -> Problem {
        let of = self.size.or(expected).map(|size| format!(" of {size}")).unwrap_or_default();
        let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<reqwest::Error>());
        if error.kind() == std::io::ErrorKind::TimedOut || inner.is_some_and(reqwest::Error::is_timeout) {
            let stall = self.network.retry.stall.as_secs_f32();
            return Problem::Passing(format!("stalled after {got}{of} bytes (nothing for {stall} s)"), None);
        }
        let why = inner.map_or_else(|| error.to_string(), |inner| chain(inner));
        Problem::Passing(format!("was cut after {got}{of} bytes: {why}"), None)
    }
}

/// Sorts a request that got no answer.
fn problem(error: reqwest::Error, retry: &Retry) -> Problem {
    let error = error.without_url();
    let why = chain(&error);
    let tls = causes(&error).into_iter().any(<dyn Error>::is::<rustls::Error>);
    if error.is_redirect() {
        return Problem::Final(Failure::Refused(why));
    }
    if tls {
        let way_out = "if a proxy of your company stands between, let SSL_CERT_FILE name its root certificate";
        return Problem::Final(Failure::Refused(format!("TLS failed: {why}; {way_out}")));
    }
    if error.is_connect() {
        return Problem::Connect { why, quick: !error.is_timeout() };
    }
    if error.is_timeout() {
        return Problem::Passing(format!("gave no answer for {} s", retry.stall.as_secs_f32()), None);
    }
    Problem::Passing(why, None)
}

/// Sorts an answer that brings no file.
fn unwanted(status: StatusCode, headers: &HeaderMap) -> Problem {
    let text = format!("HTTP {status}");
    match status {
        StatusCode::NOT_FOUND | StatusCode::GONE => Problem::Final(Failure::NotFound(text)),
        StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS => {
            Problem::Passing(text, retry_after(headers, SystemTime::now()))
        }
        status if status.is_server_error() => Problem::Passing(text, retry_after(headers, SystemTime::now())),
        _ => Problem::Final(Failure::Refused(text)),
    }
}

fn header(headers: &HeaderMap, name: HeaderName) -> Option<&str> {
    headers.get(name)?.to_str().ok()
}

/// By what the server recognises this very file: a strong entity tag, else the date of its last change.
fn validator(headers: &HeaderMap) -> Option<String> {
    let tag = header(headers, ETAG).filter(|tag| tag.starts_with('"'));
    tag.or_else(|| header(headers, LAST_MODIFIED)).map(str::to_owned)
}

/// First byte and total length of `bytes 100-199/200`; the total may be `*`.
fn content_range(text: &str) -> Option<(u64, Option<u64>)> {
    let (range, total) = text.strip_prefix("bytes ")?.split_once('/')?;
    let first = range.split_once('-')?.0.parse().ok()?;
    Some((first, if total == "*" { None } else { Some(total.parse().ok()?) }))
}

/// How long the server asks to wait: seconds or a date.
pub(super) fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let text = header(headers, RETRY_AFTER)?.trim();
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = jiff::fmt::rfc2822::DateTimeParser::new().parse_timestamp(text).ok()?;
    let now = now.duration_since(UNIX_EPOCH).ok()?.as_secs();
    Some(Duration::from_secs(u64::try_from(date.as_second()).ok()?.saturating_sub(now)))
}

/// The pause after the given number of failures in a row.
pub(super) fn pause(retry: &Retry, failures: u32) -> Duration {
    let plain = retry.first_pause.saturating_mul(1 << (failures - 1).min(16)).min(retry.longest_pause);
    // Every `RandomState` is seeded anew; good enough to keep builders apart.
    let random = RandomState::new().hash_one(failures) % 1000;
    plain.mul_f64(0.75 + random as f64 / 2000.0)
}

/// An error with its causes, without what they repeat of each other.
pub fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = String::new();
    for cause in causes(error) {
        let cause = cause.to_string();
        if !text.contains(&cause) {
            text = if text.is_empty() { cause } else { format!("{text}: {cause}") };
        }
    }
    text
}

/// An error and all its causes, outermost first.
fn causes<'a>(error: &'a (dyn Error + 'static)) -> Vec<&'a (dyn Error + 'static)> {
    let mut all = Vec::new();
    let mut next = Some(error);
    while let Some(cause) = next {
        all.push(cause);
        // An I/O error names as its cause the cause of what it wraps, not what it wraps.
        let wrapped = cause.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        next = wrapped.map(|wrapped| wrapped as &(dyn Error + 'static)).or_else(|| cause.source());
    }
    all
}
