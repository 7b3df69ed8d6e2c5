//! Limits that are hit, each with its code, its value and its key.

use sandbar::event::code;

use super::*;

fn line(web: &Web, path: &str) -> String {
    format!("POST {}", web.url(path))
}

/// The event's requests hit a limit: the guest is told `told`, the operator `why` and what to write.
fn hits(handler: &Handler, event: &Event, told: &str, why: &str, more: &str) {
    let said = said(handler, event);
    let (guest, host) = said.split_once("; HTTP: ").unwrap_or_else(|| panic!("{said}"));
    assert!(guest.ends_with(&format!("failed ErrorCode::{told}")), "{said}");
    assert!(host.contains(why) && host.ends_with(&format!("more: [handler.limits] {more}")), "{said}");
}

#[test]
fn a_call_sends_so_many_requests_and_no_more() {
    let web = Web::start();
    let handler = handler_with(all_of(&web), Limits { http_calls: 3, ..limits() });
    let line = line(&web, "/a");
    let four = fetches(&[&line, &line, &line, &line], &[]);
    hits(&handler, &four, "ConnectionLimitReached", "a call may send 3 requests", "http_calls = 6");
    assert_eq!(web.asked().len(), 3);
    assert_eq!(fetch(&handler, &line), "200 5 hello", "the next call may");
}

#[test]
fn bodies_have_so_many_bytes_and_no_more() {
    let web = Web::start();
    let limits = Limits { http_request_bytes: 1_000, http_response_bytes: 1_000, ..limits() };
    let handler = handler_with(all_of(&web), limits);
    let post = line(&web, "/a");
    assert_eq!(said(&handler, &fetches(&[&post, &post], &[("body-size", "500")])), "200 5 hello 200 5 hello");
    let event = fetches(&[&post, &post], &[("body-size", "501")]);
    let told = "HttpRequestBodySize(Some(1000))";
    hits(
        &handler,
        &event,
        told,
        "the bodies of all requests of a call may have 1000 bytes",
        "http_request_bytes = 2000",
    );
    let insists = fetches(&[&post], &[("body-size", "1001"), ("insist", "yes")]);
    assert!(said(&handler, &insists).contains("the request's body was dropped before it was finished"));
    assert_eq!(web.asked().len(), 3, "what is cut is not sent");

    let get = |bytes: usize| line(&web, &format!("/bytes/{bytes}"));
    assert!(said(&handler, &fetches(&[&get(500), &get(500)], &[])).starts_with("200 500 xxx"));
    let told = "HttpResponseBodySize(Some(1000))";
    for event in [fetches(&[&get(500), &get(501)], &[]), fetches(&[&line(&web, "/endless")], &[])] {
        let why = "the bodies of all answers to a call may have 1000 bytes";
        hits(&handler, &event, told, why, "http_response_bytes = 2000");
    }
}

#[test]
fn an_endless_body_is_cut_at_the_default_limit() {
    let web = Web::start();
    let (told, why) = ("HttpResponseBodySize(Some(8388608))", "8388608 bytes");
    hits(
        &handler(all_of(&web)),
        &fetches(&[&line(&web, "/endless")], &[]),
        told,
        why,
        "http_response_bytes = 16777216",
    );
    assert_eq!(fetch(&handler(all_of(&web)), &line(&web, "/a")), "200 5 hello");
}

#[test]
fn headers_have_so_many_bytes_and_so_many_lines() {
    let web = Web::start();
    let handler = handler_with(all_of(&web), Limits { http_header_bytes: 10_000, ..limits() });
    for path in ["/bomb", "/lines/101"] {
        let told = "HttpResponseHeaderSectionSize(Some(10000))";
        let why = "more than 10000 bytes of headers, or more than 100 of them";
        hits(&handler, &fetches(&[&line(&web, path)], &[]), told, why, "http_header_bytes = 20000");
    }
    assert_eq!(fetch(&handler, &line(&web, "/lines/99")), "200 0");
    // More than a thousand bytes of it, in few lines.
    let small = handler_with(all_of(&web), Limits { http_header_bytes: 1_000, ..limits() });
    assert!(fetch(&small, &line(&web, "/lines/95")).contains("HttpResponseHeaderSectionSize(Some(1000))"));
    assert_eq!(fetch(&small, &line(&web, "/lines/80")), "200 0");
    // The guest's own have no code for it: the call ends.
    let value = "x".repeat(5_000);
    let (code, reason) = retried(&handler, &event("fields", &[("name", "a"), ("value", &value), ("times", "3")]));
    assert_eq!(code, code::LIMIT);
    assert!(
        reason.contains("10000 bytes of headers") && reason.ends_with("[handler.limits] http_header_bytes = 20000"),
        "{reason}"
    );
}

