//! Composition root; overwritten by its owner.

use crate::config::Config;

/// Runs the agent.
pub async fn run(_config: Config) -> anyhow::Result<()> {
    std::future::ready(Ok(())).await
}
