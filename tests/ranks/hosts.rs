//! Two hosts that are network namespaces, joined by a pair of virtual interfaces: ranks find each other by `MASTER_ADDR`, train,
//! and end when the link between them goes. Needs the rights for namespaces; without them the test says that it was skipped.
#![cfg(target_os = "linux")]

use crate::common::training::{checkpoints, said};
use crate::processes::{Part, processes};
use crate::runs::{ranks, same, trains, wait_for};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Two hosts, which are gone when this is dropped.
struct Hosts {
    names: [String; 2],
    links: [String; 2],
    /// What mpirun starts its daemon on the second host by, in place of ssh.
    agent: PathBuf,
}

const ADDRESSES: [&str; 2] = ["10.213.77.1", "10.213.77.2"];

fn ip(line: &str) -> bool {
    let mut command = Command::new("ip");
    command.args(line.split_whitespace()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

impl Hosts {
    /// None where this user may not have them.
    fn new(dir: &Path) -> Option<Self> {
        let id = std::process::id();
        let hosts = Self {
            names: ["a", "b"].map(|host| format!("apus-{host}-{id}")),
            links: ["a", "b"].map(|host| format!("ap{host}{id}")),
            agent: dir.join("agent"),
        };
        let ([a, b], [link_a, link_b]) = (&hosts.names, &hosts.links);
        let made = ip(&format!("netns add {a}"))
            && ip(&format!("netns add {b}"))
            && ip(&format!(
                "link add {link_a} netns {a} type veth peer name {link_b} netns {b}"
            ));
        if !made {
            return None;
        }
        for ((host, link), address) in hosts.names.iter().zip(&hosts.links).zip(ADDRESSES) {
            for line in [
                format!("addr add {address}/24 dev {link}"),
                format!("link set {link} up"),
                "link set lo up".to_owned(),
            ] {
                assert!(ip(&format!("-n {host} {line}")), "{line}");
            }
        }
        let script = format!(
            "#!/bin/sh\nshift\nexec ip netns exec {b} unshare --uts sh -c 'hostname apus-b; exec sh -c \"$0\"' \"$*\"\n"
        );
        fs::write(&hosts.agent, script).unwrap();
        fs::set_permissions(&hosts.agent, fs::Permissions::from_mode(0o755)).unwrap();
        Some(hosts)
    }

    /// A rank on each of them, started from the first.
    fn train(&self, run: &Path, flags: &str) -> Child {
        let network = "10.213.77.0/24";
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.names[0], "mpirun"]);
        command.args([
            "--allow-run-as-root",
            "--bind-to",
            "none",
            "-np",
            "2",
            "--host",
        ]);
        command.arg(ADDRESSES.map(|address| format!("{address}:1")).join(","));
        for (name, value) in [
            ("plm_rsh_agent", self.agent.to_str().unwrap()),
            ("oob_tcp_if_include", network),
            ("btl_tcp_if_include", network),
            ("btl", "tcp,self"),
        ] {
            command.args(["--mca", name, value]);
        }
        command.args(["-x", "RAYON_NUM_THREADS=1", "-x", "MASTER_PORT=29555", "-x"]);
        command.arg(format!("MASTER_ADDR={}", ADDRESSES[0]));
        let program = ranks(run, 1, flags);
        command.arg(program.get_program()).args(program.get_args());
        command.stdout(Stdio::null()).stderr(Stdio::piped());
        command.spawn().unwrap()
    }
}

impl Drop for Hosts {
    fn drop(&mut self) {
        for name in &self.names {
            // Open MPI's daemon on the second host is told nothing any more when the link is gone.
            let pids = Command::new("ip").args(["netns", "pids", name]).output();
            let pids = pids.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
            for pid in pids.unwrap_or_default().split_whitespace() {
                if let Some(pid) = pid.parse().ok().and_then(rustix::process::Pid::from_raw) {
                    let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
                }
            }
            ip(&format!("netns del {name}"));
        }
    }
}

fn live_ranks(run: &Path) -> usize {
    let all = processes(run).into_iter();
    all.filter(|(_, part)| matches!(part, Part::Rank(_)))
        .count()
}

#[test]
fn two_hosts_train_and_end_when_the_link_goes() {
    let dir = tempfile::tempdir().unwrap();
    let Some(hosts) = Hosts::new(dir.path()) else {
        println!("skipped: this user may not make network namespaces");
        return;
    };
    let (one, two) = (dir.path().join("one"), dir.path().join("two"));
    let flags =
        |accumulation| format!("--gradient_accumulation_steps {accumulation} --max_steps 3");
    trains(&mut ranks(&one, 1, &flags(4)));
    let output = hosts.train(&two, &flags(2)).wait_with_output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
    same("two hosts", &one, &two);

    let run = dir.path().join("cut");
    let endless = "--gradient_accumulation_steps 2 --max_steps 100000 --save_total_limit 1";
    let mut child = hosts.train(&run, endless);
    wait_for(&run.join("checkpoint-2"));
    assert_eq!(live_ranks(&run), 2);
    assert!(ip(&format!(
        "-n {} link set {} down",
        hosts.names[0], hosts.links[0]
    )));
    let since = Instant::now();
    while live_ranks(&run) > 0 {
        assert!(
            since.elapsed() < Duration::from_secs(30),
            "ranks live on without a link"
        );
        std::thread::sleep(Duration::from_millis(50));
    }
    println!(
        "without a link all ranks had ended after {:?}",
        since.elapsed()
    );
    // mpirun itself waits for its daemon on the other host for minutes.
    let _ = child.kill();
    drop(hosts);
    let said = said(&child.wait_with_output().unwrap());
    for part in [
        "rank 1 (host apus-b, process ",
        "gave no sign of life for 2",
        "The newest checkpoint is ",
    ] {
        assert!(said.contains(part), "{part:?} not in: {said}");
    }
    assert_eq!(checkpoints(&run).len(), 1);
}
