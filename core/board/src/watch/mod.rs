//! `apus watch`: a local page that follows the runs below a folder.
//!
//! It only reads, and only files of run folders below the given folder. The run that a page requests is looked up among
//! the runs that were found; a path in a request is never opened.

mod board;
mod host;
mod routes;
mod serve;

pub use host::is_loopback;

use anyhow::{Context, Result, anyhow, bail};
use board::Board;
use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;

/// The default port, used if it is free and no other one is given.
pub const PORT: u16 = 7007;

/// A page that is ready to be served.
pub struct Server {
    listener: TcpListener,
    board: Board,
    address: SocketAddr,
}

impl Server {
    /// Listens at the given port; without one at 7007, or at any free port if that one is taken.
    ///
    /// # Errors
    /// The folder does not exist, or the port is taken.
    pub fn bind(dir: &Path, host: &str, port: Option<u16>) -> Result<Self> {
        if !dir.is_dir() {
            bail!(
                "{}: is no folder; expected one with runs in it, such as the --output_dir of `apus sft`",
                dir.display()
            );
        }
        let name = host.trim_start_matches('[').trim_end_matches(']');
        let listener = match (TcpListener::bind((name, port.unwrap_or(PORT))), port) {
            (Err(error), None) if error.kind() == ErrorKind::AddrInUse => {
                TcpListener::bind((name, 0))
            }
            (bound, _) => bound,
        };
        let listener = listener.map_err(|error| refused(&error, host, port.unwrap_or(PORT)))?;
        let address = listener.local_addr()?;
        Ok(Self {
            listener,
            board: Board::new(dir),
            address,
        })
    }

    /// The address at which it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The number of runs that exist now.
    pub fn runs(&mut self) -> usize {
        self.board.count()
    }

    /// Serves the page until the process ends.
    pub fn serve(self) -> Result<()> {
        self.listener.set_nonblocking(true)?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        runtime
            .block_on(async {
                let listener = tokio::net::TcpListener::from_std(self.listener)?;
                let routes = routes::routes(self.board, self.address.ip());
                serve::serve(listener, routes, serve::Timeouts::default()).await;
                Ok::<(), std::io::Error>(())
            })
            .context("the page cannot be served")
    }
}

fn refused(error: &std::io::Error, host: &str, port: u16) -> anyhow::Error {
    let what = match error.kind() {
        ErrorKind::AddrInUse => {
            "is in use, perhaps by another `apus watch`: give another --port, or none to take a free one"
        }
        ErrorKind::PermissionDenied => "may not be listened at: give a --port above 1023",
        ErrorKind::AddrNotAvailable => {
            "is no address of this machine: give one that is by --host, or leave it out for this machine alone"
        }
        _ => return anyhow!("{host}:{port} cannot be listened at: {error}"),
    };
    anyhow!("{host}:{port} {what}")
}
