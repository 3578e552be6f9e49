//! A web server that misbehaves on command: each test says what to answer, down to where the connection is cut.

use rustls::{ServerConfig, ServerConnection, StreamOwned};
use std::io::{BufRead as _, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

/// A request as it came.
#[derive(Clone, Debug)]
pub struct Request {
    pub method: String,
    /// As in the request line: a path, or for a proxy a whole address or `host:port`.
    pub path: String,
    headers: Vec<(String, String)>,
    /// What was sent along.
    pub body: Vec<u8>,
    /// The how-manieth request for this path, from 0.
    pub number: usize,
}

impl Request {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }
}

/// What to do after the answer's bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    Close,
    /// Say nothing more, but keep the connection, until the server is dropped.
    Stall,
    /// Say nothing at all, but keep the connection, until the server is dropped.
    Silence,
    /// Send the body byte by byte, so slowly that it never ends, until the server is dropped.
    Drip,
}

/// An answer, byte for byte.
#[derive(Clone, Debug)]
pub struct Answer {
    head: String,
    pub body: Vec<u8>,
    pub end: End,
}

impl Answer {
    /// `status` is code and phrase. The length of the body is announced.
    pub fn new(status: &str, body: &[u8]) -> Self {
        Self { head: format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n", body.len()), body: body.to_vec(), end: End::Close }
    }

    pub fn ok(body: &[u8]) -> Self {
        Self::new("200 OK", body)
    }

    /// Without any length: the end of the connection is the end of the body.
    pub fn unmeasured(body: &[u8]) -> Self {
        Self { head: "HTTP/1.1 200 OK\r\n".into(), body: body.to_vec(), end: End::Close }
    }

    pub fn redirect(to: &str) -> Self {
        Self::new("302 Found", b"").with("Location", to)
    }

    /// What an honest server says to `Range` and `If-Range`.
    pub fn ranged(request: &Request, body: &[u8], tag: &str) -> Self {
        let from =
            request.header("range").and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-')?.parse::<usize>().ok());
        match from {
            Some(from) if request.header("if-range") == Some(tag) => {
                let range = format!("bytes {from}-{}/{}", body.len() - 1, body.len());
                Self::new("206 Partial Content", &body[from..]).with("Content-Range", &range).with("ETag", tag)
            }
            _ => Self::ok(body).with("ETag", tag),
        }
    }

    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.head += &format!("{name}: {value}\r\n");
        self
    }

    /// Sends only the first `count` bytes of the body, whatever was announced.
    pub fn cut(mut self, count: usize) -> Self {
        self.body.truncate(count);
        self
    }

    pub fn stall(mut self) -> Self {
        self.end = End::Stall;
        self
    }

    pub fn drip(mut self) -> Self {
        self.end = End::Drip;
        self
    }

    pub fn silence() -> Self {
        Self { end: End::Silence, ..Self::ok(b"") }
    }

    /// Announces another length than the body has.
    pub fn claim(mut self, length: u64) -> Self {
        self.head =
            self.head.replace(&format!("Content-Length: {}\r", self.body.len()), &format!("Content-Length: {length}\r"));
        self
    }
}

type Script = dyn Fn(&Request) -> Answer + Send + Sync;

/// What the server's threads share.
struct Shared {
    script: Box<Script>,
    tls: Option<Arc<ServerConfig>>,
    requests: Mutex<Vec<Request>>,
    stop: AtomicBool,
    stopped: (Mutex<bool>, Condvar),
    at_once: AtomicUsize,
    most_at_once: AtomicUsize,
}

/// The server; it ends with this value.
pub struct Server {
    shared: Arc<Shared>,
    port: u16,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Server {
    pub fn start(script: impl Fn(&Request) -> Answer + Send + Sync + 'static) -> Self {
        Self::start_as(Box::new(script), None)
    }

    /// Speaks TLS for `localhost`; also gives the certificate as PEM.
    pub fn start_tls(script: impl Fn(&Request) -> Answer + Send + Sync + 'static) -> (Self, String) {
        let rcgen::CertifiedKey { cert, signing_key } = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let key = rustls::pki_types::PrivateKeyDer::try_from(signing_key.serialize_der()).unwrap();
        let config = ServerConfig::builder_with_provider(rustls::crypto::ring::default_provider().into())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![cert.der().clone()], key)
            .unwrap();
        (Self::start_as(Box::new(script), Some(Arc::new(config))), cert.pem())
    }

