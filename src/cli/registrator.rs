//! Registrator's own flags (gliderlabs/registrator, "Run Reference") as ours, so that whoever replaces it changes the
//! image and adds `--compat registrator`.
//!
//! Go takes long flags with one dash and with two, `-ip X` and `-ip=X`. None of them can be one of ours: we have no
//! flags of a single letter here. They are taken only where Registrator's names are wanted; elsewhere they are answered
//! with what to write instead.

use std::ffi::{OsStr, OsString};

use crate::config::{Env, Errors};

/// One flag of Registrator.
struct Flag {
    name: &'static str,
    /// Whether a value follows.
    valued: bool,
    becomes: Becomes,
}

/// What a flag of Registrator is here.
enum Becomes {
    /// This flag of ours, with the value in this form.
    Flag(&'static str, fn(&str) -> String),
    /// Nothing: this is how it always is.
    Always(&'static str),
    /// Nothing that could stand in for it.
    Nothing(&'static str),
    /// `-deregister`
    Deregister,
}

const fn flag(name: &'static str, valued: bool, becomes: Becomes) -> Flag {
    Flag { name, valued, becomes }
}

fn same(value: &str) -> String {
    value.to_owned()
}

fn seconds(value: &str) -> String {
    format!("{value}s")
}

fn on(value: &str) -> String {
    // Go's booleans: `-explicit`, `-explicit=false`.
    if matches!(value, "false" | "0" | "f" | "F" | "FALSE" | "False") { "off" } else { "on" }.to_owned()
}

fn internal(value: &str) -> String {
    if on(value) == "on" { "registrator-internal" } else { "registrator" }.to_owned()
}

const FLAGS: [Flag; 14] = [
    flag("ip", true, Becomes::Flag("advertise", same)),
    flag("internal", false, Becomes::Flag("compat", internal)),
    flag("explicit", false, Becomes::Flag("explicit", on)),
    flag("tags", true, Becomes::Flag("tags", same)),
    flag("ttl", true, Becomes::Flag("lease", seconds)),
    flag("ttl-refresh", true, Becomes::Always("the lease is renewed every third of its time")),
    flag("resync", true, Becomes::Always("Docker is listed every 30 s, and only what differs is written")),
    flag("cleanup", false, Becomes::Always("what is gone is withdrawn at every start")),
    flag("retry-attempts", true, Becomes::Always("etcd and Docker are tried for ever")),
    flag("retry-interval", true, Becomes::Always("etcd and Docker are tried for ever, ever more slowly up to a limit")),
    flag("deregister", true, Becomes::Deregister),
    flag(
        "useIpFromLabel",
        true,
        Becomes::Nothing(
            "the address that the asker reaches is found from Docker's networks; a container may not choose one. \
             For addresses that all hosts route to, give their subnets to --routed",
        ),
    ),
    flag("require-label", false, Becomes::Nothing("--explicit on publishes only what was given a name")),
    flag("hostname", true, Becomes::Flag("host-id", same)),
];

/// The command line of the process with Registrator's flags as ours, and what is to be said about them.
pub fn translate(arguments: Vec<OsString>, env: &Env) -> Result<(Vec<OsString>, Vec<String>), Errors> {
    let is_agent = arguments.get(1).is_some_and(|word| word == "agent");
    let is_theirs = |word: &OsString| parse(word).is_some() || registry(word).is_some();
    if !is_agent || !arguments.iter().skip(2).any(is_theirs) {
        return Ok((arguments, Vec::new()));
    }
    let wanted = is_wanted(&arguments, env);
    let mut translation = Translation { wanted, ours: Vec::new(), compat: None, notes: Vec::new(), errors: Vec::new() };
    let mut words = arguments.into_iter();
    translation.ours.extend(words.by_ref().take(2));
    let mut words = words.peekable();
    while let Some(word) = words.next() {
        if let Some((flag, value)) = parse(&word) {
            let value = match (value, flag.valued) {
                (Some(value), _) => Some(value),
                (None, false) => Some(String::new()),
                (None, true) => words.next_if(|next| !is_flag(next)).and_then(|next| next.into_string().ok()),
            };
            translation.flag(flag, value);
        } else if let Some((scheme, rest)) = registry(&word) {
            translation.registry(&scheme, &rest);
        } else {
            let takes_value = is_flag(&word) && !word.to_string_lossy().contains('=');
            translation.ours.push(word);
            // The value of a flag of ours is none of Registrator's, whatever it looks like.
            if let Some(value) = takes_value.then(|| words.next_if(|next| !is_flag(next))).flatten() {
                translation.ours.push(value);
            }
        }
    }
    if !translation.errors.is_empty() {
        return Err(Errors(translation.errors));
    }
    if let Some(compat) = translation.compat {
        translation.ours = without_compat(translation.ours);
        translation.ours.extend(["--compat".into(), compat.into()]);
    }
    Ok((translation.ours, translation.notes))
}

/// `--compat registrator -internal` names one setting twice.
fn without_compat(words: Vec<OsString>) -> Vec<OsString> {
    let mut words = words.into_iter();
    let mut rest = Vec::new();
    while let Some(word) = words.next() {
        match word.to_str() {
            Some("--compat") => _ = words.next(),
            Some(text) if text.starts_with("--compat=") => {}
            _ => rest.push(word),
        }
    }
    rest
}

/// `-retry-attempts -1` has a value.
fn is_flag(word: &OsStr) -> bool {
    matches!(word.as_encoded_bytes(), [b'-', next, ..] if !next.is_ascii_digit())
}

/// A flag of Registrator that none of ours is called like, and its value if it stands in the same word.
fn parse(word: &OsStr) -> Option<(&'static Flag, Option<String>)> {
    let word = word.to_str()?;
    let (dashes, text) = match word.strip_prefix("--") {
        Some(text) => (2, text),
        None => (1, word.strip_prefix('-')?),
    };
    let (name, value) = match text.split_once('=') {
        Some((name, value)) => (name, Some(value.to_owned())),
        None => (text, None),
    };
    // `--tags` and `--explicit` are ours, too.
    let ours = dashes == 2 && crate::config::key(name).is_some();
    FLAGS.iter().find(|flag| flag.name == name && !ours).map(|flag| (flag, value))
}

/// `etcd://10.0.0.1:2379/services` → its scheme and the rest, for the backends that Registrator has.
fn registry(word: &OsStr) -> Option<(String, String)> {
    let (scheme, rest) = word.to_str()?.split_once("://")?;
    let known = matches!(
        scheme,
        "etcd"
            | "consul"
            | "consul-tls"
            | "consul-unix"
            | "consulkv"
            | "consulkv-unix"
            | "skydns2"
            | "zookeeper"
            | "eureka"
    );
    known.then(|| (scheme.to_owned(), rest.to_owned()))
}

/// Whether Registrator's names are wanted: then its flags are taken as well.
fn is_wanted(arguments: &[OsString], env: &Env) -> bool {
    let is = |text: &OsStr| text.as_encoded_bytes().starts_with(b"registrator");
    let given = arguments.iter().enumerate().find_map(|(at, word)| match word.to_str()? {
        "--compat" => Some(arguments.get(at + 1).is_some_and(|value| is(value))),
        word => word.strip_prefix("--compat=").map(|value| is(value.as_ref())),
    });
    given.unwrap_or_else(|| env.get("PORTOLAN_COMPAT").is_some_and(|value| is(value.as_ref())))
}

struct Translation {
    wanted: bool,
    ours: Vec<OsString>,
    /// What `-internal` makes of `--compat`.
    compat: Option<String>,
    notes: Vec<String>,
    errors: Vec<String>,
}

impl Translation {
    fn flag(&mut self, flag: &Flag, value: Option<String>) {
        let name = flag.name;
        let Some(value) = value else {
            return self.errors.push(format!("-{name}: a value is missing"));
        };
        match &flag.becomes {
            _ if name == "ttl" && value == "0" => self.always(name, "names end with their host's lease, see --lease"),
            Becomes::Flag(ours, form) => self.take(name, ours, &form(&value)),
            Becomes::Always(why) => self.always(name, why),
            Becomes::Nothing(why) => self.errors.push(format!("-{name} of Registrator: {why}")),
            Becomes::Deregister if value == "always" => self.always(name, "what has died is withdrawn at once"),
            Becomes::Deregister => self.errors.push(format!(
                "-deregister {value} of Registrator: what has died is withdrawn at once, whatever it exited with, \
                 because its address is given to the next container; leave the flag out"
            )),
        }
    }

    fn take(&mut self, theirs: &str, ours: &str, value: &str) {
        if !self.wanted {
            let all = "--compat registrator takes Registrator's flags as they are";
            return self.errors.push(format!("-{theirs} of Registrator: write --{ours} {value}; {all}"));
        }
        match ours {
            "compat" => self.compat = Some(value.to_owned()),
            _ => self.ours.extend([format!("--{ours}").into(), value.into()]),
        }
        self.notes.push(format!("-{theirs} of Registrator is taken for --{ours} {value}"));
    }

    fn always(&mut self, theirs: &str, why: &str) {
        self.notes.push(format!("-{theirs} of Registrator is not needed: {why}"));
    }

    fn registry(&mut self, scheme: &str, rest: &str) {
        let address = rest.split('/').next().unwrap_or_default();
        match scheme {
            "etcd" | "skydns2" => {
                let address = if address.is_empty() { "127.0.0.1:2379" } else { address };
                self.take(&format!("registry {scheme}://"), "etcd-endpoints", &format!("http://{address}"));
                if self.wanted && rest.contains('/') {
                    let path = "keys of our own lie below --etcd-prefix, one for each container";
                    self.notes.push(format!("the path of {scheme}://{rest} is not written: {path}"));
                }
            }
            _ => self.errors.push(format!(
                "{scheme}://{rest} of Registrator: hosts meet in an etcd cluster (--etcd-endpoints URL), \
                 and a single host needs none; names are asked for over DNS"
            )),
        }
    }
}

#[cfg(test)]
mod tests;
