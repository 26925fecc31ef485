//! Black-box tests on the library and the binary: one integration binary, one module per folder of `src/`.

mod cli;
mod dns_server;
mod docker;
mod forward;
mod readme;
mod repository;
