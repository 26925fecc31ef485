//! Between our words and etcd's: transactions, replies and, above all, what an error means. Pure.

use etcd_client::{
    Compare as WireCompare, CompareOp, Error, PutOptions, Txn, TxnOp,
    proto::{PbKeyValue, PbResponseHeader, PbTxnOpResponse, PbTxnResponse},
};
use tonic::{Code, ConnectError, Status};

use crate::registry::call::{CallError, Compare, Header, KeyValue, LeaseId, Op, OpReply, Reply};

/// What a failed attempt means for the next one.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// Not carried out, for sure; another member may do it.
    NotSent(String),
    /// It may have been carried out, or may yet be.
    Uncertain(String),
    /// Not carried out: etcd does not know our token (any more).
    Token(String),
    /// Every member would say the same.
    Final(CallError),
}

impl Failure {
    /// The same failure, of something that came before the request itself.
    pub(super) fn before_sending(self) -> Self {
        match self {
            Self::Uncertain(reason) => Self::NotSent(reason),
            Self::Token(reason) => Self::Final(CallError::Denied(reason)),
            failure => failure,
        }
    }
}

pub(super) fn txn(compare: &[Compare], then: &[Op], otherwise: &[Op]) -> Txn {
    let ops = |ops: &[Op]| ops.iter().map(txn_op).collect::<Vec<_>>();
    let compare: Vec<_> = compare
        .iter()
        .map(|Compare::ModRevision { key, equal }| WireCompare::mod_revision(key.as_slice(), CompareOp::Equal, *equal))
        .collect();
    Txn::new().when(compare).and_then(ops(then)).or_else(ops(otherwise))
}

fn txn_op(op: &Op) -> TxnOp {
    match op {
        Op::Put { key, value, lease } => {
            TxnOp::put(key.as_slice(), value.as_slice(), Some(PutOptions::new().with_lease(lease.0)))
        }
        Op::Delete { key } => TxnOp::delete(key.as_slice(), None),
        Op::Get { key } => TxnOp::get(key.as_slice(), None),
    }
}

/// A reply to a transaction of `then` and `otherwise` many operations.
pub(super) fn txn_reply(reply: PbTxnResponse, then: usize, otherwise: usize) -> Result<Reply, Failure> {
    let header = header(reply.header)?;
    let expected = if reply.succeeded { then } else { otherwise };
    let replies: Vec<_> = reply.responses.into_iter().filter_map(|reply| op_reply(reply.response?)).collect();
    if replies.len() != expected {
        return Err(malformed("a transaction"));
    }
    Ok(Reply::Txn { header, succeeded: reply.succeeded, replies })
}

fn op_reply(reply: PbTxnOpResponse) -> Option<OpReply> {
    match reply {
        PbTxnOpResponse::ResponsePut(_) => Some(OpReply::Put),
        PbTxnOpResponse::ResponseDeleteRange(reply) => Some(OpReply::Deleted(reply.deleted)),
        PbTxnOpResponse::ResponseRange(reply) => Some(OpReply::Got(reply.kvs.into_iter().next().map(key_value))),
        PbTxnOpResponse::ResponseTxn(_) => None,
    }
}

/// The header that every reply carries; without one a reply cannot be trusted.
pub(super) fn header(header: Option<PbResponseHeader>) -> Result<Header, Failure> {
    let header = header.ok_or_else(|| malformed("a call"))?;
    Ok(Header { cluster: header.cluster_id, revision: header.revision })
}

fn malformed(what: &str) -> Failure {
    Failure::Uncertain(format!("the reply to {what} is malformed"))
}

pub(super) fn key_value(kv: PbKeyValue) -> KeyValue {
    KeyValue {
        key: kv.key,
        value: kv.value,
        create_revision: kv.create_revision,
        mod_revision: kv.mod_revision,
        lease: Some(LeaseId(kv.lease)).filter(|lease| lease.0 != 0),
    }
}

