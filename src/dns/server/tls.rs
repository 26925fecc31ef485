//! DNS over TLS (RFC 7858): a handshake, and then a connection like any other of `tcp.rs`, below the same caps and deadlines.
//!
//! A client that does not come to the end of its handshake costs its own connection. Connections are not handed on to
//! another agent, for their keys are in this process; they are finished, and clients connect again (RFC 7858 section 3.4).

use std::{collections::BTreeSet, net::SocketAddr, time::Duration};

use tokio::{io::AsyncWriteExt, net::TcpStream, time::timeout};
use tokio_rustls::TlsAcceptor;

use super::{
    admission::Permit,
    metrics::Counter,
    query::Desk,
    tcp::{End, Inbox, Protocol, converse},
};
use crate::dns::tls::Certificate;

/// How long a client that is cut off may take to be told so (RFC 8446 section 6.1). It has had its time before.
const GOODBYE: Duration = Duration::from_millis(500);

/// Where TLS is spoken, and as whom.
#[derive(Clone, Debug)]
pub struct Tls {
    /// Addresses on which everything is encrypted; none of them is answered on in the clear.
    pub addresses: BTreeSet<SocketAddr>,
    /// What new connections get. Those that are open keep what they have.
    pub certificate: Certificate,
}

/// Holds a connection until either side is done with it.
pub(super) async fn hold(stream: TcpStream, peer: SocketAddr, desk: Desk, _permit: Permit) {
    let Some(tls) = desk.shared.tls.load_full() else { return };
    let (limits, shard) = (&desk.shared.limits, desk.shared.metrics.tasks());
    // As without TLS: everything is written whole.
    let _ = stream.set_nodelay(true);
    let handshake = TlsAcceptor::from(tls.certificate.config()).accept(stream);
    // Also where this server retires meanwhile: whoever has been accepted is answered.
    let mut stream = match timeout(limits.tls_handshake, handshake).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(_)) => return shard.count(Counter::TlsFailures),
        Err(_) => {
            shard.count(Counter::TcpTimeouts);
            return shard.count(Counter::TlsFailures);
        }
    };
    drop(tls);
    shard.count(Counter::TlsHandshakes);
    match converse(&mut stream, peer, &desk, &mut Inbox::default(), Protocol::Tls).await {
        Err(End::TimedOut) => {
            shard.count(Counter::TcpTimeouts);
            // So that it knows that nobody has cut the connection on the way; one that is gone need not know.
            let _ = timeout(GOODBYE, stream.shutdown()).await;
        }
        Ok(_) | Err(End::Closed) => {}
    }
}
