//! Serves connections: not more than so many at one time, none that sends its request or takes its answer too slowly, and at the
//! end no new ones, while those that are being answered go on for a while.

use super::patient::Patient;
use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tokio::time::{sleep, timeout};

/// How many connections there may be, and how slow they may be.
#[derive(Debug, Clone, Copy)]
pub struct ConnectionLimits {
    /// The most at one time. Further ones wait until one ends.
    pub most: usize,
    /// From one answer, or the start, to the end of the next request's head; and for a client to take a piece of an answer.
    pub client: Duration,
    /// How long the end waits for answers that are being given.
    pub drain: Duration,
}

/// Answers until `ending` becomes true, and then until every connection has ended or the time for that is over.
pub async fn serve(
    listener: TcpListener,
    routes: Router,
    limits: ConnectionLimits,
    mut ending: watch::Receiver<bool>,
) {
    let free = Arc::new(Semaphore::new(limits.most));
    let mut stop = ending.clone();
    let accept = async {
        loop {
            let Ok(place) = Arc::clone(&free).acquire_owned().await else {
                return;
            };
            let Ok((stream, _)) = listener.accept().await else {
                // Out of files, or the other side is gone already: neither is mended by asking again at once.
                sleep(Duration::from_millis(50)).await;
                continue;
            };
            // Pieces of a streamed answer are small and go out at once.
            let _ = stream.set_nodelay(true);
            let service = TowerToHyperService::new(routes.clone());
            let mut ending = ending.clone();
            tokio::spawn(async move {
                let connection = http1::Builder::new()
                    .timer(TokioTimer::new())
                    .header_read_timeout(limits.client)
                    .serve_connection(TokioIo::new(Patient::new(stream, limits.client)), service);
                let mut connection = std::pin::pin!(connection);
                // A connection that breaks concerns nobody else.
                tokio::select! {
                    _ = connection.as_mut() => {}
                    () = until(&mut ending) => {
                        connection.as_mut().graceful_shutdown();
                        let _ = connection.await;
                    }
                }
                drop(place);
            });
        }
    };
    tokio::select! {
        () = accept => {}
        () = until(&mut stop) => {}
    }
    until(&mut ending).await;
    let most = u32::try_from(limits.most).unwrap_or(u32::MAX);
    let _ = timeout(limits.drain, free.acquire_many(most)).await;
}

/// Waits until the value is true, or nobody can make it so any more.
async fn until(ending: &mut watch::Receiver<bool>) {
    let _ = ending.wait_for(|ending| *ending).await;
}
