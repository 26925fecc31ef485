//! converge
fn main() {}
