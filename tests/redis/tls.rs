//! A server that is spoken to through TLS, with certificates made for the test.

use std::path::Path;
use std::process::{Command, Stdio};

use sandbar::bus::Error;
use tempfile::TempDir;

use super::host;
use crate::conformance::{LONG_LEASE, ack, commit, join, publish, take_one};
use crate::support::bounded;
use crate::support::redis::Server;

/// A folder with `ca.pem`, and `cert.pem` and `key.pem` that it vouches for, for 127.0.0.1 and no other name.
pub(crate) fn certificates() -> TempDir {
    let folder = TempDir::new().unwrap();
    let key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"];
    openssl(folder.path(), &key, &["-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=ca of the test"]);
    let signed = ["-CA", "ca.pem", "-CAkey", "ca.key", "-keyout", "key.pem", "-out", "cert.pem", "-subj", "/CN=redis"];
    let extensions = ["-addext", "subjectAltName=IP:127.0.0.1", "-addext", "basicConstraints=critical,CA:FALSE"];
    openssl(folder.path(), &key, &[&signed[..], &extensions].concat());
    folder
}

fn openssl(folder: &Path, key: &[&str], arguments: &[&str]) {
    let mut command = Command::new("openssl");
    command.args(["req", "-x509", "-days", "2"]).args(key).args(arguments).current_dir(folder).stdin(Stdio::null());
    let made = command.output().expect("openssl is installed (`make setup`)");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
}

/// Publishes, takes and settles one message.
async fn works(url: &str) {
    let bus = host(url).await;
    assert!(bounded("probe", bus.probe(&[])).await.unwrap().is_empty());
    publish(&bus, "t", 1).await;
    let subscription = bounded("join", join(&bus, LONG_LEASE)).await;
    commit(&subscription, take_one(&subscription).await, ack()).await;
    assert_eq!(bus.status(&"t".into(), "g").await.unwrap().pending, 0);
    subscription.close().await.unwrap();
}

/// What `probe` says to a URL whose certificate will not do.
async fn refused(url: &str) -> String {
    let error = bounded("probe", host(url).await.probe(&[])).await.unwrap_err();
    // Trying again would not help.
    assert!(matches!(error, Error::Settings(_)) && !error.is_transient(), "{error:?}");
    error.to_string()
}

#[tokio::test]
async fn a_certificate_is_checked_against_the_ca_that_the_url_names() {
    let folder = certificates();
    let server = Server::start_tls(folder.path()).await;
    let ca = folder.path().join("ca.pem");
    works(&format!("{}?ssl_ca_certs={}", server.tls_url(), ca.display())).await;
    let other = certificates();
    let wrong = format!("{}?ssl_ca_certs={}", server.tls_url(), other.path().join("ca.pem").display());
    for url in [server.tls_url(), wrong] {
        let error = refused(&url).await;
        assert!(error.contains(&server.tls_url()) && error.contains("not trusted"), "{error}");
        assert!(error.contains("ssl_ca_certs=FILE"), "it does not say what to do: {error}");
    }
}

#[tokio::test]
async fn a_certificate_for_another_name_is_refused() {
    let folder = certificates();
    let server = Server::start_tls(folder.path()).await;
    let url = server.tls_url().replace("127.0.0.1", "localhost");
    let error = refused(&format!("{url}?ssl_ca_certs={}", folder.path().join("ca.pem").display())).await;
    assert!(error.contains("another name"), "{error}");
}

#[tokio::test]
async fn any_certificate_will_do_if_the_url_says_so() {
    let folder = certificates();
    let server = Server::start_tls(folder.path()).await;
    works(&format!("{}?ssl_cert_reqs=none", server.tls_url())).await;
    works(&format!(
        "{}?ssl_cert_reqs=none&ssl_check_hostname=false",
        server.tls_url().replace("127.0.0.1", "localhost")
    ))
    .await;
}

#[tokio::test]
async fn a_server_without_tls_is_an_error_that_names_the_url() {
    let server = Server::start(&[]).await;
    let url = server.url().replace("redis://", "rediss://");
    let error = bounded("probe", host(&url).await.probe(&[])).await.unwrap_err();
    assert!(error.to_string().contains(&url), "{error}");
}
