//! A question over UDP, and what came back in a form that can be compared whole.

use std::{
    collections::BTreeSet,
    fmt,
    io::{self, Read, Write},
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket},
    time::Duration,
};

use hickory_proto::{
    op::{Edns, Message, Query, ResponseCode},
    rr::{Name, RData, RecordType},
};

/// How long a reply may take: a hundred times what it takes, and short enough to ask again.
const PATIENCE: Duration = Duration::from_secs(1);

/// One reply, or that there was none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// NOERROR with these addresses, or with these targets as `address:port`.
    Found(BTreeSet<String>),
    /// NOERROR with no answer.
    NoData,
    /// NXDOMAIN.
    NoName,
    /// Any other code.
    Failed(ResponseCode),
    /// Nothing came back, or nothing that can be read.
    Silence(String),
}

impl Answer {
    /// `Found` with these.
    pub(crate) fn found(items: impl IntoIterator<Item = impl ToString>) -> Self {
        Self::Found(items.into_iter().map(|item| item.to_string()).collect())
    }

    /// No address: the name does not exist, or has none.
    pub(crate) fn is_gone(&self) -> bool {
        matches!(self, Self::NoData | Self::NoName)
    }
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Found(items) => write!(f, "{}", items.iter().map(String::as_str).collect::<Vec<_>>().join(" ")),
            other => write!(f, "{other:?}"),
        }
    }
}

/// The bytes of a question.
pub(crate) fn question(id: u16, name: &str, kind: RecordType) -> Vec<u8> {
    let mut message = Message::query();
    message.metadata.id = id;
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(format!("{name}.")).expect("a name of the test's own"), kind));
    // Ten targets with their addresses are more than 512 octets.
    let mut edns = Edns::new();
    edns.set_max_payload(1232);
    message.set_edns(edns);
    message.to_vec().expect("a question fits")
}

/// Reads a reply: its id and what it says. `None`: not a DNS message.
pub(crate) fn read(packet: &[u8]) -> Option<(u16, Answer)> {
    let message = Message::from_vec(packet).ok()?;
    let answer = match message.metadata.response_code {
        ResponseCode::NoError if message.answers.is_empty() => Answer::NoData,
        ResponseCode::NoError => {
            Answer::Found(message.answers.iter().flat_map(|record| show(&message, &record.data)).collect())
        }
        ResponseCode::NXDomain => Answer::NoName,
        other => Answer::Failed(other),
    };
    Some((message.metadata.id, answer))
}

/// Asks once.
pub(crate) fn ask(server: SocketAddr, name: &str, kind: RecordType) -> Answer {
    let exchange = || -> io::Result<Answer> {
        let socket = match server {
            SocketAddr::V4(_) => UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?,
            SocketAddr::V6(_) => UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0))?,
        };
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.connect(server)?;
        socket.send(&question(4711, name, kind))?;
        let mut buffer = [0; 65_535];
        let mut length = socket.recv(&mut buffer)?;
        // Who asks from outside of the host gets three octets for one, and the rest over TCP.
        if buffer[2] & 0b10 != 0 {
            let mut stream = TcpStream::connect_timeout(&server, PATIENCE)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            let question = question(4711, name, kind);
            let framed = [&u16::try_from(question.len()).map_err(io::Error::other)?.to_be_bytes(), &question[..]];
            stream.write_all(&framed.concat())?;
            let mut announced = [0; 2];
            stream.read_exact(&mut announced)?;
            length = usize::from(u16::from_be_bytes(announced));
            stream.read_exact(&mut buffer[..length])?;
        }
        let (_, answer) = read(&buffer[..length]).ok_or_else(|| io::Error::other("not a DNS message"))?;
        Ok(answer)
    };
    exchange().unwrap_or_else(|error| Answer::Silence(error.to_string()))
}

/// A record as the tests compare it. An SRV record's target is shown by its addresses in the additional section: what
/// a client connects to. A target without any is shown by its name, so that the comparison fails and says so.
fn show(message: &Message, data: &RData) -> Vec<String> {
    match data {
        RData::A(a) => vec![a.0.to_string()],
        RData::AAAA(aaaa) => vec![aaaa.0.to_string()],
        RData::SRV(srv) => {
            let addresses = message.additionals.iter().filter(|record| record.name == srv.target);
            let shown: Vec<String> = addresses
                .filter_map(|record| match &record.data {
                    RData::A(a) => Some(format!("{}:{}", a.0, srv.port)),
                    _ => None,
                })
                .collect();
            if shown.is_empty() { vec![format!("{}:{}", srv.target, srv.port)] } else { shown }
        }
        other => vec![other.to_string()],
    }
}
