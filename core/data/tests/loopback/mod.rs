//! A server on this machine that speaks as much HTTP as a download needs, and writes down what it is asked.
#![allow(dead_code)]

use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

/// A request.
#[derive(Debug, Clone)]
pub struct Request {
    /// Path and query.
    pub path: String,
    /// Header lines, their names in lower case.
    pub headers: BTreeMap<String, String>,
}

impl Request {
    /// Where the wanted bytes start.
    pub fn from(&self) -> Option<usize> {
        let range = self.headers.get("range")?.strip_prefix("bytes=")?;
        range.trim_end_matches('-').parse().ok()
    }
}

/// An answer.
#[derive(Debug, Clone)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// After how many bytes of the body the connection breaks.
    pub cut: Option<usize>,
    /// Whether the body is sent again and again until the client has enough.
    pub endless: bool,
}

impl Answer {
    pub fn new(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self {
            status,
            headers: Vec::new(),
            body: body.into(),
            cut: None,
            endless: false,
        }
    }

    pub fn with(mut self, name: &str, value: impl ToString) -> Self {
        self.headers.push((name.to_owned(), value.to_string()));
        self
    }

    /// Bytes from where they were asked for on.
    pub fn bytes(request: &Request, all: &[u8]) -> Self {
        match request.from() {
            None => Self::new(200, all),
            Some(from) if from >= all.len() => Self::new(416, ""),
            Some(from) => Self::new(206, &all[from..]).with(
                "content-range",
                format!("bytes {from}-{}/{}", all.len() - 1, all.len()),
            ),
        }
    }

    pub fn cut(mut self, after: usize) -> Self {
        self.cut = Some(after);
        self
    }
}

/// A running server; it ends with the process.
pub struct Server {
    /// Its address.
    pub url: String,
    seen: Arc<Mutex<Vec<Request>>>,
}

impl Server {
    /// Answers each request by a function of it and of how many were made for the same path before.
    pub fn start(answer: impl Fn(&Request, usize) -> Answer + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let seen: Arc<Mutex<Vec<Request>>> = Arc::default();
        let (all, answer) = (Arc::clone(&seen), Arc::new(answer));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (all, answer) = (Arc::clone(&all), Arc::clone(&answer));
                std::thread::spawn(move || serve(stream, &all, answer.as_ref()));
            }
        });
        Self { url, seen }
    }

    /// What was asked so far.
    pub fn seen(&self) -> Vec<Request> {
        self.seen.lock().unwrap().clone()
    }

    /// What was asked with this in its path.
    pub fn asked(&self, part: &str) -> Vec<Request> {
        self.seen()
            .into_iter()
            .filter(|request| request.path.contains(part))
            .collect()
    }
}

fn serve(
    stream: TcpStream,
    seen: &Mutex<Vec<Request>>,
    answer: &dyn Fn(&Request, usize) -> Answer,
) -> Option<()> {
    let mut reader = BufReader::new(stream.try_clone().ok()?);
    let mut first = String::new();
    reader.read_line(&mut first).ok()?;
    let path = first.split(' ').nth(1)?.to_owned();
    let mut headers = BTreeMap::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        match line.trim_end().split_once(": ") {
            Some((name, value)) => headers.insert(name.to_lowercase(), value.to_owned()),
            None => break,
        };
    }
    let request = Request { path, headers };
    let before = {
        let mut seen = seen.lock().unwrap();
        let before = seen.iter().filter(|old| old.path == request.path).count();
        seen.push(request.clone());
        before
    };
    let answer = answer(&request, before);
    let mut head = format!("HTTP/1.1 {} X\r\nconnection: close\r\n", answer.status);
    for (name, value) in &answer.headers {
        head += &format!("{name}: {value}\r\n");
    }
    let mut stream = stream;
    if answer.endless {
        stream.write_all((head + "\r\n").as_bytes()).ok()?;
        while stream.write_all(&answer.body).is_ok() {}
        return None;
    }
    head += &format!("content-length: {}\r\n\r\n", answer.body.len());
    stream.write_all(head.as_bytes()).ok()?;
    let sent = answer.cut.unwrap_or(answer.body.len());
    stream.write_all(&answer.body[..sent]).ok()?;
    stream.flush().ok()
}

/// The hash of bytes, in hexadecimal.
pub fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// Files of a repository; those with true are LFS files.
pub type Files = Vec<(&'static str, Vec<u8>, bool)>;

/// The commit of every repository here.
pub const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// Hugging Face's answers for one repository, `models/owner/name` or `datasets/owner/name`.
pub fn hugging_face(repository: &str, files: &Files, request: &Request) -> Answer {
    let pages = repository.trim_start_matches("models/");
    if request
        .path
        .starts_with(&format!("/api/{repository}/revision/"))
    {
        let siblings = files.iter().map(|(name, bytes, lfs)| {
            let mut file = serde_json::json!({
                "rfilename": name,
                "size": bytes.len(),
                "blobId": format!("b10b{}", &sha256(bytes)[..36]),
            });
            if *lfs {
                file["lfs"] = serde_json::json!({"sha256": sha256(bytes), "size": bytes.len(), "pointerSize": 135});
            }
            file
        });
        let siblings: Vec<_> = siblings.collect();
        let body = serde_json::json!({"id": repository, "sha": COMMIT, "siblings": siblings});
        return Answer::new(200, body.to_string());
    }
    let found = files
        .iter()
        .find(|(name, ..)| request.path == format!("/{pages}/resolve/{COMMIT}/{name}"));
    match found {
        Some((_, bytes, _)) => Answer::bytes(request, bytes),
        None => Answer::new(404, "{\"error\":\"Repository not found\"}")
            .with("x-error-code", "EntryNotFound"),
    }
}
