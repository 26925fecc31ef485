//! What several settings decide together, once each has been read.

use std::{
    io,
    net::IpAddr,
    path::{Path, PathBuf},
};

use super::{Config, Reader, Registry, Secret, Setting, Source, User, show::Show, unreadable};
use crate::{
    dns::{
        forward::Suffix,
        listen::Listen,
        prefer::Prefer,
        special::{self, Finding, Special},
        tls::{Certificate, CertificateError},
    },
    registry::{
        etcd::password_in,
        external::{leads_out, words},
    },
};

impl Reader<'_> {
    pub(super) fn settle_registry(&mut self, config: &mut Config) {
        let Config { registry, etcd_endpoints: endpoints, .. } = config;
        match (registry.value, &registry.source, endpoints.value.as_slice()) {
            // Endpoints that could not be read have been told already.
            (Registry::Etcd, _, []) if endpoints.source == Source::Default => self.wrong(
                "registry",
                "etcd",
                &registry.source,
                "no endpoint is known; add --etcd-endpoints http://HOST:2379",
            ),
            (Registry::Memory, Source::Default, [_, ..]) => {
                *registry = Setting { value: Registry::Etcd, source: endpoints.source.clone() };
            }
            (Registry::Memory, source, [_, ..]) => {
                let message = format!("contradicts --etcd-endpoints ({}); leave one of the two out", endpoints.source);
                self.wrong("registry", "memory", &source.clone(), &message);
            }
            _ => {}
        }
    }

    /// Adds the scheme to bare endpoints, and refuses to send what should be secret in the clear.
    pub(super) fn settle_tls(&mut self, config: &mut Config, read: &dyn Fn(&Path) -> io::Result<String>) {
        let files = [("etcd-ca", &config.etcd_ca), ("etcd-cert", &config.etcd_cert), ("etcd-key", &config.etcd_key)];
        for (name, setting) in files {
            if let Some(path) = &setting.value
                && let Err(error) = read(path)
            {
                self.wrong(name, &path.show(), &setting.source, &unreadable(&error));
            }
        }
        match (&config.etcd_cert, &config.etcd_key) {
            (Setting { value: Some(path), source }, Setting { value: None, .. }) => {
                self.wrong("etcd-cert", &path.show(), source, "a certificate needs its key; add --etcd-key");
            }
            (Setting { value: None, .. }, Setting { value: Some(path), source }) => {
                self.wrong("etcd-key", &path.show(), source, "a key needs its certificate; add --etcd-cert");
            }
            _ => {}
        }
        let secured = files.into_iter().find(|(_, setting)| setting.value.is_some());
        let endpoints_source = config.etcd_endpoints.source.clone();
        for endpoint in &mut config.etcd_endpoints.value {
            if !endpoint.contains("://") {
                *endpoint = format!("{}://{endpoint}", if secured.is_some() { "https" } else { "http" });
            }
            if let Some((name, setting)) = &secured
                && endpoint.starts_with("http://")
            {
                let message = format!("not encrypted although --{name} ({}) is given; write https://", setting.source);
                self.wrong("etcd-endpoints", endpoint, &endpoints_source, &message);
            }
        }
    }

    /// All three or none, and what the files hold must fit together.
    pub(super) fn settle_dns_tls(&mut self, config: &mut Config, read: &dyn Fn(&Path) -> io::Result<String>) {
        let Config { dns, dns_tls, tls_cert, tls_key, certificate, .. } = config;
        for address in &dns_tls.value {
            if dns.value.contains(&Listen::Address(*address)) {
                let message = format!("--dns ({}) answers there in the clear; leave the port out for 853", dns.source);
                self.wrong("dns-tls", &address.show(), &dns_tls.source, &message);
            }
        }
        // An address that could not be read has been told already.
        if dns_tls.source == Source::Default {
            for (name, file) in [("tls-cert", &*tls_cert), ("tls-key", &*tls_key)] {
                if let Some(path) = &file.value {
                    self.wrong(name, &path.show(), &file.source, "nobody is answered with it; add --dns-tls ADDR");
                }
            }
            return;
        }
        let (Some(chain_path), Some(key_path)) = (&tls_cert.value, &tls_key.value) else {
            let message = match (&tls_cert.value, &tls_key.value) {
                (Some(_), _) => "without the certificate's key; add --tls-key FILE",
                (_, Some(_)) => "without a certificate; add --tls-cert FILE",
                _ => "without a certificate and its key; add --tls-cert FILE and --tls-key FILE",
            };
            return self.wrong("dns-tls", &dns_tls.value.show(), &dns_tls.source, message);
        };
        let mut content = |name, path: &PathBuf, source| match read(path) {
            Ok(text) => Some(text),
            Err(error) => {
                self.wrong(name, &path.show(), source, &unreadable(&error));
                None
            }
        };
        let chain = content("tls-cert", chain_path, &tls_cert.source);
        let key = content("tls-key", key_path, &tls_key.source);
        let (Some(chain), Some(key)) = (chain, key) else { return };
        match Certificate::parse(&chain, &key) {
            Ok(parsed) => *certificate = Some(parsed),
            Err(CertificateError::Certificate(message)) => {
                self.wrong("tls-cert", &chain_path.show(), &tls_cert.source, &message);
            }
            Err(CertificateError::Key(message)) => {
                self.wrong("tls-key", &key_path.show(), &tls_key.source, &message);
            }
        }
    }

    pub(super) fn settle_user(&mut self, config: &mut Config, read: &dyn Fn(&Path) -> io::Result<String>) {
        let Config { etcd_user: user, etcd_password_file: file, .. } = config;
        if let Some(User { name, password: Some(_) }) = &user.value
            && !matches!(user.source, Source::Env(_))
        {
            let message = "a password here is seen by other users of this host; use --etcd-password-file";
            self.wrong("etcd-user", name, &user.source, message);
        }
        let Some(path) = &file.value else { return };
        let Some(user) = &mut user.value else {
            return self.wrong("etcd-password-file", &path.show(), &file.source, "whose password? add --etcd-user");
        };
        match read(path) {
            Ok(text) => match password_in(&text) {
                Some(password) => user.password = Some(Secret::new(password)),
                None => self.wrong("etcd-password-file", &path.show(), &file.source, "its first line is empty"),
            },
            Err(error) => self.wrong("etcd-password-file", &path.show(), &file.source, &unreadable(&error)),
        }
    }

    pub(super) fn settle_external(&mut self, config: &Config) {
        let Setting { value, source } = &config.external;
        for (place, (name, external)) in value.iter().enumerate() {
            let text = words(name, external);
            if let Err(error) = leads_out(external, &config.zone.value) {
                self.wrong("external", &text, source, &error.to_string());
            }
            if value[..place].iter().any(|(other, _)| other == name) {
                self.wrong("external", &text, source, "a second entry of this name: one entry may have many addresses");
            }
        }
    }

    /// Our own names are answered here, and some others on every host: giving them away would do nothing but mislead.
    pub(super) fn settle_upstream(&mut self, config: &Config) {
        let Setting { value, source } = &config.upstream;
        let Ok(zone) = config.zone.value.parse::<Suffix>() else { return };
        for (suffix, server) in value.suffixes.iter().filter(|(suffix, _)| zone.covers(suffix.as_str())) {
            let message = format!("{zone} is our own zone and answered here; name a domain outside of it");
            self.wrong("upstream", &format!("{suffix}={server}"), source, &message);
        }
        for (suffix, server) in &value.suffixes {
            if let Some(Finding { special: Special::Loopback | Special::Nowhere, source: document, .. }) =
                special::find_text(suffix.as_str())
            {
                let message =
                    format!("{suffix} is answered by every host itself ({document}) and never forwarded; leave it out");
                self.wrong("upstream", &format!("{suffix}={server}"), source, &message);
            }
        }
    }

    pub(super) fn settle_prefer(&mut self, config: &Config) {
        let Config { prefer, locality, .. } = config;
        if prefer.value == Prefer::Locality && locality.value.is_none() {
            let message = "where does this host stand? add --locality, such as eu/a";
            self.wrong("prefer", "locality", &prefer.source, message);
        }
    }

    pub(super) fn settle_advertise(&mut self, config: &Config) {
        let Setting { value, source } = &config.advertise;
        for is_v4 in [true, false] {
            let family: Vec<IpAddr> = value.iter().copied().filter(|address| address.is_ipv4() == is_v4).collect();
            if family.len() > 1 {
                self.wrong("advertise", &family.show(), source, "two of one family; name one per family");
            }
        }
    }
}
