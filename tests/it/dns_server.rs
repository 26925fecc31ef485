//! dns_server
