//! Asks a server that hung up on a new connection what it has against our certificate. \[IO\]
//!
//! In TLS 1.3 a client is through with the handshake before the server has looked at the client's certificate. A
//! refusal comes in place of the first reply, and the library that speaks HTTP/2 there says "operation was canceled".
//! So the handshake is made once more, and what the server says then is read here.

use std::sync::Arc;

use tokio::{io::AsyncReadExt, net::TcpStream};
use tokio_rustls::{
    TlsConnector,
    rustls::{ClientConfig, pki_types::ServerName},
};
use tonic::transport::Uri;

use super::convert;

/// The port of an `https://` URL that names none.
const HTTPS_PORT: u16 = 443;

/// What the server says instead of a reply, if that is about certificates. Takes as long as the server takes: the
/// caller has a deadline.
pub(super) async fn refusal(uri: &Uri, config: Arc<ClientConfig>) -> Option<String> {
    let host = uri.host()?.trim_matches(['[', ']']).to_owned();
    let stream = TcpStream::connect((host.as_str(), uri.port_u16().unwrap_or(HTTPS_PORT))).await.ok()?;
    let name = ServerName::try_from(host).ok()?;
    let outcome = async {
        let mut stream = TlsConnector::from(config).connect(name, stream).await?;
        // A server that takes the certificate begins to speak HTTP/2, or waits for us to: either is no error.
        stream.read_u8().await
    };
    let reason = outcome.await.err()?.to_string();
    convert::is_of_certificates(&reason).then_some(reason)
}