#[test]
fn handles_of_http_are_counted() {
    let handler = handler(Http::default());
    assert_eq!(said(&handler, &event("hold", &[("times", "256")])), "256");
    let (code, reason) = retried(&handler, &event("hold", &[("times", "257")]));
    assert_eq!(code, code::LIMIT);
    assert!(reason.contains("more than 256 handles of HTTP at once"), "{reason}");
}

#[test]
fn a_limit_is_the_code_of_a_failure_that_has_none_of_its_own() {
    let web = Web::start();
    let handler = handler_with(all_of(&web), Limits { http_calls: 1, ..limits() });
    let line = line(&web, "/a");
    let ends = |then: &str| retried(&handler, &fetches(&[&line, &line], &[("then", then)]));
    let (code, reason) = ends("retry");
    assert_eq!(code, code::LIMIT);
    assert!(reason.contains("; HTTP: a call may send 1 requests"), "{reason}");
    assert_eq!(ends("own").0, "my-own");
    assert_eq!(
        verdict(&handler, &fetches(&[&line, &line], &[("then", "ok")])),
        Verdict::Done,
        "who goes on has no fault"
    );
    let handler = handler_with(all_of(&web), Limits { http_calls: 0, ..limits() });
    let (code, reason) = retried(&handler, &event("trusting", &[("do", &line)]));
    assert_eq!(code, code::LIMIT, "a panic over an answer that was not given");
    assert!(
        reason.contains("panicked at") && reason.contains("http_calls = 0") | reason.contains("http_calls"),
        "{reason}"
    );
}

#[test]
fn what_went_well_since_is_not_why_a_call_fails() {
    let web = Web::start();
    let handler = handler(granted(&[&web.url("/a")]));
    let event = fetches(&[&line(&web, "/b"), &line(&web, "/a")], &[]);
    assert_eq!(said(&handler, &event), "failed ErrorCode::HttpRequestDenied 200 5 hello");
}

#[test]
fn no_reason_shows_a_query_or_a_secret() {
    let secret = sandbar::sandbox::Secret::new(b"tok-1234567890");
    let secrets = sandbar::sandbox::Secrets::known([("TOKEN".to_owned(), secret)]);
    let (sandbox, module) = shared();
    let services: Arc<dyn Services> = Arc::new(Remembering::default());
    let spec = Spec { limits: limits(), grants: Grants { secrets, ..Grants::default() }, ..spec() };
    let handler = sandbox.handler(module, spec, services).unwrap();
    let (_, reason) =
        retried(&handler, &fetches(&["GET https://a.org/tok-1234567890/x?key=4711"], &[("then", "retry")]));
    assert!(reason.contains("https://a.org/***/x is not granted") && !reason.contains("4711"), "{reason}");
}

#[test]
fn a_handler_has_so_many_connections_at_once() {
    let web = Web::start();
    let connect = Duration::from_millis(300);
    let limits = Limits { http_connections: 1, http_connect: connect, ..limits() };
    let handler = handler_with(all_of(&web), limits);
    let two = format!("{}\n{}", line(&web, "/slow/5000"), line(&web, "/a"));
    let event = event("race", &[("do", &two), ("timer-ms", "60000")]);
    let begun = std::time::Instant::now();
    assert!(said(&handler, &event).starts_with("[1] after"), "the second is given up first");
    assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
    assert_eq!(web.connections(), 1);
    // One that waits for its next request makes room for another place.
    let other = Web::start();
    let both = granted(&[&web.url("/*"), &other.url("/*")]);
    let handler = handler_with(both, Limits { http_connections: 1, ..super::limits() });
    let begun = std::time::Instant::now();
    for web in [&web, &other, &web] {
        assert_eq!(fetch(&handler, &line(web, "/a")), "200 5 hello");
    }
    assert!(
        begun.elapsed() < Duration::from_secs(3),
        "an idle one is closed for it, not waited for: {:?}",
        begun.elapsed()
    );
}
