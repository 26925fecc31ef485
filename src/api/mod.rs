//! Not written yet.

pub mod client;
pub mod http;
