//! apus
fn main() {}
