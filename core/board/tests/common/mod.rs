//! What the tests of the page share: made-up runs, a server, a browser.
#![allow(dead_code)]

pub mod browser;
pub mod fixture;

use apus_board::watch::Server;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;

/// Serves the page of a folder for the rest of the process.
pub fn serve(dir: &Path) -> SocketAddr {
    let server = Server::bind(dir, "127.0.0.1", Some(0)).unwrap();
    let address = server.address();
    std::thread::spawn(move || server.serve());
    address
}

/// An answer.
pub struct Answer {
    /// The number in its first line.
    pub status: u16,
    /// Everything before the empty line, in small letters.
    pub head: String,
    /// Everything after it.
    pub body: String,
}

/// Asks for a path.
pub fn ask(address: SocketAddr, method: &str, path: &str, host: Option<&str>) -> Answer {
    let mut stream = TcpStream::connect(address).unwrap();
    let host = host.map_or_else(String::new, |host| format!("Host: {host}\r\n"));
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\n{host}Connection: close\r\n\r\n"
    )
    .unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    Answer {
        status: head[9..12].parse().unwrap(),
        head: head.to_lowercase(),
        body: body.to_owned(),
    }
}

/// Asks for a path of this machine.
pub fn get(address: SocketAddr, path: &str) -> Answer {
    ask(address, "GET", path, Some("localhost"))
}
