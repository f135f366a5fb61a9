//! Which rank this process is, as whoever started it says by environment variables.
//!
//! torchrun, ms-swift, mpirun and srun each have names of their own for the same few numbers. Variables that say only a
//! part are an error and not a guess: a rank that takes itself for a whole run trains on other data than was meant.

use crate::hostlist;
use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};
use std::fmt;

/// The port of ms-swift and torchrun where none is given.
pub const DEFAULT_PORT: u16 = 29500;

/// Who started this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Launcher {
    /// `NPROC_PER_NODE=N apus ...`.
    Apus,
    /// torchrun, or another launcher that sets its variables.
    Torchrun,
    /// mpirun of Open MPI.
    Mpirun,
    /// srun of Slurm.
    Srun,
}

impl fmt::Display for Launcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Apus => "NPROC_PER_NODE",
            Self::Torchrun => "torchrun",
            Self::Mpirun => "mpirun",
            Self::Srun => "srun",
        })
    }
}

/// A process among the ranks of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// From 0; rank 0 reports and saves.
    pub rank: usize,
    /// How many ranks there are.
    pub size: usize,
    /// The rank among those of this host, which is the card that it takes.
    pub local_rank: usize,
    /// Host and port at which rank 0 listens; none where the launcher does not tell, as mpirun.
    pub master: Option<(String, u16)>,
    /// Who started it.
    pub launcher: Launcher,
}

/// Ranks that this process has to start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Children {
    /// How many on this host (`NPROC_PER_NODE`).
    pub local: usize,
    /// The first of their ranks.
    pub first: usize,
    /// How many ranks there are on all hosts.
    pub size: usize,
    /// Host and port at which rank 0 listens; no port for one that is free.
    pub master: (String, Option<u16>),
}

/// What the environment makes of this process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Role {
    /// The whole run.
    Alone,
    /// It starts ranks and waits for them.
    Launcher(Children),
    /// One of the ranks.
    Rank(Place),
}

/// The variable that this program's launcher sets for its children.
pub const LAUNCHED: &str = "APUS_LAUNCHED";

/// Reads the environment.
///
/// # Errors
/// Variables that say only a part, contradict each other, or are no numbers; the error names them and says what each
/// launcher sets.
pub fn role() -> Result<Role> {
    role_from(&|name| std::env::var(name).ok().filter(|value| !value.is_empty()))
}

/// As [`role`], from these variables.
pub fn role_from(get: &dyn Fn(&str) -> Option<String>) -> Result<Role> {
    let vars = Variables { get };
    if vars.any(&["RANK", "WORLD_SIZE", "LOCAL_RANK"]) {
        return vars.torchrun().map(alone_or_rank);
    }
    if vars.is_set("OMPI_COMM_WORLD_RANK") {
        return vars.mpirun().map(alone_or_rank);
    }
    // A batch script has SLURM_PROCID and SLURM_NTASKS too, though it is one process: only a step has an id.
    if vars.is_set("SLURM_PROCID") && vars.is_set("SLURM_STEP_ID") {
        return vars.srun().map(alone_or_rank);
    }
    vars.children()
}

/// A single rank is a run as any other.
fn alone_or_rank(place: Place) -> Role {
    match place.size {
        1 => Role::Alone,
        _ => Role::Rank(place),
    }
}

struct Variables<'a> {
    get: &'a dyn Fn(&str) -> Option<String>,
}