/// What an error of the stub means.
pub(super) fn failure(error: Error) -> Failure {
    match error {
        Error::GRpcStatus(status) => status_failure(&status),
        Error::TransportError(error) => Failure::NotSent(with_causes(&error)),
        Error::InvalidArgs(reason) => Failure::Final(CallError::Invalid(reason)),
        error => Failure::Uncertain(error.to_string()),
    }
}

/// What a status means. The messages are etcd's (`rpctypes/error.go`), and part of its API.
fn status_failure(status: &Status) -> Failure {
    if has_cause::<ConnectError>(status) {
        return Failure::NotSent(with_causes(status));
    }
    let message = status.message();
    let says = |part: &str| message.contains(part);
    let reason = || if message.is_empty() { status.code().to_string() } else { message.to_owned() };
    match status.code() {
        Code::Unauthenticated => Failure::Token(reason()),
        Code::InvalidArgument if says("revision of auth store is old") || says("user name is empty") => {
            Failure::Token(reason())
        }
        Code::Unknown if says("invalid auth token") => Failure::Token(reason()),
        Code::PermissionDenied => Failure::Final(CallError::Denied(reason())),
        Code::InvalidArgument if says("authentication failed") => Failure::Final(CallError::Denied(reason())),
        Code::NotFound if says("lease not found") => Failure::Final(CallError::LeaseNotFound),
        Code::OutOfRange if says("has been compacted") => Failure::Final(CallError::Compacted),
        Code::ResourceExhausted if says("database space exceeded") => Failure::Final(CallError::NoSpace),
        // The member's queue is full; it did not take the request.
        Code::ResourceExhausted if says("too many requests") => Failure::NotSent(reason()),
        // Said before the request is looked at, because we require a leader; and by what is no member yet.
        Code::Unavailable if says("no leader") || says("not capable") || says("learner") => Failure::NotSent(reason()),
        Code::InvalidArgument
        | Code::NotFound
        | Code::AlreadyExists
        | Code::FailedPrecondition
        | Code::OutOfRange
        | Code::ResourceExhausted
        | Code::Unimplemented => Failure::Final(CallError::Invalid(reason())),
        // Among them `request timed out` and `leader changed`: proposed, and perhaps committed later.
        Code::Ok
        | Code::Cancelled
        | Code::Unknown
        | Code::DeadlineExceeded
        | Code::Aborted
        | Code::Internal
        | Code::Unavailable
        | Code::DataLoss => Failure::Uncertain(reason()),
    }
}

/// Whether a refusal is our own, of a reply larger than the limit; tonic has only words for it.
pub(super) fn is_too_large_reply(reason: &str) -> bool {
    reason.contains("decoded message length too large")
}

/// Whether a connection failed since one side does not accept the other's certificate. TLS 1.3 lets a client send
/// before the server has looked at its certificate, so the refusal may come in place of a reply.
pub(super) fn is_of_certificates(reason: &str) -> bool {
    let is_refused = ALERTS.iter().any(|alert| reason.contains(&format!("received fatal alert: {alert}")));
    is_refused || reason.contains("invalid peer certificate")
}

/// What a server says of a client's certificate (RFC 8446 section 6.2), in rustls' words.
const ALERTS: [&str; 8] = [
    "BadCertificate",
    "UnsupportedCertificate",
    "CertificateRevoked",
    "CertificateExpired",
    "CertificateUnknown",
    "CertificateRequired",
    "UnknownCA",
    "AccessDenied",
];

fn has_cause<E: std::error::Error + 'static>(error: &(dyn std::error::Error + 'static)) -> bool {
    std::iter::successors(Some(error), |error| error.source()).any(|error| error.is::<E>())
}

