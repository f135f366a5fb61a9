//! Where the ranks of a run meet: rank 0 listens, the others connect and say who they are.
//!
//! Whatever is wrong is known to all of them before anything is loaded: rank 0 answers every rank that has come with
//! the same words.

use crate::frame::Frame;
use crate::place::Place;
use anyhow::{Context, Result, anyhow, bail, ensure};
use serde::{Deserialize, Serialize};
use std::io::ErrorKind;
use std::net::{TcpListener, TcpStream, ToSocketAddrs};
use std::time::{Duration, Instant};

/// How long the answer of somebody who has connected may take.
const ANSWER: Duration = Duration::from_secs(10);

/// Time between two attempts to connect.
const PAUSE: Duration = Duration::from_millis(100);

/// Who a rank is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// Version of the program.
    pub version: String,
    /// Its rank.
    pub rank: usize,
    /// How many ranks it knows of.
    pub size: usize,
    /// The name of its host.
    pub host: String,
    /// Its process.
    pub pid: u32,
    /// The address of its card, which no other rank of the host may have.
    pub card: Option<String>,
}

impl Hello {
    /// `rank 1 (host b, process 4711)`, for messages.
    pub fn described(&self) -> String {
        format!(
            "rank {} (host {}, process {})",
            self.rank, self.host, self.pid
        )
    }
}

/// The ranks of a run that have met, by rank, and the connections among them: of rank 0 one to each of the others in the
/// order of their ranks, of the others the one to rank 0.
pub struct Met {
    /// Who they are.
    pub ranks: Vec<Hello>,
    /// The connections.
    pub links: Vec<TcpStream>,
}

/// Meets the other ranks at the master's address.
///
/// # Errors
/// The port is in use, nobody came in `patience`, somebody else answered, or ranks do not fit together; every rank that
/// has come gets the same error.
pub fn meet(place: &Place, hello: Hello, patience: Duration) -> Result<Met> {
    let Some((host, port)) = &place.master else {
        bail!(
            "{} does not say where rank 0 listens: set MASTER_ADDR and MASTER_PORT",
            place.launcher
        )
    };
    match place.rank {
        0 => welcome(listen(host, *port)?, hello, patience),
        _ => arrive(host, *port, hello, patience),
    }
}

/// Takes the port of rank 0: for this host alone where its address says so, else for all.
///
/// # Errors
/// It is in use, or this user may not have it.
pub fn listen(host: &str, port: u16) -> Result<TcpListener> {
    let address = match host {
        "127.0.0.1" | "localhost" => "127.0.0.1",
        _ => "0.0.0.0",
    };
    TcpListener::bind((address, port)).map_err(|error| match error.kind() {
        ErrorKind::AddrInUse => anyhow!(
            "port {port} of this host is in use, perhaps by another run: choose another one by MASTER_PORT"
        ),
        _ => anyhow!("port {port} of this host: {error}; choose another one by MASTER_PORT"),
    })
}

/// Waits at rank 0 for all others.
///
/// # Errors
/// As [`meet`].
pub fn welcome(listener: TcpListener, hello: Hello, patience: Duration) -> Result<Met> {
    let until = Instant::now() + patience;
    listener.set_nonblocking(true)?;
    let mut arrived: Vec<(Hello, TcpStream)> = Vec::new();
    let result = loop {
        if arrived.len() + 1 == hello.size {
            break Ok(());
        }
        let stream = match listener.accept() {
            Ok((stream, _)) => stream,
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                if let Err(error) = apus_base::signals::check() {
                    break Err(error.into());
                }
                if Instant::now() > until {
                    break Err(not_all_came(&hello, &arrived, patience));
                }
                std::thread::sleep(PAUSE);
                continue;
            }
            Err(error) => break Err(error).context("waiting for ranks"),
        };
        // Another program that tries the port is let go of; a rank that does not fit ends the run.
        let Ok(other) = read_hello(&stream) else {
            continue;
        };
        let fits = check(&hello, &arrived, &other);
        arrived.push((other, stream));
        if let Err(error) = fits {
            break Err(error);
        }
    };
    if let Err(error) = result {
        let text = format!("{error:#}");
        for (_, stream) in &mut arrived {
            // One that has gone already needs no answer.
            let _ = Frame::Failed(text.clone()).write(stream);
        }
        return Err(error);
    }
    arrived.sort_by_key(|(other, _)| other.rank);
    let (others, mut links): (Vec<Hello>, Vec<TcpStream>) = arrived.into_iter().unzip();
    let ranks: Vec<Hello> = std::iter::once(hello).chain(others).collect();
    let names = serde_json::to_vec(&ranks)?;
    for (link, rank) in links.iter_mut().zip(&ranks[1..]) {
        let told = Frame::Welcome(names.clone()).write(link);
        told.with_context(|| format!("{} has gone before the run began", rank.described()))?;
    }
    Ok(Met { ranks, links })
}

