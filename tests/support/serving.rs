//! The real server, over real sockets, in the process of whoever includes this file.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use anyhow::{Context, Result};
use portolan::{
    dns::{
        access::AccessList,
        answer::Settings,
        forward::{Forwarder, Options, Upstreams},
        name::Apex,
        server::{BindState, Limits, Relay, Shared, serve},
        zone::Zone,
    },
    model::{Catalog, Local},
};
use tokio::{runtime::Runtime, sync::watch};

/// Answers there, for as long as the runtime is there, and returns once it does: what answers are made from, and who asks
/// upstreams. The process ends should the server.
pub(crate) fn start(
    runtime: &Runtime,
    address: SocketAddr,
    catalog: &Catalog,
    zone: Arc<Zone>,
    local: Local,
    upstreams: Upstreams,
) -> Result<(Arc<Shared>, Arc<Forwarder>)> {
    let local = Arc::new(local);
    let shared = Arc::new(Shared::new(Settings::default(), Limits::default()));
    shared.set_access(Arc::new(AccessList::new(&local, catalog, &[])));
    shared.set_local(Arc::clone(&local));
    shared.set_zone(zone);
    let (wanted, watched) = watch::channel(Arc::new([address].into()));
    let (known, locals) = watch::channel(local);
    let (states, mut bound) = watch::channel(Arc::default());
    let options = Options { chosen: upstreams.into(), ..Options::default() };
    let forwarder = Arc::new(Forwarder::new(options, &Apex::default(), watched.clone(), locals));
    let serving = serve(Arc::clone(&shared), watched, Arc::clone(&forwarder), states, Relay::alone());
    runtime.spawn(async move {
        let _kept = (wanted, known);
        eprintln!("the server has ended: {:?}", serving.await);
        std::process::exit(1);
    });
    runtime.block_on(async {
        let waiting = bound.wait_for(|states| matches!(states.get(&address), Some(BindState::Bound { .. })));
        tokio::time::timeout(Duration::from_secs(10), waiting).await.context("cannot listen")??;
        anyhow::Ok(())
    })?;
    Ok((shared, forwarder))
}
