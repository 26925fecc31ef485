//! scale
fn main() {}
