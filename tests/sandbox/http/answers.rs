//! What comes back, from servers that do right and from those that do not.

use super::*;

#[test]
fn every_kind_of_answer_is_read() {
    let web = Web::start();
    let handler = handler(all_of(&web));
    for (line, expected) in [
        ("GET /hello", "200 5 hello"),
        ("HEAD /hello", "200 0 "),
        ("GET /status/404", "404 0 "),
        ("GET /status/503", "503 0 "),
        ("GET /status/204", "204 0 "),
        ("GET /until-closed", "200 9 all of it"),
        ("GET /chunked", "200 32 hello world[(\"x-sum\", [49, 49])]"),
    ] {
        let (method, path) = line.split_once(' ').unwrap();
        assert_eq!(fetch(&handler, &format!("{method} {}", web.url(path))), expected.trim_end(), "{line}");
    }
    let large = said(&handler, &fetches(&[&format!("GET {}", web.url("/bytes/3000000"))], &[]));
    assert!(large.starts_with("200 3000000 xxx"), "{large}");
    // Without reading the body, but for its end.
    let event = fetches(&[&format!("GET {}", web.url("/bytes/3000000"))], &[("trailers", "only")]);
    assert_eq!(said(&handler, &event), "200 0");
}

#[test]
fn a_servers_faults_are_told_apart() {
    let web = Web::start();
    let handler = handler(granted(&[&web.url("/*"), "http://127.0.0.1:1/*", "http://does-not-exist.invalid/*"]));
    for (url, expected) in [
        (web.url("/nothing"), "HttpResponseIncomplete"),
        (web.url("/garbage"), "HttpProtocolError"),
        (web.url("/cut"), "HttpResponseIncomplete"),
        ("http://127.0.0.1:1/".to_owned(), "ConnectionRefused"),
    ] {
        assert_eq!(fetch(&handler, &format!("GET {url}")), format!("failed ErrorCode::{expected}"), "{url}");
    }
    let said = fetch(&handler, "GET http://does-not-exist.invalid/");
    assert!(said.starts_with("failed ErrorCode::DnsError"), "{said}");
}

#[test]
fn headers_of_the_connection_are_the_hosts() {
    let web = Web::start();
    let handler = handler(all_of(&web));
    let show = "set-cookie keep-alive proxy-authenticate connection content-length";
    let answer = said(&handler, &fetches(&[&format!("GET {}", web.url("/cookies"))], &[("show", show)]));
    let expected =
        "200 5 hello set-cookie: 2 values keep-alive: none proxy-authenticate: none connection: none content-length: 5";
    assert_eq!(answer, expected);
    for name in ["Host", "connection", "Transfer-Encoding", "proxy-authorization", "Upgrade", "te", "expect"] {
        let said = said(&handler, &event("fields", &[("name", name), ("value", "x")]));
        assert_eq!(said.matches("HeaderError::Forbidden").count(), 3, "{name}: {said}");
    }
    for (name, value) in [("a", "x\r\nhost: evil"), ("a", "x\ny"), ("a b", "x"), ("a\r\nb", "x"), ("", "x")] {
        let said = said(&handler, &event("fields", &[("name", name), ("value", value)]));
        assert_eq!(said.matches("HeaderError::InvalidSyntax").count(), 3, "{name:?}: {said}");
    }
}

#[test]
fn a_length_that_is_promised_is_kept() {
    let web = Web::start();
    let handler = handler(all_of(&web));
    let line = format!("PUT {}", web.url("/a"));
    let with = |length: &str| said(&handler, &fetches(&[&line], &[("headers", length), ("body", "hello")]));
    assert_eq!(with("Content-Length: 5"), "200 5 hello");
    assert_eq!(web.asked()[0].header("content-length"), "5");
    for wrong in ["Content-Length: 4", "Content-Length: 6", "Content-Length: -1", "Content-Length: 5, 5"] {
        assert_eq!(with(wrong), "failed ErrorCode::HttpRequestBodySize(Some(5))", "{wrong}");
    }
    assert_eq!(web.asked().len(), 1);
    let unfinished = fetches(&[&line], &[("body", "hello"), ("unfinished", "yes")]);
    assert!(said(&handler, &unfinished).contains("dropped before it was finished"));
    assert_eq!(web.asked().len(), 1, "half a request is none");
    let large = said(&handler, &fetches(&[&line], &[("body-size", "3000000")]));
    assert_eq!(large, "200 5 hello");
    assert_eq!(web.asked()[1].body.len(), 3_000_000);
}

