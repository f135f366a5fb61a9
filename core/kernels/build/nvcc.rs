//! Compiles each module of kernels to one fatbin: machine code for every generation of cards from compute capability
//! 8.0 on, and PTX for compute capability 8.0, which the driver compiles on cards that came later. Modules for what
//! only Hopper (9.0) has instructions for are machine code for that card alone. A module is compiled again only when something
//! that it is made of has changed.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

/// A row of the table of kernels as far as it is about files.
struct Module {
    name: &'static str,
    source: &'static str,
    defines: &'static [&'static str],
    only: Option<&'static str>,
}

/// Reads the modules out of the table and passes over their kernels; `src/declare.rs` has the whole grammar.
macro_rules! kernels {
    ($(
        $(
            $(#[$about:meta])*
            module $module:ident = $name:literal $(from $source:literal)? $(with $define:literal)* $(only $only:literal)?;
        )*
        $(in $known:ident;)*
        { $($kernels:tt)+ }
    )+) => {
        pub const MODULES: &[super::Module] = &[$($(super::Module {
            name: $name,
            source: [$($source,)? $name][0],
            defines: &[$($define),*],
            only: [$(Some($only),)? None][0],
        },)*)+];
    };
}

#[path = "../src/table.rs"]
mod table;

/// Cards with machine code of their own; `APUS_CUDA_ARCHS` overrides.
const CARDS: &str = "80,86,89,90,100,120";
const LEAST: &str = "compute_80";

/// Writes `<module>.fatbin` into `out` for every module, several at a time.
pub fn compile_all(out: &Path) -> Result<(), String> {
    for variable in [
        "NVCC",
        "NVCC_APPEND_FLAGS",
        "CUDA_HOME",
        "CUDA_PATH",
        "PATH",
        "APUS_CUDA_ARCHS",
    ] {
        println!("cargo:rerun-if-env-changed={variable}");
    }
    let targets = targets(&std::env::var("APUS_CUDA_ARCHS").unwrap_or_else(|_| CARDS.into()))?;
    let compiler = Compiler::new(find()?)?;
    let jobs: Vec<Job> = table::MODULES
        .iter()
        .map(|module| Job::new(module, &targets))
        .collect();
    let queue = Mutex::new(jobs.into_iter());
    let next = || queue.lock().ok().and_then(|mut jobs| jobs.next());
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get().min(8));
    std::thread::scope(|scope| {
        let worker = || {
            while let Some(job) = next() {
                job.compile(&compiler, out)?;
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

/// The compiler and what it reads beside a module's own file.
struct Compiler {
    nvcc: PathBuf,
    /// The state of the compiler and of all headers.
    state: u64,
}

impl Compiler {
    fn new(nvcc: PathBuf) -> Result<Self, String> {
        let mut state = DefaultHasher::new();
        let metadata = nvcc.metadata().and_then(|nvcc| nvcc.modified());
        (&nvcc, metadata.ok()).hash(&mut state);
        let mut headers: Vec<PathBuf> = std::fs::read_dir("src")
            .map_err(|error| format!("cannot read the folder src: {error}"))?
            .flatten()
            .map(|entry| entry.path())
            .filter(|path| path.extension().is_some_and(|extension| extension == "cuh"))
            .collect();
        headers.sort();
        for header in headers {
            (&header, read(&header)?).hash(&mut state);
        }
        let state = state.finish();
        Ok(Self { nvcc, state })
    }
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    std::fs::read(path).map_err(|error| format!("cannot read {}: {error}", path.display()))
}

struct Job {
    source: PathBuf,
    fatbin: String,
    arguments: Vec<String>,
}

impl Job {
    fn new(module: &Module, targets: &[String]) -> Job {
        let mut arguments = Vec::new();
        let only = module.only.map(|card| vec![machine_code(card)]);
        for target in only.as_deref().unwrap_or(targets) {
            arguments.extend(["-gencode".into(), target.clone()]);
        }
        arguments.extend(module.defines.iter().map(|define| format!("-D{define}")));
        Job {
            source: Path::new("src").join(module.source).with_extension("cu"),
            fatbin: format!("{}.fatbin", module.name),
            arguments,
        }
    }

    /// Compiles the module if its source, a header, its arguments or the compiler differ from the last time.
    fn compile(&self, compiler: &Compiler, out: &Path) -> Result<(), String> {
        let mut state = DefaultHasher::new();
        let flags = std::env::var_os("NVCC_APPEND_FLAGS");
        (compiler.state, read(&self.source)?, &self.arguments, flags).hash(&mut state);
        let state = format!("{:016x}", state.finish());
        let fatbin = out.join(&self.fatbin);
        let made = fatbin.with_extension("made");
        if fatbin.is_file() && std::fs::read_to_string(&made).is_ok_and(|made| made == state) {
            return Ok(());
        }
        let mut command = Command::new(&compiler.nvcc);
        command
            .args(["-fatbin", "-O3", "-std=c++17", "--compress-mode=size"])
            .arg(&self.source)
            .args(&self.arguments)
            .arg("-o")
            .arg(&fatbin);
        let output = command
            .output()
            .map_err(|error| format!("cannot run {}: {error}", compiler.nvcc.display()))?;
        if !output.status.success() {
            let said = [output.stdout, output.stderr].concat();
            return Err(format!(
                "nvcc failed ({}): {command:?}\n{}",
                output.status,
                String::from_utf8_lossy(&said)
            ));
        }
        std::fs::write(&made, state)
            .map_err(|error| format!("cannot write {}: {error}", made.display()))
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
