//! Not written yet.

pub mod asker;
pub mod container;
pub mod desired;
pub mod docker;
pub mod host;
pub mod labels;
