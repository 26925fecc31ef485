//! The whole agent as people run it: the real binary against the real Docker engine, and a real etcd where it says so.
//! Other tests use the engine at the same time, so each looks at its own containers only.

mod access;
mod bed;
mod bootstrap;
mod cable;
mod claims;
mod compat;
mod conflict;
mod credentials;
mod drain;
mod explain;
mod external;
mod front;
mod garbage;
mod health;
mod holders;
mod lifecycle;
mod outages;
mod registry;
mod resolvers;
mod restart;
mod restored;
mod search;
mod secured;
mod single;
mod surroundings;
mod tls;
