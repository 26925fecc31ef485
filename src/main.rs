//! The binary: parse, run, exit code.

use std::{os::fd::OwnedFd, process::ExitCode};

use clap::Parser;
use portolan::cli::{Cli, Exit, Process, run, tell_translation, translate};

/// A catalog is many small values: without a header for each it takes less memory, see Cargo.toml.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // mimalloc asks for huge pages, of which a catalog fills two thirds: 90 MiB instead of 62 for 100,000 instances, and no
    // answer is faster by them (`make bench-scale`, `make bench-dns`). A kernel that does not know the wish changes nothing.
    // Programs that check containers inherit it.
    let _small_pages = nix::sys::prctl::set_thp_disable(true);
    // Before anything else starts: it changes the environment, which is safe only as long as there is one thread.
    let held = held();
    // Variables that are not text are none of ours.
    let env =
        std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    let process = Process { env: env.collect(), root: nix::unistd::geteuid().is_root(), held };
    let translated = translate(std::env::args_os().collect(), &process.env);
    tell_translation(&translated);
    let Ok((arguments, _)) = translated else { return Exit::Usage.into() };
    let cli = Cli::parse_from(arguments);
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: the runtime cannot start: {error}");
            return Exit::Failure.into();
        }
    };
    let exit = runtime.block_on(run(cli, process));
    // Work that still blocks, such as a name lookup, must not hold up the end.
    runtime.shutdown_background();
    exit.into()
}

/// The internet sockets that systemd holds for this process (`sd_listen_fds`).
fn held() -> Vec<OwnedFd> {
    use nix::libc::{AF_INET, SOCK_DGRAM, SOCK_STREAM};
    let mut sockets = listenfd::ListenFd::from_env();
    let mut taken = Vec::new();
    for index in 0..sockets.len() {
        // AF_INET stands for AF_INET6, too.
        let listener = sockets.take_custom(index, AF_INET, SOCK_STREAM, "listener");
        match listener.or_else(|_| sockets.take_custom(index, AF_INET, SOCK_DGRAM, "datagram socket")) {
            Ok(socket) => taken.extend::<Option<OwnedFd>>(socket),
            Err(error) => eprintln!("warning: systemd passes something that is no internet socket: {error}"),
        }
    }
    taken
}
