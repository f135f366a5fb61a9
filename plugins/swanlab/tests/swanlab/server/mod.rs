//! A SwanLab server on this machine, for tests: it answers as the real one does, refuses what that one would refuse,
//! writes down what it is asked, and fails where a test wants it to.
#![allow(dead_code)]

mod http;
mod routes;

pub use http::Request;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

/// The key that the server knows.
pub const KEY: &str = "key-of-21-characters!";

/// How a request fails.
#[derive(Debug, Clone, Copy)]
pub enum Fault {
    /// With this status.
    Status(u16),
    /// The connection breaks in the middle of the answer.
    Cut,
    /// The request is carried out, and the connection breaks before the answer.
    Lost,
    /// The answer does not end.
    Endless,
    /// The answer comes late.
    Slow(Duration),
}

/// An experiment.
#[derive(Debug, Default, Clone)]
pub struct Experiment {
    /// What it was made from.
    pub body: Value,
    /// `P`
    pub project: String,
    /// Announced keys with their types.
    pub columns: BTreeMap<String, String>,
    /// Numbers, by key and step.
    pub numbers: BTreeMap<(String, i64), Value>,
    /// Texts and pictures, by key and step.
    pub media: BTreeMap<(String, i64), Vec<String>>,
    /// Lines, by number.
    pub lines: BTreeMap<i64, (String, String)>,
    /// Configuration, machine.
    pub profile: BTreeMap<String, Value>,
    /// The ends that it was told.
    pub states: Vec<String>,
    /// How often it was said to be there.
    pub heartbeats: usize,
}

/// What the server knows.
#[derive(Debug, Default)]
pub struct World {
    pub projects: BTreeSet<(String, String)>,
    pub experiments: BTreeMap<String, Experiment>,
    pub sessions: BTreeSet<String>,
    pub objects: BTreeMap<String, Vec<u8>>,
    /// Every request, as `METHOD path`.
    pub requests: Vec<String>,
    /// What no client may do.
    pub violations: Vec<String>,
    pub faults: Vec<(String, Fault, usize)>,
    /// Whether it is an old one.
    pub legacy: bool,
    /// How long a session lives.
    pub session_days: f64,
    pub logins: usize,
}

/// A running server; it ends with the test.
pub struct Server {
    pub url: String,
    world: Arc<Mutex<World>>,
    away: Arc<AtomicBool>,
}

impl Server {
    pub fn start() -> Self {
        Self::at("127.0.0.1:0".parse().unwrap())
    }

    /// A server at an address that somebody may have asked in vain before.
    pub fn at(address: SocketAddr) -> Self {
        let listener = TcpListener::bind(address).expect("a free port");
        let url = format!("http://{}", listener.local_addr().unwrap());
        let world = Arc::new(Mutex::new(World {
            session_days: 30.0,
            ..World::default()
        }));
        let away = Arc::new(AtomicBool::new(false));
        let (shared, gone, base) = (Arc::clone(&world), Arc::clone(&away), url.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (world, gone, base) = (Arc::clone(&shared), Arc::clone(&gone), base.clone());
                std::thread::spawn(move || {
                    http::serve(stream, |request| match gone.load(Ordering::SeqCst) {
                        true => http::Answer::Cut,
                        false => answer(&world, &base, request),
                    })
                });
            }
        });
        Self { url, world, away }
    }

    pub fn legacy(self) -> Self {
        self.world().legacy = true;
        self
    }

    pub fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap()
    }

    /// Lets the next `count` requests fail that have `part` in `METHOD path`.
    pub fn fail(&self, part: &str, fault: Fault, count: usize) {
        self.world().faults.push((part.to_owned(), fault, count));
    }

    /// Nobody is answered as long as it is away.
    pub fn set_away(&self, away: bool) {
        self.away.store(away, Ordering::SeqCst);
    }

    /// Forgets all sessions.
    pub fn lose_sessions(&self) {
        self.world().sessions.clear();
    }

    /// The only experiment.
    #[track_caller]
    pub fn experiment(&self) -> Experiment {
        let world = self.world();
        assert_eq!(world.violations, Vec::<String>::new());
        assert_eq!(world.experiments.len(), 1, "{:?}", world.requests);
        world.experiments.values().next().unwrap().clone()
    }

    /// Waits until something is so.
    #[track_caller]
    pub fn wait(&self, what: &str, so: impl Fn(&World) -> bool) {
        let until = Instant::now() + Duration::from_secs(20);
        while !so(&self.world()) {
            assert!(
                Instant::now() < until,
                "{what} did not happen: {:?}",
                self.world().requests
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

fn answer(world: &Mutex<World>, base: &str, request: &Request) -> http::Answer {
    let mut world = world.lock().unwrap();
    let line = format!("{} {}", request.method, request.path);
    world.requests.push(line.clone());
    let mut found = None;
    for (part, fault, left) in &mut world.faults {
        if *left > 0 && line.contains(part.as_str()) {
            *left -= 1;
            found = Some(*fault);
            break;
        }
    }
    match found {
        Some(Fault::Status(status)) => http::Answer::json(
            status,
            serde_json::json!({"code": "INJECTED", "message": "injected failure"}),
        ),
        Some(Fault::Cut) => http::Answer::Cut,
        Some(Fault::Endless) => http::Answer::Endless,
        Some(Fault::Lost) => {
            routes::route(&mut world, base, request);
            http::Answer::Cut
        }
        Some(Fault::Slow(time)) => {
            let answer = routes::route(&mut world, base, request);
            drop(world);
            std::thread::sleep(time);
            answer
        }
        None => routes::route(&mut world, base, request),
    }
}
