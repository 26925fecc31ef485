//! Datagrams by the batch: recvmmsg and sendmmsg, the only unsafe calls of the server. \[IO\]
//!
//! The safe wrappers at hand do not fit: nix's `sendmmsg` does not tell how many were sent without reading addresses that
//! nobody wrote, and its `recvmmsg` keeps the pointers of the last call. Here every header is written anew before each call,
//! from buffers that this value owns and that no call outlives.
#![expect(unsafe_code, reason = "recvmmsg and sendmmsg have no safe wrapper that fits")]
#![expect(clippy::cast_possible_truncation, reason = "lengths and places of a batch are far below 2^16")]

use std::{
    io,
    mem::{self, offset_of},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6},
    os::fd::{AsRawFd, BorrowedFd},
    ptr,
};

use nix::libc::{
    self, IP_PKTINFO, IPPROTO_IP, IPPROTO_IPV6, IPV6_PKTINFO, MSG_DONTWAIT, cmsghdr, in_pktinfo, in6_pktinfo, iovec,
    mmsghdr, sockaddr_in6,
};

use super::udp::{Asked, Way};
use crate::dns::wire::MAX_UDP;

/// Most datagrams taken from one socket before the others have their turn.
pub(super) const BATCH: usize = 32;

/// Longest query over UDP. The longest name with every option in use stays far below it.
pub(super) const MAX_QUERY: usize = 4096;

/// From one packet's room to the next: one octet more than the longest query, to know those that are longer; and no
/// multiple of 4,096, for the beginnings of all packets would share a few lines of the processor's cache.
const STRIDE: usize = MAX_QUERY + 192;

/// From one reply's room to the next.
const REPLY_STRIDE: usize = MAX_UDP as usize + 48;

/// Octets of the longest address that a datagram comes from.
const PEER: usize = size_of::<sockaddr_in6>();

/// Room for one control message with the address that was asked.
const CONTROL: usize = 64;

/// A socket address as the kernel writes it.
#[derive(Clone, Copy)]
#[repr(C, align(8))]
struct Peer([u8; PEER]);

/// Control messages as the kernel writes them.
#[derive(Clone, Copy)]
#[repr(C, align(8))]
struct Control([u8; CONTROL]);

/// One datagram of a batch.
#[derive(Clone, Copy)]
struct Slot {
    /// Octets that came.
    length: usize,
    peer_length: u32,
    control_length: usize,
}

/// Room for a batch of queries and their replies.
pub(super) struct Batch {
    headers: Box<[mmsghdr; BATCH]>,
    parts: Box<[iovec; BATCH]>,
    peers: Box<[Peer; BATCH]>,
    controls: Box<[Control; BATCH]>,
    slots: [Slot; BATCH],
    packets: Box<[u8]>,
    replies: Box<[u8]>,
    /// Which query each reply belongs to, and its octets.
    ready: [(u8, u16); BATCH],
    replied: usize,
}

impl Batch {
    pub(super) fn new() -> Self {
        let none = iovec { iov_base: ptr::null_mut(), iov_len: 0 };
        // SAFETY: a header is made of numbers and pointers, for which zero is a value.
        let header: mmsghdr = unsafe { mem::zeroed() };
        Self {
            headers: Box::new([header; BATCH]),
            parts: Box::new([none; BATCH]),
            peers: Box::new([Peer([0; PEER]); BATCH]),
            controls: Box::new([Control([0; CONTROL]); BATCH]),
            slots: [Slot { length: 0, peer_length: 0, control_length: 0 }; BATCH],
            packets: vec![0; BATCH * STRIDE].into(),
            replies: vec![0; BATCH * REPLY_STRIDE].into(),
            ready: [(0, 0); BATCH],
            replied: 0,
        }
    }

