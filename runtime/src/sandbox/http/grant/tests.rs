use super::*;

fn http(urls: &[&str]) -> Http {
    Http { urls: urls.iter().map(|url| UrlGrant::parse(url, false).unwrap()).collect(), refused: None }
}

/// Whether a guest that asks for it is given it. The URL is taken apart as a guest does: up to the first slash.
fn permitted(http: &Http, url: &str) -> Option<bool> {
    let (scheme, rest) = url.split_once("://").unwrap();
    let slash = rest.find('/').unwrap_or(rest.len());
    let target = Target::parse(scheme == "https", &rest[..slash], &rest[slash..]).ok()?;
    Some(http.permits(&target).is_some())
}

#[test]
fn what_is_granted_is_matched_part_by_part() {
    let http =
        http(&["https://lrs.example.org/xapi/*", "http://lrs.example.org:8080/one", "https://all.example.org/*"]);
    for url in [
        "https://lrs.example.org/xapi/",
        "https://lrs.example.org/xapi/statements?statementId=1&x=../..",
        "https://LRS.Example.ORG/xapi/a",
        "https://lrs.example.org:443/xapi/a",
        "https://lrs.example.org./xapi/a",
        "https://lrs.ex%61mple.org/xapi/a",
        "https://lrs.example.org/else/../xapi/a",
        "https://lrs.example.org/xapi/a/../b",
        "https://lrs.example.org/xapi/50%25",
        "http://lrs.example.org:8080/one",
        "http://lrs.example.org:8080/one?q=1",
        "https://all.example.org/",
        "https://all.example.org/group%2Fproject",
    ] {
        assert_eq!(permitted(&http, url), Some(true), "{url}");
    }
    for url in [
        // Another scheme, port, host or path.
        "http://lrs.example.org/xapi/a",
        "https://lrs.example.org:8443/xapi/a",
        "https://lrs.example.org:80/xapi/a",
        "https://example.org/xapi/a",
        "https://x.lrs.example.org/xapi/a",
        "https://lrs.example.org.evil.net/xapi/a",
        "https://lrs.example.orgx/xapi/a",
        "https://lrs.example.org/xapi",
        "https://lrs.example.org/xapix/a",
        "https://lrs.example.org/XAPI/a",
        "https://lrs.example.org/",
        "http://lrs.example.org:8080/one/",
        "http://lrs.example.org:8080/on",
        "https://lrs.еxample.org/xapi/a",
        // A way up, however it is written.
        "https://lrs.example.org/xapi/../admin",
        "https://lrs.example.org/xapi/%2e%2e/admin",
        "https://lrs.example.org/xapi/.%2E/admin",
        "https://lrs.example.org/xapi/..%2fadmin",
        "https://lrs.example.org/xapi/..%5cadmin",
        "https://lrs.example.org/xapi/a%2f..%2f..%2fadmin",
        "https://lrs.example.org/xapi/%252e%252e/admin",
        "https://lrs.example.org/xapi/%25252e%25252e%25252fadmin",
        "https://lrs.example.org/xapi/..;/admin",
        "https://lrs.example.org/xapi/..;x=1/admin",
        "https://lrs.example.org/xapi/%2e%2e%3b/admin",
        "https://lrs.example.org/xapi/a%00",
    ] {
        assert_eq!(permitted(&http, url), Some(false), "{url}");
    }
    for url in [
        "https://lrs.example.org@evil.net/xapi/a",
        "https://evil.net@lrs.example.org/xapi/a",
        "https://user:pass@lrs.example.org/xapi/a",
        "https://lrs.example.org\\@evil.net/xapi/a",
        "https://lrs.example.org\t/xapi/a",
        "https://lrs.example.org/xapi/a\r\nHost: evil.net",
        "https://lrs.example.org/xapi/a\\..\\..\\admin",
        "https://lrs.example.org/xapi/a#b",
        "https://lrs.example.org../xapi/a",
        "https://lrs.example.org:0/xapi/a",
        "https://lrs.example.org:99999/xapi/a",
        "https://?x/xapi/a",
        "https:///xapi/a",
        "https://[::1/xapi/a",
    ] {
        assert_eq!(permitted(&http, url), None, "{url}");
    }
}

