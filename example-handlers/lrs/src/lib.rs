//! Sends each xAPI statement to a learning record store (LRS).
//!
//! The lesson: a request, which is no effect. It is sent while the call runs and again when the event runs again, so it says
//! which statement it is: a store that has it answers as it did the first time.
//!
//! Needs `http = ["https://lrs.example.org/xapi/*"]`, `config = { lrs = "lrs.example.org/xapi" }` and
//! `secrets = ["LRS_AUTHORIZATION"]`, what stands in the header of that name.

use std::time::Duration;

use sandbar_sdk::{Event, Failure, config, handler, secrets};
use serde::Deserialize;
use wasip2::http::outgoing_handler;
use wasip2::http::types::{ErrorCode, Fields, IncomingResponse, Method, OutgoingBody, OutgoingRequest, Scheme};
use wasip2::io::streams::StreamError;

/// As much of a statement as is looked at.
#[derive(Deserialize)]
struct Statement {
    id: String,
}

#[handler]
fn handle(event: Event) -> Result<(), Failure> {
    let text = event.json().ok_or_else(|| Failure::reject("no-json", "a statement is JSON"))?;
    let statement: Statement = serde_json::from_str(text)?;
    let lrs = config::get("lrs")?.ok_or_else(|| Failure::reject("no-lrs", "`config` has no `lrs`"))?;
    let (authority, path) = lrs.split_once('/').unwrap_or((&lrs, ""));
    let path = format!("/{path}/statements?statementId={}", statement.id);
    let authorization = secrets::get("LRS_AUTHORIZATION")?;
    let status = put(authority, &path, &authorization, text.as_bytes())
        .map_err(|code| Failure::retry(format!("the store was not reached: {code:?}")))?;
    settled(status)
}

/// Puts a document; returns the status of the answer.
fn put(authority: &str, path: &str, authorization: &str, body: &[u8]) -> Result<u16, ErrorCode> {
    let headers =
        [("content-type", "application/json"), ("x-experience-api-version", "1.0.3"), ("authorization", authorization)];
    let headers = headers.map(|(name, value)| (name.to_owned(), value.as_bytes().to_vec()));
    let wrong = |what: &str| ErrorCode::InternalError(Some(what.to_owned()));
    let headers = Fields::from_list(&headers).map_err(|_| wrong("headers"))?;
    let request = OutgoingRequest::new(headers);
    let set = request
        .set_method(&Method::Put)
        .and_then(|()| request.set_scheme(Some(&Scheme::Https)))
        .and_then(|()| request.set_authority(Some(authority)))
        .and_then(|()| request.set_path_with_query(Some(path)));
    set.map_err(|()| wrong("the URL"))?;
    let outgoing = request.body().map_err(|()| wrong("the body"))?;
    let answer = outgoing_handler::handle(request, None)?;
    {
        // It has to be gone before the body is finished.
        let stream = outgoing.write().map_err(|()| wrong("the body"))?;
        let mut rest = body;
        while !rest.is_empty() {
            let room = usize::try_from(stream.check_write().map_err(stopped)?).unwrap_or(usize::MAX);
            let (now, later) = rest.split_at(room.min(rest.len()));
            stream.write(now).map_err(stopped)?;
            rest = later;
        }
    }
    OutgoingBody::finish(outgoing, None)?;
    answer.subscribe().block();
    let answer: Result<IncomingResponse, ErrorCode> =
        answer.get().and_then(Result::ok).unwrap_or_else(|| Err(wrong("the answer")));
    Ok(answer?.status())
}

fn stopped(error: StreamError) -> ErrorCode {
    match error {
        StreamError::LastOperationFailed(error) => {
            wasip2::http::types::http_error_code(&error).unwrap_or(ErrorCode::HttpProtocolError)
        }
        StreamError::Closed => ErrorCode::ConnectionTerminated,
    }
}

/// What an answer means for the event.
fn settled(status: u16) -> Result<(), Failure> {
    match status {
        200..=299 => Ok(()),
        // The store asks for patience.
        408 | 429 | 503 => Err(Failure::retry(format!("the store says {status}")).after(Duration::from_secs(30))),
        400..=499 => Err(Failure::reject("lrs-refused", format!("the store says {status}"))),
        _ => Err(Failure::retry(format!("the store says {status}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_that_is_busy_is_asked_again_and_one_that_refuses_is_not() {
        assert_eq!(settled(204), Ok(()));
        assert_eq!(settled(500), Err(Failure::retry("the store says 500")));
        assert_eq!(settled(503), Err(Failure::retry("the store says 503").after(Duration::from_secs(30))));
        assert_eq!(settled(400), Err(Failure::reject("lrs-refused", "the store says 400")));
    }
}
