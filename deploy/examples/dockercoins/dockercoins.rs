//! Small stand-ins for the five services of DockerCoins, in one program without dependencies: `dockercoins SERVICE`.
//!
//! They know nothing but bare names and well-known ports. No signal is handled: process 1 of a container is then deaf to
//! the stop signal, goes on serving while nobody is sent to it any more, and is killed at the end of its grace period.
//!
//! A worker tells on standard error, one line each (times are milliseconds since 1970):
//!
//! ```text
//! waiting SERVICE TIME REASON                     before its first coin: it begins when all three are there
//! served SERVICE ADDRESS                          the first time that this address served it
//! skipped SERVICE ADDRESS TIME REASON             no connection there: the next address was tried
//! failed SERVICE ADDRESS BEGUN ENDED REASON       a request that nobody served; ADDRESS is - where none took it
//! adding N, added N                               before and after the counter was raised by N
//! ```

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    hash::{BuildHasher, Hasher, RandomState},
    io::{self, BufRead, BufReader, Read, Write},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, ToSocketAddrs},
    process::ExitCode,
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant, SystemTime},
};

const HTTP: u16 = 80;
const REDIS: u16 = 6379;
/// A host that has gone answers nothing at all: the next address is tried after this.
const CONNECT: Duration = Duration::from_secs(1);
/// For a reply, once connected.
const REPLY: Duration = Duration::from_secs(5);
/// What a worker rests after each coin, as the original does.
const REST: Duration = Duration::from_millis(100);
/// Largest body, and most random bytes.
const LIMIT: usize = 64 << 10;

fn main() -> ExitCode {
    let service = std::env::args().nth(1).unwrap_or_default();
    let ended = match service.as_str() {
        "rng" => serve(HTTP, |stream| http(stream, "GET", rng)),
        "hasher" => serve(HTTP, |stream| http(stream, "POST", hasher)),
        "webui" => serve(HTTP, |stream| http(stream, "GET", webui)),
        "redis" => {
            let store = Arc::new(Mutex::new(Store::default()));
            serve(REDIS, move |stream| redis(stream, &store))
        }
        "worker" => Worker::default().run(),
        _ => Err(io::Error::other("say which: rng, hasher, redis, worker or webui")),
    };
    if let Err(error) = ended {
        eprintln!("{service}: {error}");
    }
    ExitCode::FAILURE
}

/// Serves each connection in a thread of its own, for ever.
fn serve(port: u16, connection: impl Fn(TcpStream) -> io::Result<()> + Clone + Send + 'static) -> io::Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, port))?;
    for stream in listener.incoming() {
        let connection = connection.clone();
        let stream = stream?;
        // A broken connection is its client's affair.
        thread::spawn(move || drop(connection(stream)));
    }
    Ok(())
}

