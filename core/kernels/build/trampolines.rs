//! Stand-ins for the CUDA libraries at link time (x86-64 Linux). cudarc, under candle, asks the linker for libcuda,
//! libcublas and others, which would tie the binary to them: it would neither link nor start on a machine without.
//! Here each library becomes a static archive of the same name in which every function opens the real library at its
//! first call and jumps on; if there is none, the call returns that library's error status, so asking for a GPU fails
//! as an ordinary error. The archives' folder comes before cudarc's on the linker's path because cargo passes search
//! paths in the order of package names.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

struct Library {
    /// Module of cudarc that declares the functions.
    module: &'static str,
    /// Name given to the linker.
    name: &'static str,
    /// Files to open at run time, the first that is there.
    files: &'static [&'static str],
    /// Status a function returns when there is none.
    missing: i32,
}

const LIBRARIES: [Library; 5] = [
    Library {
        module: "driver",
        name: "cuda",
        files: &["libcuda.so.1", "libcuda.so"],
        missing: 100,
    },
    Library {
        module: "nvrtc",
        name: "nvrtc",
        files: &["libnvrtc.so.13", "libnvrtc.so.12", "libnvrtc.so"],
        missing: 11,
    },
    Library {
        module: "curand",
        name: "curand",
        files: &["libcurand.so.10", "libcurand.so"],
        missing: 101,
    },
    Library {
        module: "cublas",
        name: "cublas",
        files: &["libcublas.so.13", "libcublas.so.12", "libcublas.so"],
        missing: 1,
    },
    Library {
        module: "cublaslt",
        name: "cublasLt",
        files: &["libcublasLt.so.13", "libcublasLt.so.12", "libcublasLt.so"],
        missing: 1,
    },
];

/// Makes the archives and puts them on the linker's path; elsewhere than on x86-64 Linux the libraries are linked as cudarc does.
pub fn link(out: &Path) -> Result<(), String> {
    println!("cargo:rerun-if-env-changed=APUS_CUDARC_SRC");
    if std::env::var("TARGET").as_deref() != Ok("x86_64-unknown-linux-gnu") {
        return Ok(());
    }
    let sources = cudarc_sources()?;
    let folder = out.join("trampolines");
    std::fs::create_dir_all(&folder)
        .map_err(|error| format!("cannot make {}: {error}", folder.display()))?;
    for library in &LIBRARIES {
        let declared = sources.join(library.module).join("sys/mod.rs");
        let text = std::fs::read_to_string(&declared)
            .map_err(|error| format!("cannot read {}: {error}", declared.display()))?;
        let functions = functions(&text);
        if functions.is_empty() {
            return Err(format!(
                "{} declares no `extern \"C\"` function: cudarc changed its layout",
                declared.display()
            ));
        }
        build(library, &functions, &folder)?;
    }
    println!("cargo:rustc-link-search=native={}", folder.display());
    println!("cargo:rustc-link-lib=dylib=dl");
    Ok(())
}

/// `src` of the cudarc that Cargo.lock names: in `APUS_CUDARC_SRC`, a vendor folder or cargo's registry.
fn cudarc_sources() -> Result<PathBuf, String> {
    if let Some(given) = std::env::var_os("APUS_CUDARC_SRC") {
        return Ok(given.into());
    }
    let manifest = PathBuf::from(
        std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets CARGO_MANIFEST_DIR"),
    );
    let lock = manifest
        .ancestors()
        .map(|folder| folder.join("Cargo.lock"))
        .find(|lock| lock.is_file());
    let lock = lock.ok_or_else(|| format!("no Cargo.lock above {}", manifest.display()))?;
    println!("cargo:rerun-if-changed={}", lock.display());
    let text = std::fs::read_to_string(&lock)
        .map_err(|error| format!("cannot read {}: {error}", lock.display()))?;
    let version = text
        .split("[[package]]")
        .find(|package| package.contains("name = \"cudarc\""))
        .and_then(|package| package.split("version = \"").nth(1)?.split('"').next())
        .ok_or_else(|| format!("{} names no package cudarc", lock.display()))?;
    let workspace = lock.parent().unwrap_or(&manifest);
    let mut places = vec![
        workspace.join("vendor/cudarc"),
        workspace.join(format!("vendor/cudarc-{version}")),
    ];
    let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cargo")));
    if let Some(indexes) = home.and_then(|home| std::fs::read_dir(home.join("registry/src")).ok()) {
        places.extend(
            indexes
                .flatten()
                .map(|index| index.path().join(format!("cudarc-{version}"))),
        );
    }
    places.into_iter().map(|place| place.join("src")).find(|src| src.is_dir()).ok_or_else(|| {
        format!("the sources of cudarc {version} are not in cargo's registry nor in vendor/: set APUS_CUDARC_SRC to their folder `src`")
    })
}

/// Names declared as `extern "C" { fn name(..` (one to a block, as bindgen's sys crates are written), sorted.
fn functions(text: &str) -> Vec<&str> {
    let blocks = text.split("extern \"C\" {").skip(1);
    let mut names: Vec<&str> = blocks
        .filter_map(|block| block.trim_start().strip_prefix("fn ")?.split('(').next())
        .collect();
    names.sort_unstable();
    names.dedup();
    names
}

