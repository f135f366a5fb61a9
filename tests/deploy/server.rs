//! A running server, and requests to it over plain sockets.

use serde_json::Value;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

pub const MODEL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/goldens/tiny/model_bf16");
pub const GOLDENS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/goldens/tiny");

/// A server that ends with the test.
pub struct Server {
    child: Child,
    pub address: String,
    said: Arc<Mutex<String>>,
}

/// The parts of a response.
#[derive(Debug)]
pub struct Response {
    pub status: u16,
    pub head: String,
    pub body: String,
}

impl Response {
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// The data of all events.
    pub fn events(&self) -> Vec<&str> {
        let lines = self.body.lines();
        lines
            .filter_map(|line| line.strip_prefix("data: "))
            .collect()
    }

    /// The value of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut lines = self.head.lines();
        lines.find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then_some(value.trim())
        })
    }
}

impl Server {
    /// Starts a server of the tiny model with these words more.
    pub fn start(more: &str) -> Self {
        Self::start_with(more, &[])
    }

    pub fn start_with(more: &str, environment: &[(&str, &str)]) -> Self {
        let line = format!(
            "deploy --model {MODEL} --served_model_name tiny --port 0 --current_date 2025-08-05 --cache_tokens 16384 {more}"
        );
        let mut child = Command::new(env!("CARGO_BIN_EXE_apus"))
            .args(line.split_whitespace())
            .env_remove("APUS_API_KEY")
            .env_remove("APUS_ADMIN_API_KEY")
            .env_remove("APUS_PLUGIN_PATH")
            .env_remove("RUST_BACKTRACE")
            .envs(environment.iter().copied())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary starts");
        let said = Arc::new(Mutex::new(String::new()));
        let errors = child.stderr.take().expect("it is piped");
        let keep = Arc::clone(&said);
        thread::spawn(move || {
            for line in BufReader::new(errors).lines().map_while(Result::ok) {
                *keep.lock().unwrap() += &(line + "\n");
            }
        });
        let mut lines = BufReader::new(child.stdout.take().expect("it is piped")).lines();
        let address = lines.by_ref().map_while(Result::ok).find_map(|line| {
            let (_, rest) = line.split_once("http://")?;
            Some(rest.split('/').next()?.to_owned())
        });
        let Some(address) = address else {
            let _ = child.wait();
            panic!("no server: {}", said.lock().unwrap());
        };
        thread::spawn(move || lines.for_each(drop));
        Self {
            child,
            address,
            said,
        }
    }

    /// What it has printed on standard error.
    pub fn said(&self) -> String {
        self.said.lock().unwrap().clone()
    }

    pub fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(&self.address).expect("it listens");
        stream
            .set_read_timeout(Some(Duration::from_secs(120)))
            .unwrap();
        stream
    }

    /// Sends bytes, and reads until the server closes the connection.
    pub fn raw(&self, bytes: &[u8]) -> Response {
        let mut stream = self.connect();
        // A server that has refused the head may have closed already.
        let _ = stream.write_all(bytes);
        read(stream)
    }

    pub fn get(&self, path: &str) -> Response {
        self.raw(
            format!(
                "GET {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n",
                self.address
            )
            .as_bytes(),
        )
    }

    pub fn post(&self, path: &str, body: &Value) -> Response {
        self.post_with(path, &body.to_string(), "")
    }

    /// Posts a text with these headers more, each ended by a line break.
    pub fn post_with(&self, path: &str, body: &str, headers: &str) -> Response {
        self.raw(self.request(path, body, headers).as_bytes())
    }

    pub fn request(&self, path: &str, body: &str, headers: &str) -> String {
        format!(
            "POST {path} HTTP/1.1\r\nHost: {}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\
             Connection: close\r\n{headers}\r\n{body}",
            self.address,
            body.len()
        )
    }

    /// A number of `/metrics`.
    #[track_caller]
    pub fn metric(&self, name: &str) -> f64 {
        let text = self.get("/metrics").body;
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        let value = line.and_then(|rest| rest.trim().parse().ok());
        value.unwrap_or_else(|| panic!("{name} is not in\n{text}"))
    }

    /// Waits until a number of `/metrics` has this value.
    #[track_caller]
    pub fn wait_for(&self, name: &str, value: f64) {
        let start = Instant::now();
        while self.metric(name) != value {
            assert!(
                start.elapsed() < Duration::from_secs(60),
                "{name} stays {}, expected {value}\n{}",
                self.metric(name),
                self.said()
            );
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// Waits until nothing is being answered, on a server with a key.
    pub fn wait_for_idle(&self, key: &str) {
        let request = format!(
            "GET /metrics HTTP/1.1\r\nHost: {}\r\nAuthorization: Bearer {key}\r\nConnection: close\r\n\r\n",
            self.address
        );
        let start = Instant::now();
        while !self
            .raw(request.as_bytes())
            .body
            .contains("\napus_answers_running 0\n")
        {
            assert!(
                start.elapsed() < Duration::from_secs(60),
                "answers go on: {}",
                self.said()
            );
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// Sends a signal.
    pub fn signal(&self, name: &str) {
        let done = Command::new("kill")
            .arg(format!("-{name}"))
            .arg(self.child.id().to_string())
            .status();
        assert!(done.expect("kill runs").success());
    }

    /// Waits for its end; its exit code.
    pub fn wait(&mut self) -> Option<i32> {
        let start = Instant::now();
        while start.elapsed() < Duration::from_secs(60) {
            if let Some(status) = self.child.try_wait().expect("it can be waited for") {
                return status.code();
            }
            thread::sleep(Duration::from_millis(20));
        }
        panic!("the server does not end: {}", self.said());
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Reads a response up to the end of the connection, with a chunked body joined.
pub fn read(mut stream: TcpStream) -> Response {
    let mut bytes = Vec::new();
    // A connection that the server breaks off ends the response, too.
    let _ = stream.read_to_end(&mut bytes);
    let text = String::from_utf8_lossy(&bytes).into_owned();
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    let status = head
        .split(' ')
        .nth(1)
        .and_then(|status| status.parse().ok());
    let is_chunked = head.to_lowercase().contains("transfer-encoding: chunked");
    Response {
        status: status.unwrap_or(0),
        body: match is_chunked {
            true => joined(body),
            false => body.to_owned(),
        },
        head: head.to_owned(),
    }
}

fn joined(mut chunks: &str) -> String {
    let mut body = String::new();
    while let Some((size, rest)) = chunks.split_once("\r\n") {
        let size = usize::from_str_radix(size.trim(), 16).unwrap_or(0);
        let Some(chunk) = rest.get(..size).filter(|_| size > 0) else {
            break;
        };
        body += chunk;
        chunks = rest.get(size + 2..).unwrap_or_default();
    }
    body
}
