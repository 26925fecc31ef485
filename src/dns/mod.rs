//! From the catalog to the bytes of a DNS answer.
//!
//! In comes the [`Catalog`](crate::model::Catalog) and what this host knows of itself ([`Local`](crate::model::Local));
//! out goes, for every packet, a reply, a question to forward, or silence.
//!
//! ```text
//! Catalog ─ zone.rs ─► Zone ─┐
//! Local ───────────────────  ├─► answer.rs ─► wire.rs ─► server.rs [IO] ─► resolver
//! packet ─ wire.rs ─ name.rs ┘     reach.rs                forward.rs [IO] ─► upstream
//! ```
//!
//! - `name.rs` says what a name means, `source.rs` who asks, `find.rs` which service or containers that is, `ready.rs` which instances count,
//!   `reach.rs` which address that one gets, `prefer.rs` which are near enough;
//! - `explain.rs` tells of the same stages why an instance is in or out, `export.rs` writes them down as a zone file: no
//!   rule is written twice;
//! - `zone.rs` is the index: immutable, swapped whole, changed in the time of what changed;
//! - `answer.rs` decides between records, NODATA, NXDOMAIN, SERVFAIL and "not ours"; `wire.rs` turns packets into
//!   questions and decisions into packets. Both are pure: time plays no part, chance comes from the caller;
//! - `cookie.rs` knows clients again that have proven their address;
//! - `hot.rs` answers ordinary questions in their place, from what was encoded of their answers before: the same
//!   octets, without the work;
//! - `tls.rs` is the certificate that DNS over TLS is spoken with;
//! - `access.rs` and `listen.rs` decide who may ask and where we listen; `server.rs` and `forward.rs` hold the sockets.
//!
//! Nobody here owns state that outlives a snapshot. Nothing here asks etcd, Docker or an upstream in order to
//! answer for our own names: a failure of any of them shows as answers from what was known last, or as SERVFAIL for
//! what was never known, and never as a false "there is no such name".

pub mod access;
pub mod answer;
pub mod cookie;
pub mod explain;
pub mod export;
pub mod find;
#[cfg(any(test, feature = "fuzz"))]
#[cfg_attr(not(test), expect(dead_code, reason = "the fuzz targets need the world, the tests its tables, too"))]
#[expect(clippy::unwrap_used, reason = "made for tests, whose words it reads")]
pub(crate) mod fixture;
pub mod forward;
pub mod hot;
pub mod listen;
pub mod name;
pub mod prefer;
pub mod reach;
pub mod ready;
pub mod server;
pub mod source;
pub mod special;
pub mod tls;
pub mod wire;
pub mod zone;
