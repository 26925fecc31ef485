//! A cable from a container without a network to this host. Its address is in no network that Docker knows, so a
//! program there asks as a stranger does.

use std::net::Ipv4Addr;

use crate::engine::Bed;

/// Both ends. The kernel removes them with the container.
pub(super) struct Cable {
    /// The container's name: others join it with `--network container:NAME`.
    pub(super) container: String,
    /// The container's address.
    pub(super) theirs: Ipv4Addr,
    /// The host's addresses.
    pub(super) ours: Vec<Ipv4Addr>,
}

impl Cable {
    /// In a subnet with this prefix of 198.18.0.0/16 or 198.19.0.0/16, one for each process. 198.18.0.0/15 is for
    /// benchmarks of networks (RFC 2544): no real network has it.
    #[track_caller]
    pub(super) fn lay(bed: &Bed, second_octet: u8, prefix: u8, host_addresses: u32) -> Self {
        let process = std::process::id();
        let base = u32::from(Ipv4Addr::new(198, second_octet, 0, 0)) + (process << (32 - prefix) & 0xffff);
        let at = |offset: u32| Ipv4Addr::from(base + offset);
        let (theirs, interface) = (at(1), format!("agentit{process}"));
        let ours: Vec<Ipv4Addr> = (2..2 + host_addresses).map(at).collect();
        let script = format!(
            "ip() {{ /bin/busybox ip \"$@\"; }}; ip link add {interface} type veth && ip link set {interface} netns 1 && \
             ip addr add {theirs}/{prefix} dev veth0 && ip link set veth0 up && ip link set lo up && echo ready && \
             sleep 1000"
        );
        let outside = ["--network", "none", "--pid", "host", "--cap-add", "NET_ADMIN"];
        bed.run("outside", &outside, &["sh", "-c", &script]);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(bed.says("outside", "ready"));
        let addresses: Vec<String> = ours.iter().map(Ipv4Addr::to_string).collect();
        let script = format!(
            "ip() {{ /bin/busybox ip \"$@\"; }}; for own in {}; do ip addr add $own/{prefix} dev {interface} || exit; \
             done; ip link set {interface} up && echo ready",
            addresses.join(" ")
        );
        bed.run("cable", &["--network", "host", "--cap-add", "NET_ADMIN"], &["sh", "-c", &script]);
        runtime.block_on(bed.says("cable", "ready"));
        Self { container: bed.name("outside"), theirs, ours }
    }
}