fn not_all_came(
    hello: &Hello,
    arrived: &[(Hello, TcpStream)],
    patience: Duration,
) -> anyhow::Error {
    let has_come = |rank: &usize| arrived.iter().any(|(other, _)| other.rank == *rank);
    let missing: Vec<String> = (1..hello.size)
        .filter(|rank| !has_come(rank))
        .map(|rank| rank.to_string())
        .collect();
    anyhow!(
        "of {} ranks {} did not arrive in {} s: {}. Each host has to be started with the same NNODES, MASTER_ADDR and MASTER_PORT",
        hello.size,
        missing.len(),
        patience.as_secs(),
        missing.join(", ")
    )
}

fn read_hello(mut stream: &TcpStream) -> Result<Hello> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(ANSWER))?;
    stream.set_nodelay(true)?;
    match Frame::read(&mut stream)? {
        Frame::Hello(bytes) => Ok(serde_json::from_slice(&bytes)?),
        _ => bail!("no greeting"),
    }
}

/// Whether a rank that has arrived fits to those before it.
fn check(first: &Hello, arrived: &[(Hello, TcpStream)], new: &Hello) -> Result<()> {
    let (who, zero) = (new.described(), first.described());
    ensure!(
        new.version == first.version,
        "{who} is apus {}, {zero} is {}: the same version is needed on all hosts",
        new.version,
        first.version
    );
    ensure!(
        new.size == first.size,
        "{who} was started for {} ranks, {zero} for {}: NPROC_PER_NODE and NNODES have to be the same on all hosts",
        new.size,
        first.size
    );
    for other in std::iter::once(first).chain(arrived.iter().map(|(other, _)| other)) {
        ensure!(
            other.rank != new.rank,
            "{} and {who} have the same rank: NODE_RANK has to differ by host, and another run may use this port",
            other.described()
        );
        ensure!(
            new.card.is_none() || other.host != new.host || other.card != new.card,
            "{} and {who} are on the same card {}: give each a card of its own, as many as processes by CUDA_VISIBLE_DEVICES",
            other.described(),
            new.card.as_deref().unwrap_or_default()
        );
    }
    Ok(())
}

/// Comes to rank 0 and waits until all have come.
///
/// # Errors
/// As [`meet`].
pub fn arrive(host: &str, port: u16, hello: Hello, patience: Duration) -> Result<Met> {
    let until = Instant::now() + patience;
    let stream = connect(host, port, until).with_context(|| {
        format!(
            "rank {}: rank 0 is not to be reached at {host}:{port}",
            hello.rank
        )
    })?;
    let stranger = || {
        format!(
            "rank {}: what listens at {host}:{port} is not rank 0 of this run",
            hello.rank
        )
    };
    let mut link = &stream;
    stream.set_nodelay(true)?;
    Frame::Hello(serde_json::to_vec(&hello)?).write(&mut link)?;
    // Rank 0 answers when all have come.
    let rest = until.saturating_duration_since(Instant::now()) + ANSWER;
    stream.set_read_timeout(Some(rest))?;
    match Frame::read(&mut link).with_context(stranger)? {
        Frame::Welcome(bytes) => {
            let ranks = serde_json::from_slice(&bytes)?;
            Ok(Met {
                ranks,
                links: vec![stream],
            })
        }
        Frame::Failed(text) => bail!("{text}"),
        _ => bail!(stranger()),
    }
}

