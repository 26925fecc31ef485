//! What DNS over TLS is spoken with (RFC 7858): a certificate and its key, read from PEM texts. Pure: files are read
//! elsewhere, connections are held by `server/tls.rs`.
//!
//! TLS 1.2 and 1.3 (RFC 9325 section 3.1.1). Early data, which could be sent again by others (RFC 8446 section 8), is not taken.

use std::{fmt, sync::Arc};

use tokio_rustls::rustls::{
    Error, InconsistentKeys, ServerConfig,
    crypto::ring,
    pki_types::{
        CertificateDer, PrivateKeyDer,
        pem::{self, PemObject},
    },
};

/// The port of DNS over TLS (RFC 7858 section 3.1).
pub const TLS_PORT: u16 = 853;

/// The protocol's name in the handshake (IANA's ALPN registry, RFC 7858). A client may leave it out; one that wants
/// something else is not served.
pub const ALPN: &[u8] = b"dot";

/// Most certificates of one chain. Real ones have up to four; each is sent in every handshake.
pub const MAX_CHAIN: usize = 10;

/// A certificate with its chain and its key, fit to be used.
#[derive(Clone)]
pub struct Certificate {
    chain: Vec<CertificateDer<'static>>,
    config: Arc<ServerConfig>,
}

/// Why a certificate cannot be used, as a fragment with the fix.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CertificateError {
    /// The file of the certificate is wrong.
    #[error("{0}")]
    Certificate(String),
    /// The file of the key is wrong, or the key is another certificate's.
    #[error("{0}")]
    Key(String),
}

impl Certificate {
    /// Reads a chain, the server's own certificate first, and the key of that one: PKCS #8, PKCS #1 or SEC 1, not encrypted.
    pub fn parse(chain: &str, key: &str) -> Result<Self, CertificateError> {
        let wrong = |message: String| Err(CertificateError::Certificate(message));
        let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(chain.as_bytes()).collect();
        let certificates = match certificates {
            Ok(found) if found.is_empty() => {
                return wrong("there is no certificate in it; it begins with -----BEGIN CERTIFICATE-----".to_owned());
            }
            Ok(found) if found.len() > MAX_CHAIN => {
                return wrong(format!("{} certificates; name a chain of at most {MAX_CHAIN}", found.len()));
            }
            Ok(found) => found,
            Err(error) => return wrong(format!("no PEM: {error}")),
        };
        let wrong = |message: String| Err(CertificateError::Key(message));
        let key = match PrivateKeyDer::from_pem_slice(key.as_bytes()) {
            Ok(key) => key,
            Err(pem::Error::NoItemsFound) if key.contains("ENCRYPTED PRIVATE KEY") => {
                return wrong(
                    "the key is encrypted, and nobody is here to type a password: openssl pkey decrypts it".to_owned(),
                );
            }
            Err(pem::Error::NoItemsFound) => {
                return wrong("there is no private key in it; it begins with -----BEGIN PRIVATE KEY-----".to_owned());
            }
            Err(error) => return wrong(format!("no PEM: {error}")),
        };
        let provider = Arc::new(ring::default_provider());
        // Looked at before the two are brought together, so that it is known which file is to blame.
        if provider.key_provider.load_private_key(key.clone_key()).is_err() {
            return wrong(
                "no key of a kind that is known: RSA from 2048 bits on, ECDSA P-256 or P-384, or Ed25519".to_owned(),
            );
        }
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .and_then(|config| config.with_no_client_auth().with_single_cert(certificates.clone(), key));
        let mut config = match config {
            Ok(config) => config,
            Err(Error::InconsistentKeys(InconsistentKeys::KeyMismatch)) => {
                return wrong("the key does not fit the certificate; name the key that it was made with, and the server's own certificate first".to_owned());
            }
            Err(error) => return Err(CertificateError::Certificate(format!("cannot be used: {error}"))),
        };
        config.alpn_protocols = vec![ALPN.to_vec()];
        Ok(Self { chain: certificates, config: Arc::new(config) })
    }

    /// What a handshake is made with.
    pub(super) fn config(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.config)
    }
}

/// The same chain; its key is the same then.
impl PartialEq for Certificate {
    fn eq(&self, other: &Self) -> bool {
        self.chain == other.chain
    }
}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Certificate(of {})", self.chain.len())
    }
}

#[cfg(test)]
pub(crate) mod samples {
    //! Self-signed ones of `dns.example`, which nobody trusts.

    /// A certificate.
    pub(crate) const CERTIFICATE: &str = include_str!("../../tests/it/dns_server/tls/certificate.pem");
    /// Its key.
    pub(crate) const KEY: &str = include_str!("../../tests/it/dns_server/tls/key.pem");
    /// Another one's.
    pub(crate) const OTHER_KEY: &str = include_str!("../../tests/it/dns_server/tls/renewed-key.pem");
}

#[cfg(test)]
mod tests {
    use super::{samples::*, *};

    #[test]
    fn a_certificate_with_its_key_can_be_used() {
        let certificate = Certificate::parse(CERTIFICATE, KEY).unwrap();
        assert_eq!(certificate.config().alpn_protocols, [b"dot"]);
        assert_eq!(certificate.config().max_early_data_size, 0);
        assert_eq!(certificate, Certificate::parse(CERTIFICATE, KEY).unwrap());
        assert!(!format!("{certificate:?}").contains("PRIVATE"));
    }

    #[test]
    fn what_cannot_be_used_is_told_with_the_file_that_is_to_blame() {
        let (certificate, key) = (CertificateError::Certificate("".into()), CertificateError::Key("".into()));
        let cut = &KEY[..KEY.len() / 2];
        let encrypted = KEY.replace("PRIVATE KEY", "ENCRYPTED PRIVATE KEY");
        let many = CERTIFICATE.repeat(MAX_CHAIN + 1);
        let garbage = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n";
        for (chain, private, blamed, said) in [
            ("", KEY, &certificate, "no certificate in it"),
            (KEY, KEY, &certificate, "no certificate in it"),
            ("-----BEGIN CERTIFICATE-----\nAAAA\n", KEY, &certificate, "no PEM"),
            (&many, KEY, &certificate, "at most 10"),
            (CERTIFICATE, "", &key, "no private key in it"),
            (CERTIFICATE, CERTIFICATE, &key, "no private key in it"),
            (CERTIFICATE, cut, &key, "no PEM"),
            (CERTIFICATE, &encrypted, &key, "encrypted"),
            (CERTIFICATE, garbage, &key, "of a kind that is known"),
            (CERTIFICATE, OTHER_KEY, &key, "does not fit the certificate"),
        ] {
            let error = Certificate::parse(chain, private).unwrap_err();
            assert_eq!(std::mem::discriminant(&error), std::mem::discriminant(blamed), "{error}");
            assert!(error.to_string().contains(said), "{error}: {said}");
        }
    }
}
