//! A web folder in memory, with faults on command.
#![allow(clippy::unwrap_used, reason = "to panic is how a test fails")]

use crate::fetch::tests::server::{Answer, Request, Server};
use crate::share::Place;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

/// Files by path, and folders with a `/` at their end.
type Content = Arc<Mutex<BTreeMap<String, Vec<u8>>>>;

/// The folder. It ends with this value.
pub struct Web {
    server: Server,
    pub content: Content,
}

impl Web {
    /// `fault` may answer in the place of the honest server.
    pub fn start(fault: impl Fn(&Request) -> Option<Answer> + Send + Sync + 'static) -> Self {
        let content = Content::default();
        Self { server: Self::serve(&content, fault), content }
    }

    /// The same content behind another server.
    pub fn again(self, fault: impl Fn(&Request) -> Option<Answer> + Send + Sync + 'static) -> Self {
        Self { server: Self::serve(&self.content, fault), content: self.content }
    }

    fn serve(content: &Content, fault: impl Fn(&Request) -> Option<Answer> + Send + Sync + 'static) -> Server {
        let content = Arc::clone(content);
        Server::start(move |request| fault(request).unwrap_or_else(|| honest(&mut content.lock().unwrap(), request)))
    }

    pub fn place(&self) -> Place {
        Place::parse(&self.server.url("a%20b/cache/"), "--cache").unwrap()
    }

    pub fn requests(&self) -> Vec<Request> {
        self.server.requests()
    }
}

/// What a WebDAV server does: a folder has to be made before anything can be put into it.
fn honest(content: &mut BTreeMap<String, Vec<u8>>, request: &Request) -> Answer {
    let path = &request.path;
    let parent = path.rsplit_once('/').map_or("", |(parent, _)| parent);
    let has_parent = parent.is_empty() || content.contains_key(&format!("{parent}/"));
    match request.method.as_str() {
        "GET" | "HEAD" => match content.get(path) {
            None => Answer::new("404 Not Found", b""),
            Some(body) if request.method == "HEAD" => Answer::ok(body).cut(0),
            Some(body) => Answer::ok(body),
        },
        "PUT" | "MKCOL" if !has_parent => Answer::new("409 Conflict", b""),
        "PUT" => {
            content.insert(path.clone(), request.body.clone());
            Answer::new("201 Created", b"")
        }
        "MKCOL" => match content.insert(format!("{path}/"), Vec::new()) {
            None => Answer::new("201 Created", b""),
            Some(_) => Answer::new("405 Method Not Allowed", b""),
        },
        _ => Answer::new("501 Not Implemented", b""),
    }
}