    /// Takes what is there, up to `most` and a batch, without waiting: how many datagrams came. `tells_asked`: the socket
    /// says which address was asked.
    pub(super) fn receive(&mut self, socket: BorrowedFd<'_>, tells_asked: bool, most: usize) -> io::Result<usize> {
        self.replied = 0;
        let headers = &mut self.headers[..most.min(BATCH)];
        for (place, header) in headers.iter_mut().enumerate() {
            let packet = &mut self.packets[place * STRIDE..][..MAX_QUERY + 1];
            self.parts[place] = iovec { iov_base: packet.as_mut_ptr().cast(), iov_len: packet.len() };
            header.msg_len = 0;
            let message = &mut header.msg_hdr;
            message.msg_iov = &raw mut self.parts[place];
            message.msg_iovlen = 1;
            message.msg_name = (&raw mut self.peers[place]).cast();
            message.msg_namelen = PEER as u32;
            message.msg_control = if tells_asked { (&raw mut self.controls[place]).cast() } else { ptr::null_mut() };
            message.msg_controllen = if tells_asked { CONTROL } else { 0 };
            message.msg_flags = 0;
        }
        // SAFETY: each of these headers was just pointed to a buffer of its own, of the length it says; all of them live
        // in `self`, which is borrowed for as long as the call takes, and the kernel keeps no pointer beyond it.
        let received = unsafe {
            libc::recvmmsg(
                socket.as_raw_fd(),
                headers.as_mut_ptr(),
                headers.len() as u32,
                MSG_DONTWAIT as _,
                ptr::null_mut(),
            )
        };
        let received = usize::try_from(received).map_err(|_| io::Error::last_os_error())?;
        for (slot, header) in self.slots.iter_mut().zip(self.headers.iter()).take(received) {
            *slot = Slot {
                length: header.msg_len as usize,
                peer_length: header.msg_hdr.msg_namelen,
                control_length: header.msg_hdr.msg_controllen,
            };
        }
        Ok(received)
    }

    /// One of the datagrams that came last, longer than [`MAX_QUERY`] where it was cut; and the room for the reply to it.
    pub(super) fn exchange(&mut self, place: usize) -> (&[u8], &mut [u8]) {
        let packet = &self.packets[place * STRIDE..][..self.slots[place].length.min(MAX_QUERY + 1)];
        (packet, &mut self.replies[place * REPLY_STRIDE..][..usize::from(MAX_UDP)])
    }

    /// Where a datagram came from, and which address of ours it went to. `None` for what is no internet address.
    pub(super) fn way(&self, place: usize) -> Option<Way> {
        let slot = self.slots[place];
        let peer = address(&self.peers[place].0, slot.peer_length as usize)?;
        let control = self.controls[place].0.get(..slot.control_length)?;
        Some(Way { peer, asked: asked(control) })
    }

    /// The reply to the datagram at `place` is ready, and `length` octets long.
    pub(super) fn reply(&mut self, place: usize, length: usize) {
        debug_assert!(self.replied < BATCH && length <= usize::from(MAX_UDP));
        // Both fit: a batch is small, and so is a reply.
        self.ready[self.replied] = (place as u8, length as u16);
        self.replied += 1;
    }

    /// Replies that were sent, or could have been.
    pub(super) fn replies(&self) -> impl Iterator<Item = &[u8]> {
        self.ready[..self.replied]
            .iter()
            .map(|(place, length)| &self.replies[usize::from(*place) * REPLY_STRIDE..][..usize::from(*length)])
    }

    /// Sends the replies on the ways back: how many of them the kernel refused. Whether they arrive is the clients' affair,
    /// as always with UDP.
    pub(super) fn send(&mut self, socket: BorrowedFd<'_>) -> usize {
        for (at, (place, length)) in self.ready[..self.replied].iter().enumerate() {
            let (place, length) = (usize::from(*place), usize::from(*length));
            let reply = &mut self.replies[place * REPLY_STRIDE..][..length];
            self.parts[at] = iovec { iov_base: reply.as_mut_ptr().cast(), iov_len: length };
            let slot = self.slots[place];
            let header = &mut self.headers[at];
            header.msg_len = 0;
            let message = &mut header.msg_hdr;
            message.msg_iov = &raw mut self.parts[at];
            message.msg_iovlen = 1;
            message.msg_name = (&raw mut self.peers[place]).cast();
            message.msg_namelen = slot.peer_length.min(PEER as u32);
            let back = turn_back(&mut self.controls[place].0, slot.control_length);
            message.msg_control = if back > 0 { (&raw mut self.controls[place]).cast() } else { ptr::null_mut() };
            message.msg_controllen = back;
            message.msg_flags = 0;
        }
        let (mut sent, mut refused) = (0, 0);
        while sent < self.replied {
            let rest = &mut self.headers[sent..self.replied];
            // SAFETY: the headers up to `replied` were just pointed to buffers of `self`, of the lengths they say, which live
            // as long as the call; the count is that of the slice.
            let taken =
                unsafe { libc::sendmmsg(socket.as_raw_fd(), rest.as_mut_ptr(), rest.len() as u32, MSG_DONTWAIT as _) };
            match usize::try_from(taken) {
                Ok(taken @ 1..) => sent += taken,
                // The first of the rest was refused; the others may yet go.
                Ok(0) | Err(_) => {
                    sent += 1;
                    refused += 1;
                }
            }
        }
        refused
    }
}

