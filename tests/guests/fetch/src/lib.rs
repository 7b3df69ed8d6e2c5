//! Sends the requests that the event's headers name, through nothing but `wasi:http`, and says what came of them as the
//! message of a rejection: a line for each request of `do`, `METHOD URL`.

use std::cell::RefCell;

use sandbar_sdk::{Event, Failure, handler};
use wasip2::clocks::monotonic_clock;
use wasip2::http::outgoing_handler;
use wasip2::http::types::{
    ErrorCode, Fields, FutureIncomingResponse, IncomingBody, IncomingResponse, Method, OutgoingBody, OutgoingRequest,
    RequestOptions, Scheme,
};
use wasip2::io::poll;
use wasip2::io::streams::StreamError;

thread_local! {
    /// What an earlier event left behind, if the instance serves several.
    static KEPT: RefCell<Vec<FutureIncomingResponse>> = const { RefCell::new(Vec::new()) };
}

#[handler]
fn handle(event: Event) -> Result<(), Failure> {
    match event.kind() {
        "fetch" => {
            let mut said = Vec::new();
            for line in text(&event, "do").lines() {
                said.push(match fetch(&event, line) {
                    Ok(answer) => answer,
                    Err(code) => format!("failed {code:?}"),
                });
            }
            end(&event, said.join("\n"))
        }
        // As a guest that trusts its server: an error is a panic.
        "trusting" => {
            let answer = fetch(&event, &text(&event, "do")).expect("an answer");
            end(&event, answer)
        }
        "fields" => end(&event, fields(&event)),
        // Two at once, and a timer beside them.
        "race" => end(&event, race(&event)),
        // Holds what it can.
        "hold" => {
            let held: Vec<Fields> = (0..number(&event, "times")).map(|_| Fields::new()).collect();
            end(&event, format!("{}", held.len()))
        }
        // Sends and does not wait.
        "forget" => {
            drop(send(&event, &text(&event, "do")));
            end(&event, "forgotten".to_owned())
        }
        "keep" => {
            let sent =
                send(&event, &text(&event, "do")).map_err(|code| Failure::reject("said", format!("{code:?}")))?;
            KEPT.with_borrow_mut(|kept| kept.push(sent));
            Ok(())
        }
        "kept" => {
            let of = |future: &FutureIncomingResponse| {
                future.subscribe().block();
                format!("{:?}", future.get().map(|answer| answer.map(|answer| answer.map(|answer| answer.status()))))
            };
            let kept: Vec<String> = KEPT.with_borrow(|kept| kept.iter().map(of).collect());
            end(&event, kept.join("\n"))
        }
        other => Err(Failure::reject("said", format!("unknown: {other}"))),
    }
}

fn end(event: &Event, said: String) -> Result<(), Failure> {
    match text(event, "then").as_str() {
        "ok" => Ok(()),
        "retry" => Err(Failure::retry(said)),
        "own" => Err(Failure::retry(said).code("my-own")),
        _ => Err(Failure::reject("said", said)),
    }
}

/// Sends one request and reads the answer: `200 5 hello`, status, bytes, and the first of them.
fn fetch(event: &Event, line: &str) -> Result<String, ErrorCode> {
    let future = send(event, line)?;
    let answer = awaited(&future)?;
    let (status, headers) = (answer.status(), answer.headers().entries());
    if event.header("unread").is_some() {
        return Ok(format!("{status} unread"));
    }
    let body = read(answer, text(event, "trailers") == "only")?;
    let shown = String::from_utf8_lossy(&body[..body.len().min(300)]).into_owned();
    let mut said = format!("{status} {} {shown}", body.len());
    for name in text(event, "show").split_whitespace() {
        let values: Vec<_> = headers.iter().filter(|(found, _)| found == name).map(|(_, value)| value).collect();
        said += &match values[..] {
            [] => format!(" {name}: none"),
            [value] => format!(" {name}: {}", String::from_utf8_lossy(value)),
            _ => format!(" {name}: {} values", values.len()),
        };
    }
    Ok(said)
}