fn build(library: &Library, functions: &[&str], folder: &Path) -> Result<(), String> {
    let [stubs, resolver] = [
        folder.join(format!("{}.S", library.module)),
        folder.join(format!("{}.c", library.module)),
    ];
    let objects = [
        stubs.with_extension("stubs.o"),
        resolver.with_extension("o"),
    ];
    let archive = folder.join(format!("lib{}.a", library.name));
    for (source, object, text) in [
        (&stubs, &objects[0], assembly(library, functions)),
        (&resolver, &objects[1], resolver_code(library, functions)),
    ] {
        std::fs::write(source, text)
            .map_err(|error| format!("cannot write {}: {error}", source.display()))?;
        run(Command::new(tool("CC", "cc"))
            .args(["-c", "-O2", "-fPIC"])
            .arg(source)
            .arg("-o")
            .arg(object))?;
    }
    if archive.exists() {
        std::fs::remove_file(&archive)
            .map_err(|error| format!("cannot replace {}: {error}", archive.display()))?;
    }
    run(Command::new(tool("AR", "ar"))
        .arg("crs")
        .arg(&archive)
        .args(&objects))
}

fn tool(variable: &str, usual: &str) -> String {
    println!("cargo:rerun-if-env-changed={variable}");
    std::env::var(variable).unwrap_or_else(|_| usual.to_string())
}

fn run(command: &mut Command) -> Result<(), String> {
    let output = command
        .output()
        .map_err(|error| format!("cannot run {command:?}: {error}"))?;
    if output.status.success() {
        Ok(())
    } else {
        Err(format!(
            "{command:?} failed:\n{}",
            String::from_utf8_lossy(&output.stderr)
        ))
    }
}

/// One entry a function: jump to the address in its slot, or, while that is empty, to the resolver with the function's
/// number, keeping every register that carries an argument (System V: six integer, al, eight vector).
fn assembly(library: &Library, functions: &[&str]) -> String {
    const REGISTERS: [&str; 7] = ["rdi", "rsi", "rdx", "rcx", "r8", "r9", "rax"];
    let mut text = format!(
        ".data\n.p2align 3\n.Lslots: .zero {}\n.text\n",
        8 * functions.len()
    );
    for (i, name) in functions.iter().enumerate() {
        let _ = write!(
            text,
            ".globl {name}\n.type {name},@function\n{name}:\n movq .Lslots+{}(%rip),%r11\n testq %r11,%r11\n je 1f\n jmp *%r11\n\
             1: pushq ${i}\n jmp .Lresolve\n.size {name},.-{name}\n",
            8 * i
        );
    }
    text.push_str(".Lresolve:\n");
    let lines = |text: &mut String, line: &dyn Fn(usize) -> String, count: usize| {
        (0..count).for_each(|i| text.push_str(&line(i)))
    };
    lines(&mut text, &|i| format!(" pushq %{}\n", REGISTERS[i]), 7);
    text.push_str(" subq $136,%rsp\n");
    lines(
        &mut text,
        &|i| format!(" movups %xmm{i},{}(%rsp)\n", 16 * i),
        8,
    );
    let _ = write!(
        text,
        " movq 192(%rsp),%rdi\n leaq .Lslots(%rip),%rsi\n call apus_resolve_{}\n movq %rax,%r11\n",
        library.module
    );
    lines(
        &mut text,
        &|i| format!(" movups {}(%rsp),%xmm{i}\n", 16 * i),
        8,
    );
    text.push_str(" addq $136,%rsp\n");
    lines(&mut text, &|i| format!(" popq %{}\n", REGISTERS[6 - i]), 7);
    text.push_str(" addq $8,%rsp\n jmp *%r11\n.section .note.GNU-stack,\"\",@progbits\n");
    text
}

/// Finds a function by number: opens the library once, first by its bare name (the loader's path), then in the toolkit's usual folders.
fn resolver_code(library: &Library, functions: &[&str]) -> String {
    let list = |names: &[&str]| {
        names
            .iter()
            .map(|name| format!("\"{name}\","))
            .collect::<String>()
    };
    format!(
        r#"#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
static const char *const names[] = {{{names}}};
static const char *const files[] = {{{files}0}};
static int missing(void) {{ return {missing}; }}
static void *find(void) {{
  const char *const roots[] = {{"", getenv("CUDA_HOME"), getenv("CUDA_PATH"), "/usr/local/cuda", "/opt/cuda"}};
  const char *const folders[] = {{"/lib64/", "/lib/"}};
  char path[4096];
  for (unsigned r = 0; r < 5; r++) {{
    if (!roots[r]) continue;
    for (unsigned d = 0; d < (r ? 2 : 1); d++)
      for (unsigned f = 0; files[f]; f++) {{
        if (snprintf(path, sizeof path, "%s%s%s", roots[r], r ? folders[d] : "", files[f]) >= (int)sizeof path) continue;
        void *library = dlopen(path, RTLD_NOW | RTLD_GLOBAL);
        if (library) return library;
      }}
  }}
  return 0;
}}
__attribute__((visibility("hidden"))) void *apus_resolve_{module}(unsigned long function, void **slots) {{
  static void *library;
  void *opened = __atomic_load_n(&library, __ATOMIC_ACQUIRE);
  if (!opened) {{
    opened = find();
    __atomic_store_n(&library, opened, __ATOMIC_RELEASE);
  }}
  void *address = opened ? dlsym(opened, names[function]) : 0;
  if (!address) return (void *)missing;
  __atomic_store_n(&slots[function], address, __ATOMIC_RELEASE);
  return address;
}}
"#,
        names = list(functions),
        files = list(library.files),
        missing = library.missing,
        module = library.module,
    )
}
