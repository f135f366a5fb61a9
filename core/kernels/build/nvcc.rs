//! Compiles each module of kernels to one fatbin: machine code for every generation of cards from compute capability
//! 8.0 on, and PTX for compute capability 8.0, which the driver compiles on cards that came later. Modules for what
//! only Hopper (9.0) has instructions for are machine code for that card alone.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

const MODULES: [&str; 13] = [
    "rms_norm",
    "rope",
    "route",
    "router",
    "lora",
    "permute",
    "bias",
    "swiglu",
    "mxfp4",
    "cross_entropy",
    "random",
    "adamw",
    "reduce",
];
const HEAD_DIMS: [u32; 4] = [16, 32, 64, 128];
/// Cards with machine code of their own; `APUS_CUDA_ARCHS` overrides.
const CARDS: &str = "80,86,89,90,100,120";
const LEAST: &str = "compute_80";
const HOPPER: &str = "90a";

/// Writes `<module>.fatbin` into `out` for every module, several at a time.
pub fn compile_all(out: &Path) -> Result<(), String> {
    for variable in ["NVCC", "CUDA_HOME", "CUDA_PATH", "PATH", "APUS_CUDA_ARCHS"] {
        println!("cargo:rerun-if-env-changed={variable}");
    }
    let nvcc = find()?;
    let targets = targets(&std::env::var("APUS_CUDA_ARCHS").unwrap_or_else(|_| CARDS.into()))?;
    let hopper = [machine_code(HOPPER)];
    let mut jobs = vec![
        Job::new(
            "attention_d64_hopper",
            "attention_hopper",
            &hopper,
            &["-DHEAD_DIM=64", "-DHOPPER"],
        ),
        Job::new("product_hopper", "product_hopper", &hopper, &[]),
    ];
    jobs.extend(HEAD_DIMS.map(|dim| {
        Job::new(
            &format!("attention_d{dim}"),
            "attention",
            &targets,
            &[&format!("-DHEAD_DIM={dim}")],
        )
    }));
    jobs.extend(MODULES.map(|name| Job::new(name, name, &targets, &[])));
    let queue = Mutex::new(jobs.into_iter());
    let next = || queue.lock().ok().and_then(|mut jobs| jobs.next());
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get().min(8));
    std::thread::scope(|scope| {
        let worker = || {
            while let Some(job) = next() {
                job.compile(&nvcc, out)?;
            }
            Ok(())
        };
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(worker)).collect();
        workers.into_iter().try_for_each(|worker| {
            worker
                .join()
                .map_err(|_| "a compiling thread panicked".to_string())?
        })
    })
}

/// Machine code for each of a list like `80,90`, and the PTX for all others.
fn targets(cards: &str) -> Result<Vec<String>, String> {
    let mut targets = vec![format!("arch={LEAST},code={LEAST}")];
    for card in cards
        .split(',')
        .map(str::trim)
        .filter(|card| !card.is_empty())
    {
        if card.parse::<u32>().is_err() {
            return Err(format!(
                "APUS_CUDA_ARCHS is {cards:?}, expected compute capabilities without their dots, such as {CARDS}"
            ));
        }
        targets.push(machine_code(card));
    }
    Ok(targets)
}

fn machine_code(card: &str) -> String {
    format!("arch=compute_{card},code=sm_{card}")
}

struct Job {
    fatbin: String,
    arguments: Vec<String>,
}

impl Job {
    fn new(module: &str, source: &str, targets: &[String], defines: &[&str]) -> Job {
        let mut arguments = vec![format!("src/{source}.cu")];
        for target in targets {
            arguments.extend(["-gencode".into(), target.clone()]);
        }
        arguments.extend(defines.iter().map(|define| define.to_string()));
        Job {
            fatbin: format!("{module}.fatbin"),
            arguments,
        }
    }

    fn compile(&self, nvcc: &Path, out: &Path) -> Result<(), String> {
        let mut command = Command::new(nvcc);
        command
            .args(["-fatbin", "-O3", "-std=c++17", "--compress-mode=size"])
            .args(&self.arguments)
            .arg("-o")
            .arg(out.join(&self.fatbin));
        let output = command
            .output()
            .map_err(|error| format!("cannot run {}: {error}", nvcc.display()))?;
        if output.status.success() {
            return Ok(());
        }
        let said = [output.stdout, output.stderr].concat();
        Err(format!(
            "nvcc failed ({}): {command:?}\n{}",
            output.status,
            String::from_utf8_lossy(&said)
        ))
    }
}

/// The compiler: `NVCC` itself, else `bin/nvcc` under `CUDA_HOME` or `CUDA_PATH`, else on `PATH`, else /usr/local/cuda.
fn find() -> Result<PathBuf, String> {
    let name = if cfg!(windows) { "nvcc.exe" } else { "nvcc" };
    let given = std::env::var_os("NVCC").map(PathBuf::from);
    let roots = ["CUDA_HOME", "CUDA_PATH"]
        .into_iter()
        .filter_map(std::env::var_os)
        .map(|root| PathBuf::from(root).join("bin").join(name));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let on_path: Vec<PathBuf> = std::env::split_paths(&path)
        .map(|folder| folder.join(name))
        .collect();
    let usual = PathBuf::from("/usr/local/cuda/bin").join(name);
    given.into_iter().chain(roots).chain(on_path).chain([usual]).find(|nvcc| nvcc.is_file()).ok_or_else(|| {
        "feature `cuda` needs nvcc, the CUDA compiler (13.0 or newer), and none was found: looked at $NVCC, $CUDA_HOME/bin, \
         $CUDA_PATH/bin, $PATH and /usr/local/cuda/bin. Install the CUDA toolkit or point NVCC at the compiler; without \
         a GPU, build without `--features cuda`."
            .to_string()
    })
}