fn send(event: &Event, line: &str) -> Result<FutureIncomingResponse, ErrorCode> {
    let (method, url) = line.split_once(' ').unwrap_or((line, ""));
    let headers = Fields::new();
    for line in text(event, "headers").lines() {
        let (name, value) = line.split_once(": ").unwrap_or((line, ""));
        headers.append(name, value.as_bytes()).map_err(|error| ErrorCode::InternalError(Some(error.to_string())))?;
    }
    let request = OutgoingRequest::new(headers);
    let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let scheme = match scheme {
        "" => None,
        "http" => Some(Scheme::Http),
        "https" => Some(Scheme::Https),
        other => Some(Scheme::Other(other.to_owned())),
    };
    let method = match method {
        "GET" => Method::Get,
        "HEAD" => Method::Head,
        "POST" => Method::Post,
        "PUT" => Method::Put,
        "CONNECT" => Method::Connect,
        "TRACE" => Method::Trace,
        other => Method::Other(other.to_owned()),
    };
    let refused = |()| ErrorCode::HttpRequestUriInvalid;
    request.set_method(&method).map_err(|()| ErrorCode::HttpRequestMethodInvalid)?;
    request.set_scheme(scheme.as_ref()).map_err(refused)?;
    request.set_authority(Some(authority)).map_err(refused)?;
    request.set_path_with_query((!path.is_empty()).then_some(path)).map_err(refused)?;
    let options = RequestOptions::new();
    let nanos = |name: &str| event.header(name).map(|_| number(event, name) * 1_000_000);
    let _ = options.set_connect_timeout(nanos("connect-ms"));
    let _ = options.set_first_byte_timeout(nanos("first-byte-ms"));
    let _ = options.set_between_bytes_timeout(nanos("between-bytes-ms"));
    let (body, size) = (event.header("body"), number(event, "body-size"));
    if body.is_none() && size == 0 {
        return outgoing_handler::handle(request, Some(options));
    }
    let outgoing = request.body().map_err(refused)?;
    let sent = outgoing_handler::handle(request, Some(options))?;
    if event.header("unfinished").is_some() {
        return Ok(sent);
    }
    let stream = outgoing.write().map_err(refused)?;
    let mut left = body.map_or_else(|| vec![b'x'; size as usize], <[u8]>::to_vec);
    let mut failed = None;
    while !left.is_empty() && failed.is_none() {
        let room = stream.check_write().map_or(0, |room| room as usize).min(left.len());
        let rest = left.split_off(room);
        failed = stream.write(&left).err();
        left = rest;
    }
    drop(stream);
    let finished = OutgoingBody::finish(outgoing, None);
    match failed {
        // As one that does not look whether all of it was taken.
        Some(_) if event.header("insist").is_some() => Ok(sent),
        Some(StreamError::LastOperationFailed(error)) => {
            Err(wasip2::http::types::http_error_code(&error).unwrap_or(ErrorCode::HttpProtocolError))
        }
        Some(StreamError::Closed) => Err(ErrorCode::ConnectionTerminated),
        None => finished.map(|()| sent),
    }
}

fn awaited(future: &FutureIncomingResponse) -> Result<IncomingResponse, ErrorCode> {
    let waiting = future.subscribe();
    waiting.block();
    assert!(waiting.ready());
    drop(waiting);
    let answer = future.get().expect("it is ready").expect("it is taken once");
    assert!(future.get().is_some_and(|again| again.is_err()), "it is given once");
    answer
}

fn read(answer: IncomingResponse, only_trailers: bool) -> Result<Vec<u8>, ErrorCode> {
    let body = answer.consume().expect("it is consumed once");
    assert!(answer.consume().is_err());
    let mut bytes = Vec::new();
    if !only_trailers {
        let stream = body.stream().expect("its stream is taken once");
        loop {
            match stream.blocking_read(16 << 10) {
                Ok(chunk) => bytes.extend(chunk),
                Err(StreamError::Closed) => break,
                Err(StreamError::LastOperationFailed(error)) => {
                    return Err(wasip2::http::types::http_error_code(&error).expect("an error of HTTP"));
                }
            }
        }
    }
    let trailers = IncomingBody::finish(body);
    trailers.subscribe().block();
    if let Some(trailers) = trailers.get().expect("they are ready").expect("they are taken once")? {
        bytes.extend(format!("{:?}", trailers.entries()).into_bytes());
    }
    Ok(bytes)
}

/// What becomes of headers that it may not set, or set so.
fn fields(event: &Event) -> String {
    let (name, value) = (text(event, "name"), text(event, "value"));
    let fields = Fields::new();
    let mut said = Vec::new();
    for _ in 0..number(event, "times").max(1) {
        said = vec![
            format!("{:?}", fields.append(&name, value.as_bytes())),
            format!("{:?}", fields.set(&name, &[value.clone().into_bytes()])),
            format!(
                "{:?}",
                Fields::from_list(&[(name.clone(), value.clone().into_bytes())]).map(|fields| fields.entries())
            ),
        ];
        let _ = fields.append(&name, value.as_bytes());
    }
    said.join(" ")
}

/// Which of the two requests of `do` and a timer is ready first, and which then.
fn race(event: &Event) -> String {
    let lines = text(event, "do");
    let sent: Vec<_> = lines.lines().map(|line| send(event, line).expect("granted")).collect();
    let begun = monotonic_clock::now();
    let timer = monotonic_clock::subscribe_duration(number(event, "timer-ms") * 1_000_000);
    let mut waiting: Vec<_> = sent.iter().map(|future| future.subscribe()).collect();
    waiting.push(timer);
    let first = poll::poll(&waiting.iter().collect::<Vec<_>>());
    let passed = (monotonic_clock::now() - begun) / 1_000_000;
    format!("{first:?} after {passed} ms")
}

fn text(event: &Event, name: &str) -> String {
    String::from_utf8_lossy(event.header(name).unwrap_or_default()).into_owned()
}

fn number(event: &Event, name: &str) -> u64 {
    text(event, name).parse().unwrap_or_default()
}