/// A socket address out of what the kernel wrote.
fn address(octets: &[u8; PEER], length: usize) -> Option<SocketAddr> {
    let family = u16::from_ne_bytes([octets[0], octets[1]]);
    let port = u16::from_be_bytes([octets[2], octets[3]]);
    match (i32::from(family), length) {
        (libc::AF_INET, 8..) => {
            let ip = <[u8; 4]>::try_from(&octets[4..8]).ok()?;
            Some(SocketAddr::new(IpAddr::V4(ip.into()), port))
        }
        (libc::AF_INET6, PEER..) => {
            let ip = <[u8; 16]>::try_from(&octets[8..24]).ok()?;
            let scope = u32::from_ne_bytes(octets[24..28].try_into().ok()?);
            Some(SocketAddr::V6(SocketAddrV6::new(ip.into(), port, 0, scope)))
        }
        _ => None,
    }
}

/// Where a control message's data begins.
const DATA: usize = size_of::<cmsghdr>().next_multiple_of(size_of::<usize>());

/// Level and type of the first control message, if there is one.
fn control_kind(control: &[u8]) -> Option<(i32, i32)> {
    let number = |at: usize| Some(i32::from_ne_bytes(control.get(at..at + 4)?.try_into().ok()?));
    Some((number(offset_of!(cmsghdr, cmsg_level))?, number(offset_of!(cmsghdr, cmsg_type))?))
}

/// The address that was asked, as the first control message tells it.
fn asked(control: &[u8]) -> Asked {
    let told = || match control_kind(control)? {
        (IPPROTO_IP, IP_PKTINFO) => {
            let at = DATA + offset_of!(in_pktinfo, ipi_addr);
            Some(Asked::V4(Ipv4Addr::from(<[u8; 4]>::try_from(control.get(at..at + 4)?).ok()?)))
        }
        (IPPROTO_IPV6, IPV6_PKTINFO) => {
            let at = DATA + offset_of!(in6_pktinfo, ipi6_addr);
            let ip = Ipv6Addr::from(<[u8; 16]>::try_from(control.get(at..at + 16)?).ok()?);
            let at = DATA + offset_of!(in6_pktinfo, ipi6_ifindex);
            Some(Asked::V6(ip, u32::from_ne_bytes(control.get(at..at + 4)?.try_into().ok()?)))
        }
        _ => None,
    };
    told().unwrap_or(Asked::Bound)
}

