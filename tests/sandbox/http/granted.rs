//! What is sent and what is not.

use sandbar::sandbox::{Capability, Grants, Http, UrlGrant, inspect, missing_grants};

use super::*;
use crate::support::web::certificates;

#[test]
fn what_is_granted_is_sent_and_answered() {
    let web = Web::start();
    let handler = handler(all_of(&web));
    let event =
        fetches(&[&format!("POST {}", web.url("/a/./b/../c?q=1"))], &[("headers", "X-Own: yes"), ("body", "data")]);
    assert_eq!(said(&handler, &event), "200 5 hello");
    let asked = web.asked();
    assert_eq!(asked.len(), 1);
    assert_eq!((asked[0].line.as_str(), &asked[0].body[..]), ("POST /a/c?q=1 HTTP/1.1", &b"data"[..]));
    assert_eq!(asked[0].header("host"), format!("127.0.0.1:{}", web.port));
    assert_eq!((asked[0].header("x-own"), asked[0].header("content-length")), ("yes", "4"));
    assert!(asked[0].header("user-agent").starts_with("sandbar/0."), "{:?}", asked[0]);
    assert!(asked[0].all("connection").is_empty());
}

#[test]
fn what_is_not_granted_is_denied_and_never_sent() {
    let (web, other) = (Web::start(), Web::start());
    let handler = handler(granted(&[&web.url("/xapi/*"), &web.url("/one")]));
    let port = web.port;
    for url in [
        web.url("/"),
        web.url("/xapi"),
        web.url("/xapi/../admin"),
        web.url("/xapi/..%2fadmin"),
        web.url("/one/more"),
        other.url("/xapi/a"),
        web.url_by("localhost", "/xapi/a"),
        web.url_by("127.0.0.2", "/xapi/a"),
        web.url_by("[::ffff:127.0.0.1]", "/xapi/a"),
        format!("https://127.0.0.1:{port}/xapi/a"),
        "http://169.254.169.254/latest/meta-data/".to_owned(),
    ] {
        let said = fetch(&handler, &format!("GET {url}"));
        assert!(said.starts_with("failed ErrorCode::HttpRequestDenied; HTTP: "), "{url}: {said}");
        assert!(
            said.contains("is not granted to handler \"probe\"; to allow it: [handler.grants] http = [\""),
            "{said}"
        );
    }
    for line in [
        format!("GET http://127.0.0.1:{port}@evil.net/xapi/a"),
        format!("GET http://user@127.0.0.1:{port}/xapi/a"),
        format!("GET ftp://127.0.0.1:{port}/xapi/a"),
        "GET http:///xapi/a".to_owned(),
    ] {
        assert_eq!(fetch(&handler, &line), "failed ErrorCode::HttpRequestUriInvalid", "{line}");
    }
    for method in ["CONNECT", "TRACE", "GE T"] {
        let said = said(&handler, &fetches(&[&format!("{method} {}", web.url("/one"))], &[]));
        assert!(said.starts_with("failed ErrorCode::HttpRequest"), "{method}: {said}");
    }
    assert_eq!((web.connections(), other.connections()), (0, 0));
    assert_eq!(fetch(&handler, &format!("GET {}", web.url("/xapi/a"))), "200 5 hello");
    assert_eq!(fetch(&handler, &format!("GET {}", web.url_by("127.1", "/one?q=1"))), "200 5 hello");
}

#[test]
fn a_name_that_leads_to_a_private_address_leads_nowhere_unless_it_is_said() {
    let web = Web::start();
    let url = web.url_by("localhost", "/*");
    let said = fetch(&handler(granted(&[&url])), &format!("GET {}", web.url_by("localhost", "/a")));
    assert!(said.starts_with("failed ErrorCode::DestinationIpProhibited; HTTP: localhost is at "), "{said}");
    assert!(said.contains(&format!("http = [{{ url = \"{url}\", private = true }}]")), "{said}");
    assert_eq!(web.connections(), 0);
    let private = Http { urls: vec![UrlGrant::parse(&url, true).unwrap()], refused: None };
    assert_eq!(fetch(&handler(private), &format!("GET {}", web.url_by("LOCALHOST.", "/a"))), "200 5 hello");
    assert_eq!(web.asked()[0].header("host"), format!("localhost:{}", web.port));
}

#[test]
fn a_redirect_is_the_guests_to_follow_and_checked_again() {
    let (web, other) = (Web::start(), Web::start());
    let handler = handler(granted(&[&web.url("/redirect/*")]));
    let line = format!("GET {}", web.url(&format!("/redirect/127.0.0.1:{}/secret", other.port)));
    let follow = format!("GET {}", other.url("/secret"));
    let said = said(&handler, &fetches(&[&line, &follow], &[("show", "location")]));
    let lines: Vec<_> = said.split(" failed ").collect();
    assert_eq!(lines[0], format!("302 4 gone location: {}", other.url("/secret")), "{said}");
    assert!(lines[1].starts_with("ErrorCode::HttpRequestDenied"), "{said}");
    assert_eq!(other.connections(), 0);
}

