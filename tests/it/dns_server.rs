//! The DNS server over real sockets on loopback: every server of these tests has an address of its own in 127.0.0.0/8.

#![expect(clippy::unwrap_used, reason = "clippy knows tests, but not their helpers")]

pub(crate) mod support;

mod differential;
mod guards;
mod limits;
mod listeners;
mod rfc8906;
mod tcp;
pub(crate) mod tls;
mod udp;