    fn start_as(script: Box<Script>, tls: Option<Arc<ServerConfig>>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let shared = Arc::new(Shared {
            script,
            tls,
            requests: Mutex::default(),
            stop: AtomicBool::new(false),
            stopped: (Mutex::new(false), Condvar::new()),
            at_once: AtomicUsize::new(0),
            most_at_once: AtomicUsize::new(0),
        });
        let ours = Arc::clone(&shared);
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming() {
                if ours.stop.load(Ordering::SeqCst) {
                    return;
                }
                let ours = Arc::clone(&ours);
                std::thread::spawn(move || ours.accept(stream.unwrap()));
            }
        });
        Self { shared, port, thread: Some(thread) }
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}/{path}", self.port)
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn requests(&self) -> Vec<Request> {
        self.shared.requests.lock().unwrap().clone()
    }

    /// The highest number of requests that were being answered at the same time.
    pub fn most_at_once(&self) -> usize {
        self.shared.most_at_once.load(Ordering::SeqCst)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        *self.shared.stopped.0.lock().unwrap() = true;
        self.shared.stopped.1.notify_all();
        // Wakes the thread that accepts.
        let _ = TcpStream::connect(("127.0.0.1", self.port));
        let _ = self.thread.take().map(std::thread::JoinHandle::join);
    }
}

impl Shared {
    fn accept(&self, stream: TcpStream) {
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        match &self.tls {
            Some(config) => self.serve(StreamOwned::new(ServerConnection::new(Arc::clone(config)).unwrap(), stream)),
            None => self.serve(stream),
        }
    }

    fn serve(&self, mut stream: impl Read + Write) {
        let Some(mut request) = read_request(&mut stream) else { return };
        {
            let mut requests = self.requests.lock().unwrap();
            request.number = requests.iter().filter(|known| known.path == request.path).count();
            requests.push(request.clone());
        }
        let now = self.at_once.fetch_add(1, Ordering::SeqCst) + 1;
        self.most_at_once.fetch_max(now, Ordering::SeqCst);
        let answer = (self.script)(&request);
        self.send(&mut stream, &answer);
        self.at_once.fetch_sub(1, Ordering::SeqCst);
    }

    fn send(&self, stream: &mut (impl Read + Write), answer: &Answer) {
        let head = format!("{}Connection: close\r\n\r\n", answer.head);
        if answer.end == End::Drip {
            let _ = stream.write_all(head.as_bytes());
            for byte in &answer.body {
                let stopped = self.stopped.0.lock().unwrap();
                let pause = Duration::from_millis(50);
                let (stopped, _) = self.stopped.1.wait_timeout_while(stopped, pause, |stopped| !*stopped).unwrap();
                if *stopped || stream.write_all(&[*byte]).and_then(|()| stream.flush()).is_err() {
                    return;
                }
            }
            return;
        }
        let silent = answer.end == End::Silence;
        // The client may have hung up, as it should on some answers.
        if !silent && stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&answer.body)).is_err() {
            return;
        }
        if silent || answer.end == End::Stall {
            let stopped = self.stopped.0.lock().unwrap();
            drop(self.stopped.1.wait_timeout_while(stopped, Duration::from_secs(30), |stopped| !*stopped).unwrap());
            return;
        }
        // Waits for the client to hang up: what was sent must not be lost to a reset.
        let _ = stream.flush();
    }
}

/// Reads the head of a request; nothing where the client hung up first, as a probe does.
fn read_request(stream: &mut impl Read) -> Option<Request> {
    let mut reader = BufReader::new(stream);
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok().filter(|count| *count > 0)?;
        match line.trim_end() {
            "" => break,
            line => lines.push(line.to_owned()),
        }
    }
    let mut words = lines.first()?.split(' ').map(str::to_owned);
    let (method, path) = (words.next()?, words.next()?);
    let header = |line: &String| line.split_once(": ").map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()));
    let headers: Vec<_> = lines[1..].iter().filter_map(header).collect();
    let length = headers.iter().find(|(name, _)| name == "content-length").and_then(|(_, value)| value.parse().ok());
    let mut body = vec![0; length.unwrap_or(0)];
    reader.read_exact(&mut body).ok()?;
    Some(Request { method, path, headers, body, number: 0 })
}
