//! Writes made-up runs to a folder, to look at `apus watch` and `apus report` without training anything:
//! `cargo run -p apus-board --example made_up_runs -- FOLDER`

#[path = "../tests/common/fixture.rs"]
#[allow(dead_code)]
mod fixture;

fn main() -> std::io::Result<()> {
    let Some(folder) = std::env::args().nth(1) else {
        eprintln!("expected the folder to write to");
        std::process::exit(2);
    };
    fixture::morning(std::path::Path::new(&folder))
}