#[test]
fn connections_are_used_again_by_the_same_handler_and_by_no_other() {
    let web = Web::start();
    let (one, two) = (handler(all_of(&web)), handler(all_of(&web)));
    let line = format!("POST {}", web.url("/a"));
    for _ in 0..5 {
        assert_eq!(fetch(&one, &line), "200 5 hello");
    }
    assert_eq!(web.connections(), 1);
    assert_eq!(fetch(&two, &line), "200 5 hello");
    assert_eq!(web.connections(), 2);
    // An answer that nobody has read to its end leaves nothing for the next.
    let unread = fetches(&[&format!("GET {}", web.url("/bytes/1000000"))], &[("unread", "yes")]);
    assert_eq!(said(&one, &unread), "200 unread");
    assert_eq!(fetch(&one, &line), "200 5 hello");
    assert_eq!(web.connections(), 3);
    // One that its server has closed is not used.
    assert_eq!(fetch(&one, &format!("GET {}", web.url("/status/200"))), "200 0");
    for _ in 0..20 {
        assert_eq!(fetch(&one, &line), "200 5 hello");
        assert_eq!(fetch(&one, &format!("GET {}", web.url("/status/200"))), "200 0");
    }
}

#[test]
fn what_a_closing_server_did_not_answer_is_sent_again_on_a_new_connection() {
    let web = Web::start();
    let handler = handler(all_of(&web));
    for (number, line) in ["GET", "POST"].into_iter().enumerate() {
        let line = format!("{line} {}", web.url("/once"));
        let event = fetches(&[&line], &[("body", "hello")]);
        assert_eq!(fetch(&handler, &format!("GET {}", web.url("/a"))), "200 5 hello");
        web.forget();
        assert_eq!(said(&handler, &event), "200 5 hello");
        let asked = web.asked();
        let [one, two] = &asked[..] else { panic!("{asked:?}") };
        assert_eq!((one.connection, two.connection), (number + 1, number + 2));
        assert_eq!((&one.line, &one.headers, &one.body), (&two.line, &two.headers, &two.body), "the key is the same");
    }
    // One that was new says what it is.
    let line = format!("GET {}", web.url("/nothing"));
    assert_eq!(fetch(&handler, &line), "failed ErrorCode::HttpResponseIncomplete");
    web.forget();
    assert_eq!(fetch(&handler, &line), "failed ErrorCode::HttpResponseIncomplete");
    assert_eq!(web.asked().len(), 1, "and is not asked twice");
}

#[test]
fn a_private_grant_for_one_path_opens_no_connection_for_another() {
    let web = Web::start();
    let url = |path: &str| web.url_by("localhost", path);
    let urls = vec![UrlGrant::parse(&url("/in/*"), true).unwrap(), UrlGrant::parse(&url("/out/*"), false).unwrap()];
    let handler = handler(Http { urls, refused: None });
    assert_eq!(fetch(&handler, &format!("GET {}", url("/in/a"))), "200 5 hello");
    let said = fetch(&handler, &format!("GET {}", url("/out/a")));
    assert!(said.contains("DestinationIpProhibited"), "{said}");
    assert_eq!(web.asked().len(), 1);
}

#[test]
fn idle_connections_are_closed() {
    let web = Web::start();
    let handler = handler(all_of(&web));
    assert_eq!(fetch(&handler, &format!("GET {}", web.url("/a"))), "200 5 hello");
    assert_eq!(web.open(), 1);
    let end = std::time::Instant::now() + crate::support::BOUND;
    while web.open() > 0 {
        assert!(std::time::Instant::now() < end, "it is never closed");
        std::thread::park_timeout(Duration::from_millis(50));
    }
}