#[test]
fn a_name_in_another_script_is_the_same_name_as_its_ascii_form() {
    for grant in ["https://bücher.example/*", "https://xn--bcher-kva.example/*"] {
        for url in ["https://bücher.example/a", "https://BÜCHER.example/a", "https://xn--bcher-kva.example/a"] {
            assert_eq!(permitted(&http(&[grant]), url), Some(true), "{grant} {url}");
        }
        assert_eq!(permitted(&http(&[grant]), "https://bucher.example/a"), Some(false));
    }
}

#[test]
fn an_address_is_the_same_however_it_is_written() {
    let http = http(&["http://127.0.0.1:8080/*", "http://[::1]/*"]);
    for host in ["127.0.0.1:8080", "127.1:8080", "2130706433:8080", "0x7f.0.0.1:8080", "0177.0.0.1:8080", "[0:0::1]"] {
        assert_eq!(permitted(&http, &format!("http://{host}/a")), Some(true), "{host}");
    }
    // The same place, and nothing that the operator wrote.
    for host in ["[::ffff:127.0.0.1]:8080", "localhost:8080", "127.0.0.2:8080", "127.0.0.1"] {
        assert_eq!(permitted(&http, &format!("http://{host}/a")), Some(false), "{host}");
    }
}

#[test]
fn what_is_compared_is_what_is_sent() {
    let target = Target::parse(true, "LRS.Example.org.:443", "/a/./b/../c%2F?q=ü&r=..").unwrap();
    assert_eq!((target.authority().as_str(), target.port), ("lrs.example.org", 443));
    assert_eq!(target.path_and_query, "/a/c%2F?q=%C3%BC&r=..");
    assert_eq!(target.shown(), "https://lrs.example.org/a/c%2F", "without the query");
    let other = Target::parse(false, "127.1:81", "/").unwrap();
    assert_eq!((other.authority().as_str(), other.origin().as_str()), ("127.0.0.1:81", "http://127.0.0.1:81"));
    let long = Target::parse(true, "x", &format!("/{}", "a".repeat(limits::HTTP_URL_BYTES))).unwrap_err();
    assert!(matches!(long.code, ErrorCode::HttpRequestUriTooLong), "{long:?}");
}

#[test]
fn addresses_are_reached_as_the_grant_says() {
    let reach = |url: &str, private: bool| {
        let http = Http { urls: vec![UrlGrant::parse(url, private).unwrap()], refused: None };
        let url = Url::parse(&url.replace('*', "x")).unwrap();
        let target = Target::parse(false, url.authority(), url.path()).unwrap();
        http.permits(&target).unwrap()
    };
    let ip = |text: &str| text.parse::<IpAddr>().unwrap();
    let (public, private) = (reach("http://a.org/*", false), reach("http://a.org/*", true));
    let (named, metadata) = (reach("http://10.0.0.1/*", false), reach("http://169.254.169.254/*", false));
    for (address, by) in [
        ("1.1.1.1", [true, true, false, false]),
        ("10.0.0.1", [false, true, true, false]),
        ("::ffff:10.0.0.1", [false, true, true, false]),
        ("10.0.0.2", [false, true, false, false]),
        ("127.0.0.1", [false, true, false, false]),
        ("fd00::1", [false, true, false, false]),
        ("169.254.169.254", [false, false, false, true]),
        ("::ffff:169.254.169.254", [false, false, false, true]),
        ("0.0.0.0", [false; 4]),
        ("fe80::1", [false; 4]),
    ] {
        let found = [public, private, named, metadata].map(|reach| reach.includes(ip(address)));
        assert_eq!(found, by, "{address}");
    }
}

#[test]
fn a_grant_says_what_is_wrong_with_it() {
    for (url, error) in [
        ("lrs.example.org/*", BadUrl::NotAUrl),
        ("https://", BadUrl::NotAUrl),
        ("ftp://lrs.example.org/*", BadUrl::Scheme),
        ("https://u:p@lrs.example.org/*", BadUrl::Parts),
        ("https://@lrs.example.org/*", BadUrl::Parts),
        ("https://lrs.example.org/*?q=1", BadUrl::Parts),
        ("https://lrs.example.org/*#f", BadUrl::Parts),
        ("https://*.example.org/*", BadUrl::HostWildcard),
        ("https://*/*", BadUrl::HostWildcard),
        ("https://lrs.example.org", BadUrl::Path),
        ("https://lrs.example.org/a*", BadUrl::Path),
        ("https://lrs.example.org/*/b/*", BadUrl::Path),
        ("https://lrs.example.org/*/b", BadUrl::Path),
    ] {
        assert_eq!(UrlGrant::parse(url, false).unwrap_err(), error, "{url}");
    }
}
