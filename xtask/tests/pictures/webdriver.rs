//! A real browser without a window: Chromium, driven over the WebDriver protocol by its own driver.

use crate::common::wait_for;
use reqwest::blocking::Client;
use serde_json::{Value, json};
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// For a browser on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// Without a window, for root, and asking nobody for anything.
const FLAGS: [&str; 9] = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--window-size=1400,900",
];

/// The browser with one page. It ends when this is dropped.
pub struct Browser {
    driver: Child,
    client: Client,
    session: String,
    _profile: tempfile::TempDir,
}

impl Browser {
    /// Starts it.
    pub fn start() -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = Client::builder().no_proxy().timeout(PATIENCE).build().unwrap();
        let mut driver = Command::new("chromedriver")
            .arg("--port=0")
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("chromedriver drives the browser: `cargo xtask ci --install-missing` installs it");
        let mut lines = BufReader::new(driver.stdout.take().unwrap()).lines().map_while(Result::ok);
        let port = lines.find_map(|line| line.split_once("successfully on port ").map(|(_, rest)| rest.to_owned()));
        let port = port.expect("chromedriver says its port");
        let root = format!("http://127.0.0.1:{}/session", port.trim_end_matches('.'));
        let profile = tempfile::tempdir().unwrap();
        let mut flags: Vec<String> = FLAGS.map(str::to_owned).to_vec();
        flags.push(format!("--user-data-dir={}", profile.path().display()));
        let options = json!({"args": flags});
        let wanted = json!({"goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}});
        let body = json!({"capabilities": {"alwaysMatch": wanted}}).to_string();
        let answer = client.post(&root).body(body).send().unwrap().text().unwrap();
        let answer: Value = serde_json::from_str(&answer).unwrap();
        let id = answer["value"]["sessionId"].as_str().unwrap_or_else(|| panic!("no browser: {answer}"));
        Self { driver, client, session: format!("{root}/{id}"), _profile: profile }
    }

    fn post(&self, path: &str, body: &Value) -> Value {
        let answer = self.client.post(format!("{}/{path}", self.session)).body(body.to_string()).send().unwrap();
        let mut answer: Value = serde_json::from_str(&answer.text().unwrap()).unwrap();
        answer["value"].take()
    }

    /// Opens an address.
    pub fn go_to(&self, url: &str) {
        let answer = self.post("url", &json!({"url": url}));
        assert!(answer.is_null(), "{url}: {answer}");
    }

    /// An element, once it is there.
    fn element(&self, selector: &str) -> String {
        wait_for(selector, PATIENCE, || {
            let found = self.post("element", &json!({"using": "css selector", "value": selector}));
            Some(found.as_object()?.values().next()?.as_str()?.to_owned()).filter(|_| found.get("error").is_none())
        })
    }

    /// Types as a user would.
    pub fn type_into(&self, selector: &str, text: &str) {
        let answer = self.post(&format!("element/{}/value", self.element(selector)), &json!({"text": text}));
        assert!(answer.is_null(), "{selector}: {answer}");
    }

    /// Clicks as a user would.
    pub fn click(&self, selector: &str) {
        let answer = self.post(&format!("element/{}/click", self.element(selector)), &json!({}));
        assert!(answer.is_null(), "{selector}: {answer}");
    }

    /// Runs the body of a function in the page; what it gives.
    pub fn run(&self, script: &str) -> Value {
        self.post("execute/sync", &json!({"script": script, "args": []}))
    }

    /// The warnings and errors that came into the console since this was asked last: those of scripts, and of what was refused.
    pub fn complaints(&self) -> Vec<String> {
        let all = self.post("se/log", &json!({"type": "browser"}));
        let all = all.as_array().cloned().unwrap_or_else(|| panic!("no console: {all}"));
        all.iter()
            .filter(|entry| entry["level"] != "INFO" && entry["level"] != "DEBUG")
            .map(|entry| entry["message"].to_string())
            .collect()
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // The driver ends the browser with the session.
        let _ = self.client.delete(&self.session).send();
        let _ = self.driver.kill();
        let _ = self.driver.wait();
    }
}
