//! Requests that are not sent, and who answers them in the place of their servers.

use bytes::Bytes;
use hyper::header::{HeaderMap, HeaderName, HeaderValue};
use hyper::{Method, StatusCode};
use tokio::sync::oneshot;

use super::grant::Target;

/// A request of a handler that may send none: granted, within its limits, and kept back.
#[derive(Debug)]
pub struct Unsent {
    /// Its method, such as `GET`.
    pub method: String,
    /// Its URL as it would be sent, with its query.
    pub url: String,
    body: Option<oneshot::Receiver<Bytes>>,
}

/// What is answered to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    pub(super) status: u16,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
}

// === impl Unsent ===

impl Unsent {
    pub(super) fn new(method: &Method, target: &Target, body: Option<oneshot::Receiver<Bytes>>) -> Self {
        let url = format!("{}{}", target.origin(), target.path_and_query);
        Self { method: method.as_str().to_owned(), url, body }
    }

    /// Its body, once the guest has finished it: empty if it has none, and `None` if it is not finished. It is given once.
    pub fn take_body(&mut self) -> Option<Bytes> {
        match &mut self.body {
            None => Some(Bytes::new()),
            Some(body) => body.try_recv().ok(),
        }
    }
}

// === impl Answer ===

impl Answer {
    /// One of these parts.
    ///
    /// # Errors
    ///
    /// What no server could send, in a sentence.
    pub fn new<'a>(
        status: u16,
        headers: impl IntoIterator<Item = (&'a str, &'a str)>,
        body: Bytes,
    ) -> Result<Self, String> {
        let whole = StatusCode::from_u16(status).ok().filter(|status| !status.is_informational());
        whole.ok_or_else(|| format!("the status {status} is none of an answer: it takes 200 to 999"))?;
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            let parsed = name.parse::<HeaderName>().ok().zip(HeaderValue::from_str(value).ok());
            let (name, value) = parsed.ok_or_else(|| format!("the header {name:?} cannot be sent"))?;
            map.append(name, value);
        }
        Ok(Self { status, headers: map, body })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_one_that_a_server_could_send() {
        assert!(Answer::new(200, [("content-type", "text/plain")], Bytes::new()).is_ok());
        for status in [0, 99, 100, 199, 1_000] {
            assert!(Answer::new(status, [], Bytes::new()).is_err(), "{status}");
        }
        for (name, value) in [("a b", "x"), ("", "x"), ("a", "x\r\ny")] {
            assert!(Answer::new(200, [(name, value)], Bytes::new()).is_err(), "{name:?}");
        }
    }
}