/// A content type and a body.
type Reply = (&'static str, Vec<u8>);
/// The addresses that were tried, in order, each with why it gave no connection: only the last may have given one.
type Tried = Vec<(IpAddr, Option<String>)>;

/// Reads one HTTP request, answers it and closes.
fn http(stream: TcpStream, method: &str, answer: fn(&str, &[u8]) -> io::Result<Reply>) -> io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut request = String::new();
    reader.read_line(&mut request)?;
    let mut length = 0;
    loop {
        let mut header = String::new();
        reader.read_line(&mut header)?;
        let Some((name, value)) = header.split_once(':') else { break };
        if name.eq_ignore_ascii_case("content-length") {
            length = value.trim().parse().unwrap_or(0).min(LIMIT);
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    let mut words = request.split_whitespace();
    let (asked, path) = (words.next().unwrap_or_default(), words.next().unwrap_or("/"));
    let (status, (kind, body)) = if asked != method {
        ("405 Method Not Allowed", ("text/plain", Vec::new()))
    } else {
        match answer(path, &body) {
            Ok(reply) => ("200 OK", reply),
            Err(error) => ("503 Service Unavailable", ("text/plain", format!("{error}\n").into_bytes())),
        }
    };
    let head = format!("HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n", body.len());
    let mut stream = stream;
    stream.write_all(&[head.as_bytes(), b"Connection: close\r\n\r\n", &body].concat())
}

fn rng(path: &str, _: &[u8]) -> io::Result<Reply> {
    let count: usize = path.trim_start_matches('/').parse().unwrap_or(32);
    let mut bytes = vec![0; count.min(LIMIT)];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(("application/octet-stream", bytes))
}

fn hasher(_: &str, body: &[u8]) -> io::Result<Reply> {
    Ok(("text/plain", hex(&sha256(body)).into_bytes()))
}

fn webui(path: &str, _: &[u8]) -> io::Result<Reply> {
    if path != "/json" {
        return Ok(("text/html; charset=utf-8", include_bytes!("index.html").to_vec()));
    }
    let told = ask_redis(&mut Vec::new(), "GET hashes\r\nHLEN wallet\r\nTIME\r\n", 3)?;
    let [hashes, coins, now] = &told[..] else { return Err(io::Error::other("redis said less than asked")) };
    Ok(("application/json", format!("{{\"hashes\":{hashes},\"coins\":{coins},\"now\":{now}}}\n").into_bytes()))
}

/// What redis keeps here: numbers by name, and maps by name.
#[derive(Default)]
struct Store {
    counters: BTreeMap<String, i64>,
    maps: BTreeMap<String, BTreeMap<String, String>>,
}

impl Store {
    fn carry_out(&mut self, command: &[&str]) -> String {
        match command {
            ["INCRBY", key, by] if by.parse::<i64>().is_ok() => {
                let value = self.counters.entry((*key).to_owned()).or_default();
                *value += by.parse::<i64>().unwrap_or(0);
                format!(":{value}\r\n")
            }
            ["GET", key] => {
                let value = self.counters.get(*key).copied().unwrap_or(0).to_string();
                format!("${}\r\n{value}\r\n", value.len())
            }
            ["HSET", key, field, value] => {
                let map = self.maps.entry((*key).to_owned()).or_default();
                format!(":{}\r\n", u8::from(map.insert((*field).to_owned(), (*value).to_owned()).is_none()))
            }
            ["HLEN", key] => format!(":{}\r\n", self.maps.get(*key).map_or(0, BTreeMap::len)),
            ["TIME"] => {
                let seconds = (milliseconds() / 1000).to_string();
                format!("*2\r\n${}\r\n{seconds}\r\n$1\r\n0\r\n", seconds.len())
            }
            _ => "-ERR not one of the few commands of this stand-in\r\n".to_owned(),
        }
    }
}

/// The protocol's inline commands, which the real one takes as well.
fn redis(stream: TcpStream, store: &Mutex<Store>) -> io::Result<()> {
    let mut writer = stream.try_clone()?;
    for line in BufReader::new(stream).lines() {
        let reply = match store.lock() {
            Ok(mut store) => store.carry_out(&line?.split_whitespace().collect::<Vec<_>>()),
            Err(_) => return Err(io::Error::other("the store broke")),
        };
        writer.write_all(reply.as_bytes())?;
    }
    Ok(())
}

/// One value of redis' reply; of a list the first.
fn value(reader: &mut impl BufRead) -> io::Result<String> {
    let mut line = String::new();
    reader.read_line(&mut line)?;
    match (line.get(..1), line.trim_end().get(1..)) {
        (Some(":" | "+"), Some(value)) => Ok(value.to_owned()),
        (Some("$"), Some(_)) => {
            line.clear();
            reader.read_line(&mut line)?;
            Ok(line.trim_end().to_owned())
        }
        (Some("*"), Some(count)) => {
            let count: usize = count.parse().unwrap_or(1);
            let values: Vec<String> = (0..count).map(|_| value(reader)).collect::<io::Result<_>>()?;
            values.into_iter().next().ok_or_else(|| io::Error::other("an empty list"))
        }
        _ => Err(io::Error::other(format!("redis said {line:?}"))),
    }
}

/// Carries out `count` commands.
fn ask_redis(tried: &mut Tried, commands: &str, count: usize) -> io::Result<Vec<String>> {
    let mut stream = connect("redis", REDIS, tried)?;
    stream.write_all(commands.as_bytes())?;
    let mut reader = BufReader::new(stream);
    (0..count).map(|_| value(&mut reader)).collect()
}

/// One HTTP request; gives the body of a 200.
fn ask_http(tried: &mut Tried, name: &str, head: &str, body: &[u8]) -> io::Result<Vec<u8>> {
    let mut stream = connect(name, HTTP, tried)?;
    let rest = format!("{head} HTTP/1.1\r\nHost: {name}\r\nContent-Length: {}\r\n\r\n", body.len());
    stream.write_all(&[rest.as_bytes(), body].concat())?;
    let mut reply = Vec::new();
    stream.read_to_end(&mut reply)?;
    let end = reply.windows(4).position(|four| four == b"\r\n\r\n");
    match end {
        Some(end) if reply.starts_with(b"HTTP/1.1 200") => Ok(reply.split_off(end + 4)),
        _ => Err(io::Error::other(format!("{} octets that are no good reply", reply.len()))),
    }
}

/// Asks the resolver anew for every request, and tries each address in turn. Their order is ours: resolver libraries sort
/// addresses by nearness (RFC 6724), which would send everybody to the same one.
fn connect(name: &str, port: u16, tried: &mut Tried) -> io::Result<TcpStream> {
    let mut addresses: Vec<SocketAddr> = (name, port).to_socket_addrs()?.collect();
    let mut last = io::Error::other("no address");
    while !addresses.is_empty() {
        let chance = usize::try_from(RandomState::new().build_hasher().finish() >> 32).unwrap_or(0);
        let address = addresses.swap_remove(chance % addresses.len());
        match TcpStream::connect_timeout(&address, CONNECT) {
            Ok(stream) => {
                tried.push((address.ip(), None));
                stream.set_read_timeout(Some(REPLY))?;
                return Ok(stream);
            }
            Err(error) => {
                tried.push((address.ip(), Some(error.to_string())));
                last = error;
            }
        }
    }
    Err(last)
}

/// Mines for ever.
#[derive(Default)]
struct Worker {
    known: BTreeSet<(&'static str, IpAddr)>,
}

impl Worker {
    fn run(mut self) -> io::Result<()> {
        // Where a whole host starts, its containers do so all at once and in any order.
        for (service, port) in [("rng", HTTP), ("hasher", HTTP), ("redis", REDIS)] {
            while let Err(error) = connect(service, port, &mut Vec::new()) {
                eprintln!("waiting {service} {} {error}", milliseconds());
                thread::sleep(REST);
            }
        }
        let (mut mined, mut since) = (0_u32, Instant::now());
        loop {
            mined += u32::from(self.mine().is_some());
            if since.elapsed() >= Duration::from_secs(1) && mined > 0 {
                eprintln!("adding {mined}");
                let raise = format!("INCRBY hashes {mined}\r\n");
                if self.tell("redis", |tried| ask_redis(tried, &raise, 1)).is_some() {
                    eprintln!("added {mined}");
                    (mined, since) = (0, Instant::now());
                }
            }
            thread::sleep(REST);
        }
    }

    /// One hash, and a coin when it begins with 0. `None`: somebody did not answer, and has been told of.
    fn mine(&mut self) -> Option<()> {
        let bytes = self.tell("rng", |tried| ask_http(tried, "rng", "GET /32", &[]))?;
        let hash = self.tell("hasher", |tried| ask_http(tried, "hasher", "POST /", &bytes))?;
        let hash = String::from_utf8_lossy(&hash).into_owned();
        if hash.starts_with('0') {
            let keep = format!("HSET wallet {hash} {}\r\n", hex(&bytes));
            self.tell("redis", |tried| ask_redis(tried, &keep, 1))?;
        }
        Some(())
    }

    /// Makes a request and tells what became of it.
    fn tell<T>(&mut self, service: &'static str, request: impl FnOnce(&mut Tried) -> io::Result<T>) -> Option<T> {
        let (begun, mut tried) = (milliseconds(), Tried::new());
        let reply = request(&mut tried);
        for (address, reason) in &tried {
            if let Some(reason) = reason {
                eprintln!("skipped {service} {address} {begun} {reason}");
            }
        }
        let taken = tried.last().filter(|(_, reason)| reason.is_none()).map(|(address, _)| *address);
        match (reply, taken) {
            (Ok(reply), Some(address)) => {
                if self.known.insert((service, address)) {
                    eprintln!("served {service} {address}");
                }
                Some(reply)
            }
            (Ok(_), None) => None,
            (Err(error), taken) => {
                let taken = taken.map_or_else(|| "-".to_owned(), |address| address.to_string());
                eprintln!("failed {service} {taken} {begun} {} {error}", milliseconds());
                None
            }
        }
    }
}

fn milliseconds() -> u128 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_millis()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// FIPS 180-4. Its constants are the first 32 bits of the fractional parts of the first primes' square and cube roots.
fn sha256(message: &[u8]) -> [u8; 32] {
    let primes: Vec<u32> = (2..).filter(|n| (2..*n).all(|d| n % d != 0)).take(64).collect();
    let mut state = [0_u32; 8];
    state.iter_mut().zip(&primes).for_each(|(word, prime)| *word = root_fraction(*prime, 2));
    let constants: Vec<u32> = primes.iter().map(|prime| root_fraction(*prime, 3)).collect();

    let mut padded = message.to_vec();
    padded.push(0x80);
    while padded.len() % 64 != 56 {
        padded.push(0);
    }
    padded.extend((message.len() as u64 * 8).to_be_bytes());

    for block in padded.chunks_exact(64) {
        let mut words: Vec<u32> =
            block.chunks_exact(4).map(|four| four.iter().fold(0, |word, byte| word << 8 | u32::from(*byte))).collect();
        for i in 16..64 {
            let (a, b) = (words[i - 15], words[i - 2]);
            let low = a.rotate_right(7) ^ a.rotate_right(18) ^ (a >> 3);
            let high = b.rotate_right(17) ^ b.rotate_right(19) ^ (b >> 10);
            words.push(words[i - 16].wrapping_add(low).wrapping_add(words[i - 7]).wrapping_add(high));
        }
        let mut v = state;
        for (word, constant) in words.iter().zip(&constants) {
            let high = v[4].rotate_right(6) ^ v[4].rotate_right(11) ^ v[4].rotate_right(25);
            let choice = (v[4] & v[5]) ^ (!v[4] & v[6]);
            let one = [high, choice, *constant, *word].into_iter().fold(v[7], u32::wrapping_add);
            let low = v[0].rotate_right(2) ^ v[0].rotate_right(13) ^ v[0].rotate_right(22);
            let majority = (v[0] & v[1]) ^ (v[0] & v[2]) ^ (v[1] & v[2]);
            v.rotate_right(1);
            v[4] = v[4].wrapping_add(one);
            v[0] = one.wrapping_add(low).wrapping_add(majority);
        }
        state.iter_mut().zip(v).for_each(|(word, add)| *word = word.wrapping_add(add));
    }
    let mut digest = [0; 32];
    digest.chunks_exact_mut(4).zip(state).for_each(|(bytes, word)| bytes.copy_from_slice(&word.to_be_bytes()));
    digest
}

/// The first 32 bits of the fraction of the `root`th root of `n`: the integer root of n·2^(32·root), without its upper bits.
fn root_fraction(n: u32, root: u32) -> u32 {
    let target = u128::from(n) << (32 * root);
    let (mut low, mut high) = (0_u128, 1_u128 << 40);
    while high - low > 1 {
        let middle = (low + high) / 2;
        if middle.pow(root) <= target { low = middle } else { high = middle }
    }
    u32::try_from(low & 0xffff_ffff).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_are_those_of_sha_256() {
        // FIPS 180-4's own examples, and the lengths about a block's end.
        for (message, start) in [
            (b"".to_vec(), "e3b0c44298fc1c14"),
            (b"abc".to_vec(), "ba7816bf8f01cfea"),
            (vec![b'a'; 55], "9f4390f8d30c2dd9"),
            (vec![b'a'; 56], "b35439a4ac6f0948"),
            (vec![b'a'; 63], "7d3e74a05d7db15b"),
            (vec![b'a'; 64], "ffe054fe7ae0cb6d"),
        ] {
            assert!(hex(&sha256(&message)).starts_with(start), "{} octets", message.len());
        }
    }
}
