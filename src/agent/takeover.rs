//! The new agent's side of a takeover: gets the sockets first, says that it is ready when it knows everything.

use std::{path::Path, time::Duration};

use anyhow::{Context, Result, bail};
use tokio::{
    sync::mpsc,
    time::{Instant, timeout},
};
use tracing::info;

use super::{Agent, sockets::Sockets};
use crate::{
    api::takeover::{self, Answer, Ask, Wire},
    config::Config,
    dns::server::{BindState, Connection, Order},
    registry::state::StateDirectory,
};

/// How long Docker and the registry may take to be listed. The other one answers meanwhile; but who cannot have what
/// that one has does worse in its place.
const COMPLETE: Duration = Duration::from_secs(30);
/// How long sockets may take to be read from once they may.
const OPEN: Duration = Duration::from_secs(5);
/// How long the other may take to stop publishing: 5 s, and the way.
const RELEASE: Duration = Duration::from_secs(10);

/// The agent before, until it has handed over.
pub(super) struct Inheritance {
    wire: Wire,
}

/// Gets everything from the agent that runs; `None`: there is none.
pub(super) async fn inherit(config: &Config) -> Result<Option<(Inheritance, StateDirectory, Sockets)>> {
    let Some(mut wire) = takeover::ask(&config.control.value).await? else {
        return Ok(None);
    };
    wire.say(&Ask::Hello).await?;
    let heard = timeout(RELEASE, wire.hear()).await.context("the running agent offers nothing")??;
    let Answer::Offer { state_dir, http, held, descriptors } = heard else {
        bail!("the running agent said {heard:?}, not what it offers: restart it instead");
    };
    let ours = std::path::absolute(&config.state_dir.value)?;
    if ours != state_dir {
        bail!(
            "the running agent keeps its state in {}, and --state-dir is {}: a takeover cannot move it; restart instead",
            state_dir.display(),
            ours.display()
        );
    }
    let taken = timeout(RELEASE, wire.take(descriptors)).await.context("the running agent's sockets do not come")??;
    let mut taken = taken.into_iter();
    let (Some(lock), Some(control)) = (taken.next(), taken.next()) else {
        bail!("the running agent offers no sockets: restart it instead");
    };
    let mut sockets = Sockets { control: Some(control), held: held.into_iter().collect(), ..Sockets::default() };
    sockets.add(taken.collect(), http, config.http.value);
    sockets.dns.set_apart(&config.dns_tls.value);
    for address in sockets.dns.close_lone_listeners() {
        info!(%address, "the running agent speaks TLS here; this one closes it, for --dns-tls does not name it");
    }
    info!(process = wire.peer(), dns = ?sockets.dns.addresses(), "taking over from the agent that runs");
    Ok(Some((Inheritance { wire }, StateDirectory::succeed(Path::new(&config.state_dir.value), lock), sockets)))
}

impl Inheritance {
    /// Takes over when this agent knows everything. An error leaves the other one as it was.
    pub(super) async fn take_over(mut self, agent: &Agent) -> Result<Wire> {
        let began = Instant::now();
        let mut catalog = agent.catalog.1.clone();
        let complete = timeout(COMPLETE, catalog.wait_for(|catalog| catalog.is_complete()));
        tokio::select! {
            complete = complete => drop(complete.with_context(|| {
                let missing = match agent.catalog.1.borrow().docker_listed {
                    false => "Docker has not been listed",
                    true => "the registry has not been listed",
                };
                format!("{missing} within {} s: not taking over; the other agent goes on", COMPLETE.as_secs())
            })??),
            // It says nothing at this point, so it has gone.
            _ = self.wire.hear::<Answer>() => bail!("the other agent has ended meanwhile: start again without --takeover"),
        }
        agent.gates.may_read.send_replace(true);
        let mut bound = agent.bound.1.clone();
        let wanted = agent.wanted.1.borrow().clone();
        let open = bound.wait_for(|states| {
            let is_open = |address| matches!(states.get(address), Some(BindState::Bound { .. }));
            agent.handed.intersection(&wanted).all(is_open)
        });
        timeout(OPEN, open).await.context("the sockets cannot be read from: not taking over")??;
        self.wire.say(&Ask::Ready).await?;
        match timeout(RELEASE, self.wire.hear()).await.context("the other agent goes on publishing")?? {
            Answer::Released => {}
            other => bail!("the other agent said {other:?}, not that it publishes no more"),
        }
        self.wire.say(&Ask::Taken).await?;
        agent.gates.may_publish.send_replace(true);
        info!(after = ?began.elapsed(), "taken over");
        Ok(self.wire)
    }
}

/// Goes on with the connections of the agent before; ends with the agent.
pub(super) async fn take_connections(mut wire: Wire, orders: mpsc::Sender<Order>) -> Result<()> {
    while let Ok(Answer::Connection { unread }) = wire.hear().await {
        let Ok(mut sockets) = wire.take(1).await else { break };
        if let Some(socket) = sockets.pop() {
            orders.send(Order::Continue(Connection { socket, unread })).await?;
        }
    }
    std::future::pending().await
}
