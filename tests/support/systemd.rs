//! Plays systemd for one service: holds its sockets, and starts it with them as `sd_listen_fds(3)` describes.

#![allow(dead_code, unreachable_pub, reason = "each user includes this file and uses a part of it")]

use std::{
    net::{SocketAddr, TcpListener, UdpSocket},
    os::fd::{AsFd, AsRawFd, OwnedFd},
    process::Command,
};

use rustix::io::{FdFlags, fcntl_dupfd_cloexec, fcntl_setfd};

/// Descriptors of our own begin here: above those that the service is given.
const ABOVE: i32 = 50;

/// The sockets of a service.
pub struct Holder(Vec<OwnedFd>);

impl Holder {
    /// Binds what `deploy/portolan.socket` names: both transports of DNS, and the API.
    pub fn bind(dns: SocketAddr, http: SocketAddr) -> std::io::Result<Self> {
        let sockets: [OwnedFd; 3] =
            [UdpSocket::bind(dns)?.into(), TcpListener::bind(dns)?.into(), TcpListener::bind(http)?.into()];
        let raise = |socket: OwnedFd| {
            let raised = fcntl_dupfd_cloexec(socket.as_fd(), ABOVE)?;
            fcntl_setfd(&raised, FdFlags::empty())?;
            Ok(raised)
        };
        Ok(Self(sockets.into_iter().map(raise).collect::<std::io::Result<_>>()?))
    }

    /// The same command, with the sockets from descriptor 3 on and its own process id in LISTEN_PID.
    pub fn command(&self, service: &Command) -> Command {
        let moves: Vec<String> = (3..).zip(&self.0).map(|(to, from)| format!("{to}<&{}", from.as_raw_fd())).collect();
        let closes: Vec<String> = self.0.iter().map(|from| format!("{}<&-", from.as_raw_fd())).collect();
        let script = format!(
            "exec {} {}; export LISTEN_PID=$$ LISTEN_FDS={}; exec \"$0\" \"$@\"",
            moves.join(" "),
            closes.join(" "),
            self.0.len()
        );
        let mut command = Command::new("bash");
        command.args(["-c", &script]).arg(service.get_program()).args(service.get_args());
        command.env_clear().env("HOME", "/nonexistent").env("PATH", "/usr/bin:/bin").stdin(std::process::Stdio::null());
        command
    }
}
