//! As much HTTP as the client speaks.

use serde_json::Value;
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;

/// A request.
#[derive(Debug, Clone)]
pub struct Request {
    pub method: String,
    pub path: String,
    pub query: String,
    /// Names in lower case.
    pub headers: BTreeMap<String, String>,
    pub body: Vec<u8>,
}

impl Request {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or(Value::Null)
    }
}

/// An answer.
pub enum Answer {
    /// A status and a body.
    Whole(u16, String),
    /// The connection breaks in the middle of the body.
    Cut,
    /// A body that goes on until the client has enough.
    Endless,
}

impl Answer {
    pub fn json(status: u16, body: Value) -> Self {
        Self::Whole(status, body.to_string())
    }
}

/// Answers the requests of a connection.
pub fn serve(stream: TcpStream, answer: impl Fn(&Request) -> Answer) -> Option<()> {
    let mut reader = BufReader::new(stream.try_clone().ok()?);
    let mut stream = stream;
    loop {
        let request = read(&mut reader)?;
        let (status, body) = match answer(&request) {
            Answer::Whole(status, body) => (status, body),
            Answer::Cut => {
                stream
                    .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{")
                    .ok()?;
                return stream.shutdown(std::net::Shutdown::Both).ok();
            }
            Answer::Endless => {
                stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").ok()?;
                while stream.write_all(&[b' '; 1 << 16]).is_ok() {}
                return None;
            }
        };
        let head = format!(
            "HTTP/1.1 {status} X\r\ntraceid: t1\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all((head + &body).as_bytes()).ok()?;
    }
}

fn read(reader: &mut BufReader<TcpStream>) -> Option<Request> {
    let mut first = String::new();
    reader.read_line(&mut first).ok().filter(|&n| n > 0)?;
    let mut words = first.split(' ');
    let (method, target) = (words.next()?.to_owned(), words.next()?);
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let (path, query) = (path.to_owned(), query.to_owned());
    let mut headers = BTreeMap::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        match line.trim_end().split_once(": ") {
            Some((name, value)) => headers.insert(name.to_lowercase(), value.to_owned()),
            None => break,
        };
    }
    let length = headers
        .get("content-length")
        .map_or(0, |n| n.parse().unwrap());
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    Some(Request {
        method,
        path,
        query,
        headers,
        body,
    })
}
