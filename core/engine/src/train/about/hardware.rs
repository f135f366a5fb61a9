//! The machine of a run: what it is, and what it is doing.

use nvml_wrapper::Nvml;
use nvml_wrapper::enum_wrappers::device::TemperatureSensor;
use serde_json::{Map, Value, json};
use std::path::Path;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::Duration;
use sysinfo::{
    CpuRefreshKind, MemoryRefreshKind, Pid, ProcessRefreshKind, ProcessesToUpdate, System,
};

const MIB: f64 = 1024.0 * 1024.0;
const GIB: f64 = MIB * 1024.0;

/// The machine, as [`RunInfo`](apus_sdk::RunInfo) describes it.
pub fn describe() -> Map<String, Value> {
    let mut system = System::new();
    system.refresh_cpu_list(CpuRefreshKind::nothing());
    system.refresh_memory_specifics(MemoryRefreshKind::nothing().with_ram());
    let brand = system
        .cpus()
        .first()
        .map(|cpu| cpu.brand().trim().to_owned());
    let mut found = Map::new();
    if let Some(name) = System::host_name() {
        found.insert("hostname".to_owned(), name.into());
    }
    found.insert(
        "cpu".to_owned(),
        json!({
            "brand": brand,
            "physical_count": System::physical_core_count(),
            "logical_count": system.cpus().len(),
        }),
    );
    found.insert(
        "memory_gib".to_owned(),
        json!(rounded(system.total_memory() as f64 / GIB)),
    );
    if let Some(nvml) = nvml() {
        let count = nvml.device_count().unwrap_or(0);
        let cards: Vec<Value> = (0..count)
            .filter_map(|index| {
                let card = nvml.device_by_index(index).ok()?;
                let memory = card.memory_info().ok()?.total;
                Some(json!({
                    "index": index,
                    "name": card.name().ok()?,
                    "memory_gib": rounded(memory as f64 / GIB),
                }))
            })
            .collect();
        found.insert("accelerators".to_owned(), json!(cards));
        if let Ok(version) = nvml.sys_driver_version() {
            found.insert("driver".to_owned(), version.into());
        }
    }
    found
}

/// Time between two measurements of the machine.
const LOOK: Duration = Duration::from_secs(10);

/// Measures the machine every ten seconds on a thread of its own, until it is dropped.
pub struct Watch(#[expect(dead_code, reason = "dropping it ends the thread")] Sender<()>);

impl Watch {
    /// Hands what is measured to `act`; `card` is the address of the run's card on the bus. Nothing is measured where no
    /// thread can be had.
    pub fn start(
        card: Option<String>,
        mut act: impl FnMut(Map<String, Value>) + Send + 'static,
    ) -> Option<Self> {
        let (looking, ended) = channel::<()>();
        let look = move || {
            // Here, since opening the driver's library takes its time.
            let mut meter = Meter::new(card);
            while ended.recv_timeout(LOOK) == Err(RecvTimeoutError::Timeout) {
                act(meter.read());
            }
        };
        let spawned = std::thread::Builder::new()
            .name("machine".to_owned())
            .spawn(look);
        spawned.is_ok().then_some(Self(looking))
    }
}

/// Measures the machine again and again.
pub struct Meter {
    system: System,
    pid: Pid,
    nvml: Option<Nvml>,
    card: Option<String>,
}

impl Meter {
    /// A meter; `card` is the address of the run's card on the bus, if it has one.
    pub fn new(card: Option<String>) -> Self {
        let mut meter = Self {
            system: System::new(),
            pid: Pid::from_u32(std::process::id()),
            nvml: card.as_ref().and_then(|_| nvml()),
            card,
        };
        // Shares of the processors' time are those since the last measurement.
        meter.system.refresh_cpu_usage();
        meter
    }

    /// The numbers of now, as [`Tracker::system`](apus_sdk::Tracker::system) names them.
    pub fn read(&mut self) -> Map<String, Value> {
        self.system.refresh_cpu_usage();
        self.system
            .refresh_memory_specifics(MemoryRefreshKind::nothing().with_ram());
        self.system.refresh_processes_specifics(
            ProcessesToUpdate::Some(&[self.pid]),
            true,
            ProcessRefreshKind::nothing().with_memory(),
        );
        let mut values = Map::new();
        let mut put = |name: &str, value: f64| {
            values.insert(name.to_owned(), json!(rounded(value)));
        };
        let (total, available) = (self.system.total_memory(), self.system.available_memory());
        put("cpu.pct", f64::from(self.system.global_cpu_usage()));
        if let Some(count) = threads() {
            put("cpu.threads", count);
        }
        let share = |bytes: u64| 100.0 * bytes as f64 / total.max(1) as f64;
        put("mem.pct", share(total.saturating_sub(available)));
        if let Some(process) = self.system.process(self.pid) {
            put("mem.process_mib", process.memory() as f64 / MIB);
            put("mem.process_pct", share(process.memory()));
        }
        put("mem.available_mib", available as f64 / MIB);
        self.read_card(&mut put);
        values
    }

    fn read_card(&self, put: &mut impl FnMut(&str, f64)) {
        let (Some(nvml), Some(address)) = (&self.nvml, &self.card) else {
            return;
        };
        let Ok(card) = nvml.device_by_pci_bus_id(address.as_str()) else {
            return;
        };
        let index = card.index().unwrap_or(0);
        let mut put = |name: &str, value: f64| put(&format!("gpu.{index}.{name}"), value);
        if let Ok(used) = card.utilization_rates() {
            put("pct", f64::from(used.gpu));
        }
        if let Ok(memory) = card.memory_info() {
            put(
                "mem_pct",
                100.0 * memory.used as f64 / memory.total.max(1) as f64,
            );
            put("mem_mib", memory.used as f64 / MIB);
        }
        if let Ok(degrees) = card.temperature(TemperatureSensor::Gpu) {
            put("temp", f64::from(degrees));
        }
        if let Ok(milliwatts) = card.power_usage() {
            put("power", f64::from(milliwatts) / 1000.0);
        }
    }
}

/// The driver's library, if there is one. `libnvidia-ml.so` alone comes with development packages.
fn nvml() -> Option<Nvml> {
    let named = Nvml::builder()
        .lib_path(Path::new("libnvidia-ml.so.1").as_os_str())
        .init();
    named.or_else(|_| Nvml::init()).ok()
}

/// Threads of this process, where the system tells.
fn threads() -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("Threads:"))?;
    line.trim().parse().ok()
}

fn rounded(value: f64) -> f64 {
    (value * 100.0).round() / 100.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_has_processors_and_memory() {
        let found = describe();
        assert!(found["cpu"]["logical_count"].as_u64().unwrap() >= 1);
        assert!(found["memory_gib"].as_f64().unwrap() > 0.1);
        let values = Meter::new(None).read();
        assert!((0.0..=100.0).contains(&values["cpu.pct"].as_f64().unwrap()));
        assert!(values["mem.process_mib"].as_f64().unwrap() > 1.0);
        assert!((0.0..=100.0).contains(&values["mem.pct"].as_f64().unwrap()));
        assert!(!values.keys().any(|key| key.starts_with("gpu")));
    }
}