#[test]
fn without_the_grant_or_while_it_is_refused_nothing_is_sent() {
    let web = Web::start();
    let line = format!("POST {}", web.url("/a"));
    let without = handler(Http::default());
    let said_without = fetch(&without, &line);
    assert!(
        said_without.contains("HttpRequestDenied") && said_without.contains("[handler.grants] http"),
        "{said_without}"
    );
    let missing = without.missing_grants();
    assert_eq!(missing.len(), 1);
    assert_eq!(
        (missing[0].capability, missing[0].capability.interface()),
        (Capability::Http, "wasi:http/outgoing-handler")
    );
    assert_eq!(missing[0].line, r#"[handler.grants] http = ["https://host.example.org/*"]"#);

    let refused = handler(Http { refused: Some("not now".to_owned()), ..all_of(&web) });
    assert_eq!(fetch(&refused, &line), "failed ErrorCode::HttpRequestDenied; HTTP: not now");
    assert_eq!(refused.missing_grants(), []);
    assert_eq!(web.connections(), 0);
}

#[test]
fn what_it_imports_is_seen_without_calling_it() {
    let found = inspect(&guest("fetch"));
    assert!(found.refusal.is_none(), "{:?}", found.refusal);
    assert!(found.capabilities.contains(&Capability::Http));
    let module = &shared().1;
    let grants = Grants { http: granted(&["https://lrs.example.org/*"]), ..Grants::default() };
    assert_eq!(missing_grants(module, &grants), []);
    assert!(missing_grants(module, &Grants::default()).iter().any(|one| one.capability == Capability::Http));
}

#[test]
fn a_server_over_tls_has_to_be_who_the_url_names() {
    let folder = certificates("IP:127.0.0.1,DNS:localhost");
    let web = Web::secured(folder.path());
    let (sandbox, module) = trusting(Some(&folder.path().join("ca.pem")));
    let asks = |urls: Vec<UrlGrant>, url: &str| {
        let handler = handler_in(&sandbox, &module, Http { urls, refused: None }, limits());
        let (verdict, _) = called(sandbox.call(&handler, &fetches(&[&format!("GET {url}")], &[]), 1, false));
        let Verdict::Reject { reason, .. } = verdict else { panic!("{verdict:?}") };
        reason
    };
    let grant = |url: &str, private: bool| vec![UrlGrant::parse(url, private).unwrap()];
    assert_eq!(asks(grant(&web.url("/*"), false), &web.url("/a")), "200 5 hello");
    assert_eq!(asks(grant(&web.url_by("localhost", "/*"), true), &web.url_by("localhost", "/a")), "200 5 hello");
    assert_eq!(web.asked().len(), 2);

    // One whose authority is not trusted.
    let said = fetch(&handler(all_of(&web)), &format!("GET {}", web.url("/a")));
    assert!(
        said.starts_with("failed ErrorCode::TlsCertificateError; HTTP: the certificate of https://127.0.0.1"),
        "{said}"
    );
    assert!(said.contains("UnknownIssuer") && said.contains("[host] http_ca_file"), "{said}");
    assert_eq!(web.asked().len(), 2);
    // One that shows the certificate of another.
    let others = certificates("DNS:example.org");
    let impostor = Web::secured(others.path());
    let (sandbox, module) = trusting(Some(&others.path().join("ca.pem")));
    let handler = handler_in(&sandbox, &module, all_of(&impostor), limits());
    let event = fetches(&[&format!("GET {}", impostor.url("/a"))], &[]);
    let (verdict, _) = called(sandbox.call(&handler, &event, 1, false));
    let Verdict::Reject { reason, .. } = verdict else { panic!("{verdict:?}") };
    assert!(reason.contains("TlsCertificateError") && reason.contains("NotValidForName"), "{reason}");
    assert!(impostor.asked().is_empty());
    // One that speaks no TLS at all.
    let plain = Web::start();
    let url = format!("https://127.0.0.1:{}", plain.port);
    let said = asks(grant(&format!("{url}/*"), false), &format!("{url}/a"));
    assert!(said.starts_with("failed ErrorCode::") && plain.asked().is_empty(), "{said}");
}

#[test]
fn a_file_of_authorities_that_cannot_be_used_is_said_at_the_start() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ca.pem");
    std::fs::write(&path, "nothing of that kind").unwrap();
    let (sandbox, module) = trusting(Some(&path));
    let services: Arc<dyn Services> = Arc::new(Remembering::default());
    let grants = Grants { http: granted(&["https://lrs.example.org/*"]), ..Grants::default() };
    let error = sandbox.handler(&module, Spec { grants, ..spec() }, services).unwrap_err();
    assert!(error.to_string().contains("http_ca_file"), "{error}");
    // Who sends nothing needs none.
    handler_in(&sandbox, &module, Http::default(), limits());
}
