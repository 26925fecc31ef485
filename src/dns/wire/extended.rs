//! Why a question got no answer, as clients that speak EDNS are told (extended DNS errors, RFC 8914).

/// The option's code.
pub(super) const EXTENDED: u16 = 15;

/// Why a question got no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// Docker or the registry has not been listed yet.
    NotListed,
    /// It comes out of a Docker network, from a container that is not known yet.
    UnknownAsker,
    /// Its address is not on the access list.
    NotAllowed,
    /// Near this host there is no such service, but the asker may stand elsewhere.
    AskYourHost,
    /// Names of others are asked for this host and its containers only.
    NotOurs,
    /// All networks of the container are internal.
    Internal,
    /// There is no upstream to ask.
    NoUpstream,
    /// A name that is asked of no upstream.
    Withheld,
    /// No upstream has answered, or said anything that could be read.
    Unanswered,
    /// The upstreams say that the other name of the service does not exist.
    NoOtherName,
    /// Too many questions wait already.
    Busy,
    /// A transfer, or a class other than IN.
    Unsupported,
    /// A panic, which is our fault.
    Fault,
}

impl Why {
    /// All of them.
    #[cfg(test)]
    pub(super) const ALL: [Self; 13] = [
        Self::NotListed,
        Self::UnknownAsker,
        Self::NotAllowed,
        Self::AskYourHost,
        Self::NotOurs,
        Self::Internal,
        Self::NoUpstream,
        Self::Withheld,
        Self::Unanswered,
        Self::NoOtherName,
        Self::Busy,
        Self::Unsupported,
        Self::Fault,
    ];

    /// The error's own code (RFC 8914 section 4), and what people read.
    pub(super) const fn said(self) -> (u16, &'static str) {
        /// Other, Not Ready, Prohibited, Not Authoritative, Not Supported, No Reachable Authority.
        const OTHER: u16 = 0;
        const NOT_READY: u16 = 14;
        const PROHIBITED: u16 = 18;
        const NOT_AUTHORITATIVE: u16 = 20;
        const NOT_SUPPORTED: u16 = 21;
        const NO_REACHABLE_AUTHORITY: u16 = 22;
        match self {
            Self::NotListed => (NOT_READY, "Docker or the registry is not listed yet"),
            Self::UnknownAsker => (NOT_READY, "the container that asks is not known yet"),
            Self::NotAllowed => (PROHIBITED, "this address may not ask here (--allow)"),
            Self::AskYourHost => (NOT_AUTHORITATIVE, "not in default or global: ask your own host"),
            Self::NotOurs => (NOT_AUTHORITATIVE, "from your address only names of ours are asked"),
            Self::Internal => (PROHIBITED, "all networks of this container are internal"),
            Self::NoUpstream => (NOT_AUTHORITATIVE, "there is no upstream to ask"),
            Self::Withheld => (PROHIBITED, "this name is asked of no upstream"),
            Self::Unanswered => (NO_REACHABLE_AUTHORITY, "no upstream has answered"),
            Self::NoOtherName => (OTHER, "the other name of the service does not exist"),
            Self::Busy => (OTHER, "too many questions are waiting"),
            Self::Unsupported => (NOT_SUPPORTED, "only class IN, and no transfers"),
            Self::Fault => (OTHER, "a fault of this agent: see its log"),
        }
    }

    /// The option's data.
    pub(super) fn data(self) -> Vec<u8> {
        let (code, text) = self.said();
        [&code.to_be_bytes(), text.as_bytes()].concat()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Octets of a text at most, so that even the shortest query with EDNS gets no reply of more than three times its octets:
    /// 33 + name + text against 3 x (27 + name).
    const LONGEST: usize = 48;

    #[test]
    fn no_text_makes_a_reply_longer_than_an_unproven_client_may_be_sent() {
        for why in Why::ALL {
            assert!(why.said().1.len() <= LONGEST, "{why:?}");
        }
    }
}
