//! What the files of certificates hold, read and looked at before it is used. \[IO\]

use std::{fs::File, io::Read, path::Path, sync::Arc};

use tokio_rustls::rustls::{
    ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};
use tonic::transport::{Certificate, ClientTlsConfig, Identity};

use super::{OptionsError, Tls, Unusable, convert};

/// Largest file that is read: a bundle of all public authorities has some 250 KiB.
const MAX_FILE: u64 = 1 << 20;

/// The settings that name the files.
pub(super) const CA: &str = "etcd-ca";
pub(super) const CERT: &str = "etcd-cert";
pub(super) const KEY: &str = "etcd-key";

/// What the files of certificates hold, once it is known that they can be used.
#[derive(Clone, Default, PartialEq)]
pub(super) struct Material {
    pub(super) ca: Option<Vec<u8>>,
    pub(super) identity: Option<Pair>,
}

/// A certificate and its key.
#[derive(Clone, PartialEq)]
pub(super) struct Pair {
    cert: Vec<u8>,
    key: Vec<u8>,
}

impl Material {
    pub(super) fn read(tls: Option<&Tls>) -> Result<Self, OptionsError> {
        let tls = tls.cloned().unwrap_or_default();
        if tls.cert.is_some() != tls.key.is_some() {
            return Err(OptionsError::HalfIdentity);
        }
        Ok(Self { ca: read_ca(&tls)?, identity: read_identity(&tls)? })
    }

    pub(super) fn config(&self) -> ClientTlsConfig {
        let config = match &self.ca {
            Some(ca) => ClientTlsConfig::new().ca_certificate(Certificate::from_pem(ca)),
            None => ClientTlsConfig::new().with_native_roots(),
        };
        match &self.identity {
            Some(Pair { cert, key }) => config.identity(Identity::from_pem(cert, key)),
            None => config,
        }
    }

    pub(super) fn handshake(&self) -> Option<ClientConfig> {
        let certificates = |pem: &[u8]| CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>().ok();
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(certificates(self.ca.as_ref()?)?);
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
        let config = config.with_safe_default_protocol_versions().ok()?.with_root_certificates(roots);
        match &self.identity {
            Some(Pair { cert, key }) => {
                let key = PrivateKeyDer::from_pem_slice(key).ok()?;
                config.with_client_auth_cert(certificates(cert)?, key).ok()
            }
            None => Some(config.with_no_client_auth()),
        }
    }

    /// The settings whose files hold something else now.
    pub(super) fn differing(&self, now: &Self) -> Vec<&'static str> {
        let cert = |material: &Self| material.identity.as_ref().map(|pair| pair.cert.clone());
        let key = |material: &Self| material.identity.as_ref().map(|pair| pair.key.clone());
        let all = [(CA, self.ca != now.ca), (CERT, cert(self) != cert(now)), (KEY, key(self) != key(now))];
        all.into_iter().filter(|(_, differs)| *differs).map(|(setting, _)| setting).collect()
    }
}

pub(super) fn read_ca(tls: &Tls) -> Result<Option<Vec<u8>>, Unusable> {
    let Some(path) = &tls.ca else { return Ok(None) };
    let pem = read(CA, path)?;
    let certificates = certificates(CA, path, &pem)?;
    let (known, _) = RootCertStore::empty().add_parsable_certificates(certificates);
    match known {
        0 => Err(Unusable { setting: CA, path: path.clone(), reason: "cannot be used: it holds no authority".into() }),
        _ => Ok(Some(pem)),
    }
}

pub(super) fn read_identity(tls: &Tls) -> Result<Option<Pair>, Unusable> {
    let (Some(cert_path), Some(key_path)) = (&tls.cert, &tls.key) else { return Ok(None) };
    let (cert, key) = (read(CERT, cert_path)?, read(KEY, key_path)?);
    certificates(CERT, cert_path, &cert)?;
    let wrong = |reason: String| Unusable { setting: KEY, path: key_path.clone(), reason };
    if let Err(error) = PrivateKeyDer::from_pem_slice(&key) {
        return Err(wrong(format!("cannot be used: no private key in PEM: {error}")));
    }
    // A connection that is never made tells whether the two fit.
    let config = ClientTlsConfig::new().identity(Identity::from_pem(&cert, &key));
    match tonic::transport::Endpoint::from_static("https://localhost").tls_config(config) {
        Ok(_) => Ok(Some(Pair { cert, key })),
        Err(error) => {
            let cert = cert_path.display();
            Err(wrong(format!("cannot be used with --{CERT} {cert}: {}", convert::with_causes(&error))))
        }
    }
}

fn certificates(setting: &'static str, path: &Path, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, Unusable> {
    let wrong = |reason: String| Unusable { setting, path: path.to_owned(), reason };
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match found {
        Ok(found) if found.is_empty() => Err(wrong("cannot be used: no certificate in PEM".into())),
        Ok(found) => Ok(found),
        Err(error) => Err(wrong(format!("cannot be used: no certificate in PEM: {error}"))),
    }
}

/// The files are small and local, so they are read where it is.
pub(super) fn read(setting: &'static str, path: &Path) -> Result<Vec<u8>, Unusable> {
    let mut content = Vec::new();
    let outcome = File::open(path).and_then(|file| file.take(MAX_FILE).read_to_end(&mut content));
    match outcome {
        Ok(_) => Ok(content),
        Err(error) => Err(Unusable { setting, path: path.to_owned(), reason: format!("cannot be read: {error}") }),
    }
}