impl Variables<'_> {
    fn is_set(&self, name: &str) -> bool {
        (self.get)(name).is_some()
    }

    fn any(&self, names: &[&str]) -> bool {
        names.iter().any(|name| self.is_set(name))
    }

    fn number(&self, name: &str) -> Result<Option<usize>> {
        let Some(text) = (self.get)(name) else {
            return Ok(None);
        };
        let number = text.trim().parse();
        number
            .map(Some)
            .with_context(|| format!("{name} is {text:?}, expected a whole number of 0 or more"))
    }

    /// These numbers, all of which `launcher` sets.
    fn all<const N: usize>(&self, launcher: Launcher, names: [&str; N]) -> Result<[usize; N]> {
        let missing: Vec<&str> = names
            .into_iter()
            .filter(|name| !self.is_set(name))
            .collect();
        if !missing.is_empty() {
            let set: Vec<&str> = names.into_iter().filter(|name| self.is_set(name)).collect();
            bail!(
                "{} {} set and {} {} not, where {launcher} sets {}: start all ranks by one launcher, or unset {}",
                set.join(", "),
                verb(&set),
                missing.join(", "),
                verb(&missing),
                names.join(", "),
                set.join(", ")
            );
        }
        let mut numbers = [0; N];
        for (number, name) in numbers.iter_mut().zip(names) {
            *number = self.number(name)?.unwrap_or_default();
        }
        Ok(numbers)
    }

    fn master(&self) -> Result<Option<(String, u16)>> {
        let port = self.port()?.unwrap_or(DEFAULT_PORT);
        Ok((self.get)("MASTER_ADDR").map(|host| (host, port)))
    }

    fn port(&self) -> Result<Option<u16>> {
        let Some(port) = self.number("MASTER_PORT")? else {
            return Ok(None);
        };
        let port = u16::try_from(port).ok().filter(|&port| port > 0);
        port.map(Some).with_context(|| {
            format!(
                "MASTER_PORT is {:?}, expected 1 to 65535",
                (self.get)("MASTER_PORT")
            )
        })
    }

    /// The variables of torchrun, which this program's own launcher sets too.
    fn torchrun(&self) -> Result<Place> {
        let launcher = match self.is_set(LAUNCHED) {
            true => Launcher::Apus,
            false => Launcher::Torchrun,
        };
        let [rank, size, local_rank] = self.all(launcher, ["RANK", "WORLD_SIZE", "LOCAL_RANK"])?;
        let master = self.master()?.with_context(|| {
            format!("RANK is set and MASTER_ADDR is not, where {launcher} sets both: rank 0 listens there")
        })?;
        // torchrun's agent listens at MASTER_PORT itself and says so by this variable.
        let held = (self.get)("TORCHELASTIC_USE_AGENT_STORE").is_some_and(|held| held == "True");
        let master = match held {
            true => (master.0, next_port(master.1)?),
            false => master,
        };
        checked(
            Place {
                rank,
                size,
                local_rank,
                master: Some(master),
                launcher,
            },
            "RANK",
            "WORLD_SIZE",
        )
    }

    fn mpirun(&self) -> Result<Place> {
        let names = [
            "OMPI_COMM_WORLD_RANK",
            "OMPI_COMM_WORLD_SIZE",
            "OMPI_COMM_WORLD_LOCAL_RANK",
        ];
        let [rank, size, local_rank] = self.all(Launcher::Mpirun, names)?;
        let place = Place {
            rank,
            size,
            local_rank,
            master: self.master()?,
            launcher: Launcher::Mpirun,
        };
        checked(place, names[0], names[1])
    }

    fn srun(&self) -> Result<Place> {
        let names = ["SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID"];
        let [rank, size, local_rank] = self.all(Launcher::Srun, names)?;
        let master = match self.master()? {
            Some(master) => Some(master),
            None => self.first_node()?,
        };
        let place = Place {
            rank,
            size,
            local_rank,
            master,
            launcher: Launcher::Srun,
        };
        checked(place, names[0], names[1])
    }

    /// The first node of a Slurm step, at a port by the job, so that two jobs of one node do not meet.
    fn first_node(&self) -> Result<Option<(String, u16)>> {
        let names = ["SLURM_STEP_NODELIST", "SLURM_JOB_NODELIST"];
        let Some(list) = names.iter().find_map(|name| (self.get)(name)) else {
            return Ok(None);
        };
        let host = hostlist::first(&list).with_context(|| {
            format!("SLURM_STEP_NODELIST is {list:?}, expected hosts as Slurm writes them")
        })?;
        let job = self.number("SLURM_JOB_ID")?.unwrap_or_default();
        let port = match self.port()? {
            Some(port) => port,
            None => DEFAULT_PORT + u16::try_from(job % 10_000)?,
        };
        Ok(Some((host, port)))
    }

    /// The variables of ms-swift, by which a process starts ranks.
    fn children(&self) -> Result<Role> {
        let local = self.number("NPROC_PER_NODE")?.unwrap_or(1);
        let nodes = self.number("NNODES")?.unwrap_or(1);
        let node = self.number("NODE_RANK")?.unwrap_or(0);
        ensure!(
            local > 0,
            "NPROC_PER_NODE is 0, expected the number of processes on this host"
        );
        ensure!(nodes > 0, "NNODES is 0, expected the number of hosts");
        ensure!(
            node < nodes,
            "NODE_RANK is {node} and NNODES is {nodes}, expected a rank from 0 to {}",
            nodes - 1
        );
        let size = local
            .checked_mul(nodes)
            .context("NPROC_PER_NODE times NNODES is too large")?;
        if size == 1 {
            return Ok(Role::Alone);
        }
        let port = self.port()?;
        let master = match ((self.get)("MASTER_ADDR"), nodes) {
            (Some(host), 1) => (host, port),
            (None, 1) => ("127.0.0.1".to_owned(), port),
            (Some(host), _) => (host, Some(port.unwrap_or(DEFAULT_PORT))),
            (None, _) => bail!(
                "NNODES is {nodes} and MASTER_ADDR is not set: give every host the address of the one with NODE_RANK 0"
            ),
        };
        ensure!(
            nodes == 1 || self.is_set("NODE_RANK"),
            "NNODES is {nodes} and NODE_RANK is not set: give each host its rank, from 0 to {}",
            nodes - 1
        );
        Ok(Role::Launcher(Children {
            local,
            first: local * node,
            size,
            master,
        }))
    }
}

