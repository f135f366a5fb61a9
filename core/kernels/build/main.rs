//! Build script of apus-kernels. With feature `cuda` it compiles the kernels ([`nvcc`]) and makes link-time
//! libraries that let one binary start on machines with and without CUDA ([`trampolines`]); without it, nothing.

mod nvcc;
mod trampolines;

use std::path::PathBuf;
use std::process::ExitCode;

fn main() -> ExitCode {
    println!("cargo:rerun-if-changed=build");
    println!("cargo:rerun-if-changed=src");
    if std::env::var_os("CARGO_FEATURE_CUDA").is_none() {
        return ExitCode::SUCCESS;
    }
    let out = PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    if let Err(message) = nvcc::compile_all(&out).and_then(|()| trampolines::link(&out)) {
        eprintln!("\napus-kernels: {message}\n");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}
