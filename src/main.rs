//! The binary: parse, run, exit code.

use std::process::ExitCode;

use clap::Parser;
use portolan::cli::{Cli, Exit, Process, run, tell_translation, translate};

/// A catalog is many small values: without a header for each it takes less memory, see Cargo.toml.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // Variables that are not text are none of ours.
    let env =
        std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    let process = Process { env: env.collect(), root: nix::unistd::geteuid().is_root() };
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
