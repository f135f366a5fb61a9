//! The machines of all ranks: each measures its own, and rank 0 puts their numbers under names that tell them apart.

use super::hardware::Watch;
use apus_world::control::Reports;
use apus_world::rendezvous::Hello;
use serde_json::{Map, Value, json};
use std::collections::HashSet;

/// What the other ranks measure, as it reaches rank 0.
#[derive(Clone)]
pub struct OtherMachines {
    ranks: Vec<Hello>,
    reports: Reports,
}

/// Numbers of a host that rank 0's names can be given to as well. Those of a process are named by its rank.
const OF_A_HOST: [&str; 3] = ["cpu.pct", "mem.pct", "mem.available_mib"];

impl OtherMachines {
    /// Those of these ranks, by rank.
    pub fn new(ranks: &[Hello], reports: Reports) -> Self {
        Self {
            ranks: ranks.to_vec(),
            reports,
        }
    }

    /// Adds what the other ranks have measured last to what rank 0 has measured.
    pub fn add_to(&self, values: &mut Map<String, Value>) {
        let newest = self.reports.newest();
        let read = |bytes: &Vec<u8>| serde_json::from_slice(bytes).unwrap_or_default();
        let measured: Vec<Map<String, Value>> = newest.iter().map(read).collect();
        add(values, &self.ranks, &measured);
    }

    /// The ranks, as [`RunInfo::hardware`](apus_sdk::RunInfo) has them.
    pub fn described(&self) -> Value {
        let described = |rank: &Hello| json!({"rank": rank.rank, "host": rank.host, "pid": rank.pid, "card": rank.card});
        self.ranks.iter().map(described).collect()
    }
}

/// Tells rank 0 every ten seconds what the machine of this rank does, until this is dropped.
pub fn tell(card: Option<String>, reports: Reports) -> Option<Watch> {
    Watch::start(card, move |values| {
        if let Ok(bytes) = serde_json::to_vec(&values) {
            reports.send(bytes);
        }
    })
}

/// `values` are those of rank 0, `measured` those of all ranks.
fn add(values: &mut Map<String, Value>, ranks: &[Hello], measured: &[Map<String, Value>]) {
    let Some(own) = ranks.first() else { return };
    let mut hosts = HashSet::from([own.host.as_str()]);
    for (rank, measured) in ranks.iter().zip(measured).skip(1) {
        let is_first = !measured.is_empty() && hosts.insert(&rank.host);
        let of_its_host = |name: &str| match rank.host == own.host {
            true => name.to_owned(),
            false => format!("{}/{name}", rank.host),
        };
        for (name, value) in measured {
            let name = match name.as_str() {
                "mem.process_mib" => format!("rank.{}.process_mib", rank.rank),
                card if card.starts_with("gpu.") => of_its_host(card),
                host if is_first && OF_A_HOST.contains(&host) => of_its_host(host),
                _ => continue,
            };
            values.insert(name, value.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rank(rank: usize, host: &str) -> Hello {
        Hello {
            version: String::new(),
            rank,
            size: 4,
            host: host.to_owned(),
            pid: 1,
            card: None,
        }
    }

    #[test]
    fn every_card_of_every_host_has_a_name_of_its_own() {
        let measured = |card: usize, value: usize| {
            let Value::Object(values) = json!({"cpu.pct": value, "cpu.threads": 9, "mem.process_mib": value,
                format!("gpu.{card}.pct"): value, format!("gpu.{card}.power"): value})
            else {
                unreachable!()
            };
            values
        };
        let ranks = [
            rank(0, "a"),
            rank(1, "a"),
            rank(2, "b.lab"),
            rank(3, "b.lab"),
        ];
        let all = [
            measured(0, 0),
            measured(1, 1),
            measured(0, 2),
            measured(1, 3),
        ];
        let mut values = all[0].clone();
        add(&mut values, &ranks, &all);
        assert_eq!(
            Value::Object(values),
            json!({
                "cpu.pct": 0, "cpu.threads": 9, "mem.process_mib": 0, "gpu.0.pct": 0, "gpu.0.power": 0,
                "rank.1.process_mib": 1, "gpu.1.pct": 1, "gpu.1.power": 1,
                "b.lab/cpu.pct": 2, "rank.2.process_mib": 2, "b.lab/gpu.0.pct": 2, "b.lab/gpu.0.power": 2,
                "rank.3.process_mib": 3, "b.lab/gpu.1.pct": 3, "b.lab/gpu.1.power": 3,
            })
        );
        // One that has not told anything yet is left out, and another one of its host speaks for it.
        let mut values = all[0].clone();
        add(
            &mut values,
            &ranks,
            &[Map::new(), Map::new(), Map::new(), all[3].clone()],
        );
        let later: Vec<&str> = values.keys().skip(5).map(String::as_str).collect();
        assert_eq!(
            later,
            [
                "b.lab/cpu.pct",
                "rank.3.process_mib",
                "b.lab/gpu.1.pct",
                "b.lab/gpu.1.power"
            ]
        );
    }
}
