//! What a confined host still reaches: its bus, however that is named, and what it keeps.

use std::fs;

use super::*;
use crate::redis::tls::certificates;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bus_on_the_network_by_name_by_socket_and_by_tls() {
    let folder = certificates();
    let server = Server::start_tls(folder.path()).await;
    publish(&open(&server.url()).await, "in", &[Draft::new("ok")]).await;
    let ca = folder.path().join("ca.pem");
    let cases = [
        (server.url().replace("127.0.0.1", "localhost"), None),
        (format!("unix://{}", server.socket().display()), None),
        (format!("{}?ssl_ca_certs={}", server.tls_url(), ca.display()), None),
        // As the system's certificates are found.
        (server.tls_url(), Some(&ca)),
    ];
    for (n, (url, trusted)) in cases.into_iter().enumerate() {
        let bench = Bench::new();
        let config = bench.config(&url, &[HandlerToml::new(&format!("probe{n}"), "probe", "in")]);
        let mut host = bench.run_as(&config, &["--until-idle", "--json"], |command| {
            command.envs(trusted.map(|ca| ("SSL_CERT_FILE", ca)));
        });
        host.finish();
        assert!(host.log().contains("the host is confined"), "{}", host.log());
        assert_eq!(host.summary()["handlers"][0]["acked"], 1, "{url}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bus_beside_it_and_the_code_it_compiled() {
    let (bench, kept) = (Bench::new(), Bench::new());
    publish(&open(&embedded(&bench)).await, "in", &[Draft::new("ok")]).await;
    // Two slashes before a relative path are passed over.
    let config = bench.config("sqlite://bus.db", &[probe()]);
    let text = fs::read_to_string(&config).unwrap();
    fs::write(&config, format!("[host]\ncode_cache = {:?}\n{text}", kept.path("deep/code"))).unwrap();
    let mut host = bench.run(&config, &["--until-idle", "--json"]);
    host.finish();
    assert_eq!(host.summary()["handlers"][0]["acked"], 1);
    let kept = fs::read_dir(kept.path("deep/code")).unwrap().count();
    assert!(kept > 0, "{}", host.log());
}