/// An error with its causes in one line; tonic's own texts say little more than "transport error".
pub(super) fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        next = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_error_of_etcd_is_one_decision() {
        let invalid = |text: &str| Failure::Final(CallError::Invalid(text.into()));
        let not_sent = |text: &str| Failure::NotSent(text.into());
        let uncertain = |text: &str| Failure::Uncertain(text.into());
        let token = |text: &str| Failure::Token(text.into());
        let denied = |text: &str| Failure::Final(CallError::Denied(text.into()));
        type Expected<'a> = &'a dyn Fn(&str) -> Failure;
        let table: &[(Code, &str, Expected<'_>)] = &[
            (Code::NotFound, "etcdserver: requested lease not found", &|_| Failure::Final(CallError::LeaseNotFound)),
            (Code::OutOfRange, "etcdserver: mvcc: required revision has been compacted", &|_| {
                Failure::Final(CallError::Compacted)
            }),
            (Code::OutOfRange, "etcdserver: mvcc: required revision is a future revision", &invalid),
            (Code::OutOfRange, "etcdserver: too large lease TTL", &invalid),
            (Code::ResourceExhausted, "etcdserver: mvcc: database space exceeded", &|_| {
                Failure::Final(CallError::NoSpace)
            }),
            (Code::ResourceExhausted, "grpc: received message larger than max (3 vs. 2)", &invalid),
            (Code::ResourceExhausted, "etcdserver: too many requests", &not_sent),
            (Code::InvalidArgument, "etcdserver: request is too large", &invalid),
            (Code::InvalidArgument, "etcdserver: too many operations in txn request", &invalid),
            (Code::InvalidArgument, "etcdserver: duplicate key given in txn request", &invalid),
            (Code::InvalidArgument, "etcdserver: authentication failed, invalid user ID or password", &denied),
            (Code::PermissionDenied, "etcdserver: permission denied", &denied),
            (Code::Unauthenticated, "etcdserver: invalid auth token", &token),
            (Code::Unknown, "etcdserver: invalid auth token", &token),
            (Code::InvalidArgument, "etcdserver: revision of auth store is old", &token),
            (Code::InvalidArgument, "etcdserver: user name is empty", &token),
            (Code::Unavailable, "etcdserver: no leader", &not_sent),
            (Code::Unavailable, "etcdserver: request timed out", &uncertain),
            (Code::Unavailable, "etcdserver: leader changed", &uncertain),
            (Code::Unavailable, "error reading a body from connection", &uncertain),
            (Code::DeadlineExceeded, "context deadline exceeded", &uncertain),
            (Code::Unimplemented, "unknown service etcdserverpb.KV", &invalid),
        ];
        for (code, message, expected) in table {
            let error = Error::GRpcStatus(Status::new(*code, *message));
            assert_eq!(failure(error), expected(message), "{code:?} {message}");
        }
    }

    #[test]
    fn only_what_is_said_of_certificates_in_a_handshake_is_a_refusal() {
        for (reason, is_refusal) in [
            ("transport error: invalid peer certificate: UnknownIssuer", true),
            ("received fatal alert: BadCertificate", true),
            ("received fatal alert: CertificateExpired", true),
            // It may come in the midst of a reply.
            ("received fatal alert: BadRecordMac", false),
            ("operation was canceled", false),
            ("tls handshake eof", false),
        ] {
            assert_eq!(is_of_certificates(reason), is_refusal, "{reason}");
        }
    }

    #[test]
    fn a_connection_that_was_refused_carried_nothing() {
        let refused = std::io::Error::from(std::io::ErrorKind::ConnectionRefused);
        let status = Status::from_error(Box::new(ConnectError(Box::new(refused))));
        assert!(matches!(failure(Error::GRpcStatus(status)), Failure::NotSent(_)));
    }

    #[test]
    fn a_reply_that_lacks_parts_is_no_reply() {
        assert!(matches!(txn_reply(PbTxnResponse::default(), 0, 0), Err(Failure::Uncertain(_))));
        let header = Some(PbResponseHeader::default());
        let short = PbTxnResponse { header, succeeded: true, responses: Vec::new() };
        assert!(matches!(txn_reply(short.clone(), 1, 0), Err(Failure::Uncertain(_))));
        assert!(txn_reply(short, 0, 1).is_ok());
    }
}