fn connect(host: &str, port: u16, until: Instant) -> Result<TcpStream> {
    loop {
        let result = (host, port)
            .to_socket_addrs()
            .map_err(anyhow::Error::from)
            .and_then(|addresses| {
                let mut last = anyhow!("{host} has no address");
                for address in addresses {
                    match TcpStream::connect_timeout(&address, ANSWER) {
                        Ok(stream) => return Ok(stream),
                        Err(error) => last = error.into(),
                    }
                }
                Err(last)
            });
        match result {
            Ok(stream) => return Ok(stream),
            Err(error) if Instant::now() > until => return Err(error),
            Err(_) => {
                apus_base::signals::check()?;
                std::thread::sleep(PAUSE);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::place::Launcher;
    use std::thread;

    fn hello(rank: usize, size: usize) -> Hello {
        Hello {
            version: "1".to_owned(),
            rank,
            size,
            host: "h".to_owned(),
            pid: 100 + rank as u32,
            card: Some(format!("card {rank}")),
        }
    }

    fn place(rank: usize, size: usize, port: u16) -> Place {
        let master = Some(("127.0.0.1".to_owned(), port));
        Place {
            rank,
            size,
            local_rank: rank,
            master,
            launcher: Launcher::Apus,
        }
    }

    /// Runs these ranks on threads, and returns what each of them gets, rank 0 first.
    fn meet_all(hellos: Vec<Hello>, patience: Duration) -> Vec<Result<Met, String>> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let mut hellos = hellos.into_iter();
        let first = hellos.next().unwrap();
        let others: Vec<_> = hellos
            .map(|hello| {
                thread::spawn(move || {
                    let place = place(hello.rank, hello.size, port);
                    meet(&place, hello, patience)
                })
            })
            .collect();
        let mut results = vec![welcome(listener, first, patience)];
        results.extend(others.into_iter().map(|other| other.join().unwrap()));
        let text = |error: anyhow::Error| format!("{error:#}");
        results
            .into_iter()
            .map(|result| result.map_err(text))
            .collect()
    }

    #[test]
    fn ranks_that_have_met_know_each_other() {
        let patience = Duration::from_secs(20);
        let all: Vec<Hello> = [0, 2, 1].map(|rank| hello(rank, 3)).into();
        for (at, met) in meet_all(all, patience).into_iter().enumerate() {
            let met = met.unwrap_or_else(|error| panic!("{error}"));
            assert_eq!(met.ranks, [0, 1, 2].map(|rank| hello(rank, 3)));
            assert_eq!(met.links.len(), if at == 0 { 2 } else { 1 });
        }
    }

    #[test]
    fn every_rank_gets_the_error() {
        let change = |change: fn(&mut Hello)| {
            let mut new = hello(1, 2);
            change(&mut new);
            new
        };
        for (new, says) in [
            (
                change(|new| new.version = "2".to_owned()),
                "is apus 2, rank 0",
            ),
            (change(|new| new.size = 3), "was started for 3 ranks"),
            (
                change(|new| new.card = Some("card 0".to_owned())),
                "on the same card card 0",
            ),
        ] {
            for error in meet_all(vec![hello(0, 2), new], Duration::from_secs(20)) {
                let error = error.err().unwrap();
                assert!(error.contains(says), "{says}: {error}");
            }
        }
        let twice = meet_all(
            vec![hello(0, 3), hello(1, 3), hello(1, 3)],
            Duration::from_secs(20),
        );
        assert!(
            twice
                .into_iter()
                .all(|met| met.err().unwrap().contains("have the same rank"))
        );
    }

    #[test]
    fn who_does_not_come_is_named() {
        let errors = meet_all(vec![hello(0, 4), hello(2, 4)], Duration::from_millis(300));
        for error in errors {
            let error = error.err().unwrap();
            assert!(
                error.contains("of 4 ranks 2 did not arrive in 0 s: 1, 3"),
                "{error}"
            );
        }
    }

    #[test]
    fn a_port_is_in_use_or_somebody_elses() {
        let listener = TcpListener::bind(("0.0.0.0", 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let error = listen("h", port).unwrap_err().to_string();
        assert!(
            error.contains("is in use") && error.contains("MASTER_PORT"),
            "{error}"
        );
        let other = thread::spawn(move || {
            use std::io::Write;
            let (mut stream, _) = listener.accept().unwrap();
            stream
                .write_all(b"SSH-2.0-OpenSSH_9.2 and more\r\n")
                .unwrap();
        });
        let error = meet(&place(1, 2, port), hello(1, 2), Duration::from_secs(5))
            .err()
            .unwrap();
        assert!(
            error.to_string().contains("is not rank 0 of this run"),
            "{error:#}"
        );
        other.join().unwrap();
    }
}