fn verb(names: &[&str]) -> &'static str {
    match names.len() {
        1 => "is",
        _ => "are",
    }
}

fn next_port(port: u16) -> Result<u16> {
    port.checked_add(1)
        .context("MASTER_PORT is 65535, which torchrun holds: the port after it is used, so choose a lower one")
}

fn checked(place: Place, rank: &str, size: &str) -> Result<Place> {
    ensure!(place.size > 0, "{size} is 0, expected the number of ranks");
    ensure!(
        place.rank < place.size,
        "{rank} is {} and {size} is {}, expected a rank from 0 to {}",
        place.rank,
        place.size,
        place.size - 1
    );
    ensure!(
        place.local_rank <= place.rank,
        "the local rank is {} and {rank} is {}: a rank on its host is never the greater",
        place.local_rank,
        place.rank
    );
    Ok(place)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn role_of(text: &str) -> Result<Role> {
        let vars: Vec<(&str, &str)> = text
            .split_whitespace()
            .filter_map(|pair| pair.split_once('='))
            .collect();
        role_from(&|name| {
            let found = vars.iter().find(|(key, _)| *key == name);
            found.map(|(_, value)| (*value).to_owned())
        })
    }

    fn rank(text: &str) -> Place {
        match role_of(text).unwrap() {
            Role::Rank(place) => place,
            other => panic!("{text}: {other:?}"),
        }
    }

    fn place(numbers: [usize; 3], master: Option<(&str, u16)>, launcher: Launcher) -> Place {
        let [rank, size, local_rank] = numbers;
        let master = master.map(|(host, port)| (host.to_owned(), port));
        Place {
            rank,
            size,
            local_rank,
            master,
            launcher,
        }
    }

    #[test]
    fn every_launcher_tells_the_rank() {
        let torchrun = "RANK=5 LOCAL_RANK=1 WORLD_SIZE=8 MASTER_ADDR=h MASTER_PORT=4000";
        let at = |port| place([5, 8, 1], Some(("h", port)), Launcher::Torchrun);
        assert_eq!(rank(torchrun), at(4000));
        assert_eq!(
            rank(&format!("{torchrun} TORCHELASTIC_USE_AGENT_STORE=True")),
            at(4001)
        );
        let launched = place([5, 8, 1], Some(("h", 4000)), Launcher::Apus);
        assert_eq!(
            rank(&format!("{torchrun} APUS_LAUNCHED=1 NPROC_PER_NODE=2")),
            launched
        );

        let mpirun = "OMPI_COMM_WORLD_RANK=1 OMPI_COMM_WORLD_SIZE=2 OMPI_COMM_WORLD_LOCAL_RANK=0";
        assert_eq!(rank(mpirun), place([1, 2, 0], None, Launcher::Mpirun));

        let srun = "SLURM_PROCID=2 SLURM_NTASKS=4 SLURM_LOCALID=0 SLURM_STEP_ID=0 SLURM_JOB_ID=120007 SLURM_STEP_NODELIST=gpu[03-04,9]";
        assert_eq!(
            rank(srun),
            place([2, 4, 0], Some(("gpu03", 29507)), Launcher::Srun)
        );
    }

    #[test]
    fn a_process_may_be_the_whole_run_or_start_the_ranks() {
        for alone in [
            "",
            "NPROC_PER_NODE=1",
            "RANK=0 LOCAL_RANK=0 WORLD_SIZE=1 MASTER_ADDR=h MASTER_PORT=1",
            // A batch script of Slurm is one process.
            "SLURM_PROCID=0 SLURM_NTASKS=4 SLURM_LOCALID=0 SLURM_JOB_ID=1",
        ] {
            assert_eq!(role_of(alone).unwrap(), Role::Alone, "{alone}");
        }
        let children = |local, first, size, host: &str, port| {
            Role::Launcher(Children {
                local,
                first,
                size,
                master: (host.to_owned(), port),
            })
        };
        assert_eq!(
            role_of("NPROC_PER_NODE=4").unwrap(),
            children(4, 0, 4, "127.0.0.1", None)
        );
        assert_eq!(
            role_of("NPROC_PER_NODE=4 NNODES=2 NODE_RANK=1 MASTER_ADDR=a").unwrap(),
            children(4, 4, 8, "a", Some(29500))
        );
    }

    #[test]
    fn what_says_only_a_part_is_refused() {
        for (vars, says) in [
            (
                "RANK=0",
                "RANK is set and WORLD_SIZE, LOCAL_RANK are not, where torchrun sets",
            ),
            ("RANK=0 WORLD_SIZE=2 LOCAL_RANK=0", "MASTER_ADDR is not"),
            (
                "RANK=2 WORLD_SIZE=2 LOCAL_RANK=0 MASTER_ADDR=a",
                "RANK is 2 and WORLD_SIZE is 2",
            ),
            (
                "RANK=x WORLD_SIZE=2 LOCAL_RANK=0 MASTER_ADDR=a",
                "RANK is \"x\"",
            ),
            (
                "RANK=0 WORLD_SIZE=2 LOCAL_RANK=0 MASTER_ADDR=a MASTER_PORT=0",
                "expected 1 to 65535",
            ),
            (
                "RANK=0 WORLD_SIZE=2 LOCAL_RANK=1 MASTER_ADDR=a",
                "the local rank is 1",
            ),
            ("OMPI_COMM_WORLD_RANK=0", "where mpirun sets"),
            ("NPROC_PER_NODE=0", "NPROC_PER_NODE is 0"),
            ("NPROC_PER_NODE=-1", "NPROC_PER_NODE is \"-1\""),
            ("NNODES=2", "MASTER_ADDR is not set"),
            ("NNODES=2 MASTER_ADDR=a", "NODE_RANK is not set"),
            ("NNODES=2 NODE_RANK=2 MASTER_ADDR=a", "NODE_RANK is 2"),
        ] {
            let error = role_of(vars).unwrap_err().to_string();
            assert!(error.contains(says), "{vars}: {error}");
        }
    }
}
