//! The threads on which requests are sent, and which servers are believed to be who they say.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use tokio::runtime::{Builder, Handle, Runtime};
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::pki_types::pem::{self, PemObject as _};
use tokio_rustls::rustls::{self, ClientConfig, RootCertStore};

use crate::sandbox::limits;

/// What all handlers with the grant share: threads, and the authorities that are trusted.
pub(in crate::sandbox) struct Client {
    /// Always there until it is dropped.
    runtime: Option<Runtime>,
    roots: Roots,
}

/// The system's authorities and the operator's. Reading the system's takes some milliseconds, which those who speak to
/// no server over TLS are spared.
struct Roots {
    own: Vec<CertificateDer<'static>>,
    tls: OnceLock<Arc<ClientConfig>>,
}

/// Why the file of `host.http_ca_file` cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BadRoots {
    /// It cannot be read.
    #[error("it cannot be read")]
    Unreadable(#[source] io::Error),
    /// It is no PEM.
    #[error("it is no PEM: {0}")]
    NotPem(String),
    /// It has no certificates.
    #[error("it has no certificate: it takes PEM, each beginning with `-----BEGIN CERTIFICATE-----`")]
    Empty,
    /// One is broken.
    #[error("certificate {number} cannot be used: {why}")]
    Certificate {
        /// Its place in the file, from 1.
        number: usize,
        /// What is wrong with it.
        why: String,
    },
}

/// Whether the file of `host.http_ca_file` can be used.
///
/// # Errors
///
/// Why not.
pub fn check_roots(path: &Path) -> Result<(), BadRoots> {
    read(path).map(drop)
}

fn read(path: &Path) -> Result<Vec<CertificateDer<'static>>, BadRoots> {
    let text = std::fs::read(path).map_err(BadRoots::Unreadable)?;
    let certificates: Result<Vec<_>, pem::Error> = CertificateDer::pem_slice_iter(&text).collect();
    let certificates = certificates.map_err(|error| BadRoots::NotPem(error.to_string()))?;
    if certificates.is_empty() {
        return Err(BadRoots::Empty);
    }
    let mut store = RootCertStore::empty();
    for (index, certificate) in certificates.iter().enumerate() {
        let bad = |error: rustls::Error| BadRoots::Certificate { number: index + 1, why: error.to_string() };
        store.add(certificate.clone()).map_err(bad)?;
    }
    Ok(certificates)
}

// === impl Client ===

impl Client {
    /// Starts the threads. `roots`: a file of authorities beside the system's.
    pub(in crate::sandbox) fn start(roots: Option<&Path>) -> Result<Self, Start> {
        let own = match roots {
            Some(path) => read(path).map_err(|error| Start::Roots(path.to_owned(), error))?,
            None => Vec::new(),
        };
        let runtime = Builder::new_multi_thread()
            .worker_threads(limits::HTTP_THREADS)
            .max_blocking_threads(limits::HTTP_LOOKUP_THREADS)
            .thread_name("sandbar-http")
            .enable_io()
            .enable_time()
            .build()
            .map_err(Start::Threads)?;
        Ok(Self { runtime: Some(runtime), roots: Roots { own, tls: OnceLock::new() } })
    }

    pub(super) fn handle(&self) -> Option<Handle> {
        self.runtime.as_ref().map(|runtime| runtime.handle().clone())
    }

    /// How TLS is spoken. Sessions are not to be taken up again: two handlers must not be linked by them.
    pub(super) fn tls(&self) -> Arc<ClientConfig> {
        Arc::clone(self.roots.tls.get_or_init(|| Arc::new(self.roots.config())))
    }
}

/// Why there is no client.
#[derive(Debug)]
pub(in crate::sandbox) enum Start {
    Roots(PathBuf, BadRoots),
    Threads(io::Error),
}

impl Drop for Client {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // Whoever drops it may be a thread that must not wait; what was under way has lost its call.
            runtime.shutdown_background();
        }
    }
}

// === impl Roots ===

impl Roots {
    fn config(&self) -> ClientConfig {
        let mut store = RootCertStore::empty();
        let found = rustls_native_certs::load_native_certs();
        let (taken, _) = store.add_parsable_certificates(found.certs);
        store.add_parsable_certificates(self.own.iter().cloned());
        if taken == 0 {
            let errors = found.errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
            tracing::warn!(
                errors,
                "this system has no certificates of authorities: no server is trusted over TLS but by [host] http_ca_file"
            );
        }
        let mut config = config(store);
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        config.resumption = rustls::client::Resumption::disabled();
        config
    }
}

/// By ring, as everything here, whatever provider the process has made its default.
fn config(store: RootCertStore) -> ClientConfig {
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
    #[expect(clippy::expect_used, reason = "ring speaks both versions, which no setting changes")]
    let builder = builder.with_safe_default_protocol_versions().expect("TLS 1.2 and 1.3 are known");
    builder.with_root_certificates(store).with_no_client_auth()
}
