//! Not written yet.

pub mod access;
pub mod answer;
pub mod forward;
pub mod listen;
pub mod name;
pub mod reach;
pub mod server;
pub mod wire;
pub mod zone;