/// Makes what came with a query what goes with its reply: from the address that was asked, over whichever interface leads
/// back; only link-local addresses keep theirs. The octets of it, none where there is nothing to say.
fn turn_back(control: &mut [u8; CONTROL], length: usize) -> usize {
    match asked(&control[..length.min(CONTROL)]) {
        Asked::Bound => 0,
        Asked::V4(ip) => {
            let (interface, source) =
                (DATA + offset_of!(in_pktinfo, ipi_ifindex), DATA + offset_of!(in_pktinfo, ipi_spec_dst));
            control[interface..interface + 4].fill(0);
            control[source..source + 4].copy_from_slice(&ip.octets());
            DATA + size_of::<in_pktinfo>().next_multiple_of(size_of::<usize>())
        }
        Asked::V6(ip, _) => {
            let interface = DATA + offset_of!(in6_pktinfo, ipi6_ifindex);
            if !ip.is_unicast_link_local() {
                control[interface..interface + 4].fill(0);
            }
            DATA + size_of::<in6_pktinfo>().next_multiple_of(size_of::<usize>())
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{net::UdpSocket, os::fd::AsFd, time::Duration};

    use nix::sys::socket::{setsockopt, sockopt};

    use super::*;

    /// Waits until something can be read.
    fn receive(batch: &mut Batch, socket: &UdpSocket, tells_asked: bool) -> usize {
        let mut octet = [0];
        socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        socket.peek_from(&mut octet).unwrap();
        batch.receive(socket.as_fd(), tells_asked, BATCH).unwrap()
    }

    /// More than one batch of datagrams of different lengths: each is answered in its own way, with its own octets.
    #[test]
    fn every_datagram_of_a_batch_is_answered_to_whom_it_came_from() {
        for (bound, client_bound) in [("127.0.0.1:0", "127.0.0.1:0"), ("[::1]:0", "[::1]:0")] {
            let socket = UdpSocket::bind(bound).unwrap();
            let clients: Vec<UdpSocket> = (0..5).map(|_| UdpSocket::bind(client_bound).unwrap()).collect();
            let sent = BATCH + 7;
            for number in 0..sent {
                let client = &clients[number % clients.len()];
                client.send_to(&vec![number as u8; 20 + number], socket.local_addr().unwrap()).unwrap();
            }
            let mut batch = Batch::new();
            let mut taken = 0;
            while taken < sent {
                let came = receive(&mut batch, &socket, false);
                for place in 0..came {
                    let number = batch.exchange(place).0[0];
                    let way = batch.way(place).unwrap();
                    assert_eq!(way.peer, clients[usize::from(number) % clients.len()].local_addr().unwrap());
                    let (packet, reply) = batch.exchange(place);
                    assert_eq!(packet.len(), 20 + usize::from(number));
                    reply[..2].copy_from_slice(&[number, 0xff]);
                    // One in five is not answered.
                    if number % 5 != 4 {
                        batch.reply(place, 2);
                    }
                }
                assert_eq!(batch.send(socket.as_fd()), 0);
                taken += came;
            }
            assert_eq!(taken, sent);
            for (which, client) in clients.iter().enumerate().take(4) {
                client.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
                for number in (which..sent).step_by(clients.len()) {
                    let mut reply = [0; 8];
                    let (length, from) = client.recv_from(&mut reply).unwrap();
                    assert_eq!((&reply[..length], from), (&[number as u8, 0xff][..], socket.local_addr().unwrap()));
                }
            }
        }
    }

    #[test]
    fn the_reply_leaves_from_the_address_that_was_asked() {
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        setsockopt(&socket, sockopt::Ipv4PacketInfo, &true).unwrap();
        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        client.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let mut batch = Batch::new();
        for asked in ["127.0.0.1", "127.7.7.7"] {
            let asked: Ipv4Addr = asked.parse().unwrap();
            let port = socket.local_addr().unwrap().port();
            client.send_to(b"?", (asked, port)).unwrap();
            assert_eq!(receive(&mut batch, &socket, true), 1);
            assert!(matches!(batch.way(0).unwrap().asked, Asked::V4(ip) if ip == asked));
            batch.exchange(0).1[0] = b'!';
            batch.reply(0, 1);
            assert_eq!(batch.send(socket.as_fd()), 0);
            let mut reply = [0; 8];
            assert_eq!(client.recv_from(&mut reply).unwrap(), (1, (asked, port).into()));
        }
    }

    #[test]
    fn a_datagram_that_is_too_long_is_known_by_its_length() {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        let mut batch = Batch::new();
        for (octets, seen) in [(MAX_QUERY, MAX_QUERY), (MAX_QUERY + 1, MAX_QUERY + 1), (9000, MAX_QUERY + 1), (0, 0)] {
            client.send_to(&vec![7; octets], socket.local_addr().unwrap()).unwrap();
            assert_eq!(receive(&mut batch, &socket, false), 1);
            assert_eq!(batch.exchange(0).0.len(), seen);
        }
    }

    /// A reply that the kernel refuses costs no other reply.
    #[test]
    fn what_cannot_be_sent_is_skipped_and_counted() {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        client.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        for number in 0..3u8 {
            client.send_to(&[number], socket.local_addr().unwrap()).unwrap();
        }
        let mut batch = Batch::new();
        let mut came = 0;
        while came < 3 {
            came = receive(&mut batch, &socket, false);
        }
        for place in 0..3 {
            batch.exchange(place).1[0] = place as u8;
            batch.reply(place, 1);
        }
        // An address of no family is none.
        batch.peers[1].0[..2].copy_from_slice(&[0xff, 0xff]);
        assert_eq!(batch.send(socket.as_fd()), 1);
        for expected in [0, 2] {
            let mut reply = [0; 8];
            client.recv_from(&mut reply).unwrap();
            assert_eq!(reply[0], expected);
        }
    }
}
