//! Serves connections and closes those that send no request.
//!
//! A client that opens a connection and sends nothing, or half a request, would otherwise hold a file descriptor of this
//! process for as long as it likes, until none is left.

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};

/// The most connections at one time. Further ones wait until one ends.
const MOST: usize = 128;

/// How long a connection may take.
#[derive(Debug, Clone, Copy)]
pub struct Timeouts {
    /// From one answer, or the start, to the end of the next request's head.
    pub request: Duration,
    /// From its start to its end, whatever it does. A browser then opens another one.
    pub connection: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            request: Duration::from_secs(10),
            connection: Duration::from_secs(600),
        }
    }
}

/// Answers until the process ends.
pub async fn serve(listener: TcpListener, routes: Router, timeouts: Timeouts) {
    let free = Arc::new(Semaphore::new(MOST));
    loop {
        let Ok(place) = Arc::clone(&free).acquire_owned().await else {
            return;
        };
        let Ok((stream, _)) = listener.accept().await else {
            // Out of files, or the other side is gone already: neither is mended by asking again at once.
            sleep(Duration::from_millis(50)).await;
            continue;
        };
        let service = TowerToHyperService::new(routes.clone());
        tokio::spawn(async move {
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(timeouts.request)
                .serve_connection(TokioIo::new(stream), service);
            // A connection that breaks concerns nobody else.
            let _ = timeout(timeouts.connection, connection).await;
            drop(place);
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::routing::get;
    use std::io::{Read, Write};
    use std::net::TcpStream;

    fn started(timeouts: Timeouts) -> std::net::SocketAddr {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async {
                let listener = TcpListener::from_std(listener).unwrap();
                let routes = Router::new().route("/", get(|| async { "here" }));
                serve(listener, routes, timeouts).await;
            });
        });
        address
    }

    fn answer(mut stream: TcpStream, request: &str) -> String {
        stream.write_all(request.as_bytes()).unwrap();
        let wait = Some(Duration::from_secs(20));
        stream.set_read_timeout(wait).unwrap();
        let mut text = String::new();
        stream
            .read_to_string(&mut text)
            .expect("the server ends it");
        text
    }

    /// More half-open connections than there may be at one time: each is ended, and then a whole request is answered.
    #[test]
    fn half_a_request_does_not_stay() {
        let address = started(Timeouts {
            request: Duration::from_millis(200),
            ..Timeouts::default()
        });
        let half: Vec<TcpStream> = (0..MOST + 8)
            .map(|at| {
                let mut stream = TcpStream::connect(address).unwrap();
                let part = ["", "GET / HT", "GET / HTTP/1.1\r\nHost: localhost\r\n"][at % 3];
                stream.write_all(part.as_bytes()).unwrap();
                stream
            })
            .collect();
        let whole = "GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
        let text = answer(TcpStream::connect(address).unwrap(), whole);
        assert!(
            text.starts_with("HTTP/1.1 200") && text.ends_with("here"),
            "{text}"
        );
        for stream in half {
            let text = answer(stream, "");
            assert!(!text.contains("200 OK"), "{text}");
        }
    }

    #[test]
    fn a_connection_ends_in_time() {
        let address = started(Timeouts {
            connection: Duration::from_millis(300),
            ..Timeouts::default()
        });
        let text = answer(
            TcpStream::connect(address).unwrap(),
            "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
        );
        assert!(text.ends_with("here"), "{text}");
    }
}
