//! The DNS server over real sockets on loopback: every server of these tests has an address of its own in 127.0.0.0/8.

pub(crate) mod support;

mod listeners;
mod tcp;
mod udp;
