//! Why a handler did not succeed.

use std::any::Any;
use std::borrow::Cow;
use std::error::Error;
use std::fmt;
use std::time::Duration;

use crate::bindings::sandbar::handler::types as wire;
use crate::{config, keys, outbox, secrets};

/// Code of events whose data is not what the handler expects.
pub(crate) const BAD_DATA: &str = "bad-data";

/// Why a handler did not succeed, and what is to become of the event.
///
/// `?` makes one out of any error:
///
/// - an error of [`outbox`], [`keys`], [`config`] or [`secrets`] becomes what its own description says;
/// - a `serde_json::Error` becomes a rejection with the code `bad-data`: the same text fails the same way again;
/// - any other error becomes a retry. Whether it would pass is not known, and a retry loses nothing: after the last
///   attempt the event is a dead letter all the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    fate: Fate,
    /// None: the host's own code for a retry.
    code: Option<Cow<'static, str>>,
    message: Cow<'static, str>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Retry { after: Option<Duration> },
    Reject,
}

// === impl Failure ===

impl Failure {
    /// Not now: run the event again later. `reason` is for people: it stands in the log and, after the last attempt, in
    /// the dead letter.
    #[must_use]
    pub fn retry(reason: impl Into<Cow<'static, str>>) -> Self {
        Self { fate: Fate::Retry { after: None }, code: None, message: reason.into() }
    }

    /// Never: keep the event as a dead letter, where an operator can look at it and send it again.
    ///
    /// `code` is a short word that groups dead letters of one kind, for example `unknown-course`; `message` is for
    /// people.
    #[must_use]
    pub fn reject(code: impl Into<Cow<'static, str>>, message: impl Into<Cow<'static, str>>) -> Self {
        Self { fate: Fate::Reject, code: Some(code.into()), message: message.into() }
    }

    /// When to run it again, counted from now, in place of the configured back-off. A rejection is never run again:
    /// there it changes nothing.
    #[must_use]
    pub fn after(mut self, delay: Duration) -> Self {
        if let Fate::Retry { after } = &mut self.fate {
            *after = Some(delay);
        }
        self
    }

    /// A short word that groups failures of one kind.
    #[must_use]
    pub fn code(mut self, code: impl Into<Cow<'static, str>>) -> Self {
        self.code = Some(code.into());
        self
    }

    /// True if the event is to be run again.
    #[must_use]
    pub fn is_retry(&self) -> bool {
        matches!(self.fate, Fate::Retry { .. })
    }

    pub(crate) fn into_wire(self) -> wire::Failure {
        match self.fate {
            Fate::Retry { after } => wire::Failure::Retry(wire::RetryRequest {
                reason: self.message.into_owned(),
                after_ms: after.map(|after| u64::try_from(after.as_millis()).unwrap_or(u64::MAX)),
                attributes: self.code.map(|code| ("code".to_owned(), code.into_owned())).into_iter().collect(),
            }),
            Fate::Reject => wire::Failure::Reject(wire::Rejection {
                code: self.code.unwrap_or_default().into_owned(),
                message: self.message.into_owned(),
                attributes: Vec::new(),
            }),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.fate {
            Fate::Retry { .. } => "retry",
            Fate::Reject => "reject",
        })?;
        if let Some(code) = &self.code {
            write!(f, " ({code})")?;
        }
        write!(f, ": {}", self.message)
    }
}

impl<E: Error + 'static> From<E> for Failure {
    fn from(error: E) -> Self {
        // One conversion for all errors, so that `?` takes any: those that say what they are get their own fate. The
        // type is known when this is compiled, so no test is left in the program.
        let any: &dyn Any = &error;
        if let Some(error) = any.downcast_ref::<outbox::Error>() {
            return error.fate();
        }
        if let Some(error) = any.downcast_ref::<keys::Error>() {
            return error.fate();
        }
        if let Some(error) = any.downcast_ref::<config::Error>() {
            return error.fate();
        }
        if let Some(error) = any.downcast_ref::<secrets::Error>() {
            return error.fate();
        }
        if let Some(error) = any.downcast_ref::<serde_json::Error>() {
            return Self::reject(BAD_DATA, error.to_string());
        }
        Self::retry(with_sources(&error))
    }
}

/// The error and what caused it, in one line.
fn with_sources(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        text.push_str(": ");
        text.push_str(&source.to_string());
        next = source.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fails_with(error: impl Error + 'static) -> Failure {
        fn inner<E: Error + 'static>(error: E) -> Result<(), Failure> {
            Err(error)?
        }
        inner(error).unwrap_err()
    }

    #[test]
    fn a_retry_carries_reason_delay_and_code() {
        let wire::Failure::Retry(request) =
            Failure::retry("LMS is down").after(Duration::from_millis(1500)).code("lms").into_wire()
        else {
            panic!("no retry");
        };
        assert_eq!(request.reason, "LMS is down");
        assert_eq!(request.after_ms, Some(1500));
        assert_eq!(request.attributes, [("code".to_owned(), "lms".to_owned())]);
    }

    #[test]
    fn a_plain_retry_leaves_code_and_delay_to_the_host() {
        let wire::Failure::Retry(request) = Failure::retry("later").into_wire() else { panic!("no retry") };
        assert_eq!(request.after_ms, None);
        assert!(request.attributes.is_empty());
    }

    #[test]
    fn a_rejection_stays_one_whatever_delay_is_asked_for() {
        let wire::Failure::Reject(rejection) =
            Failure::reject("unknown-course", "gone").after(Duration::MAX).into_wire()
        else {
            panic!("no rejection");
        };
        assert_eq!((rejection.code.as_str(), rejection.message.as_str()), ("unknown-course", "gone"));
    }

    #[test]
    fn a_delay_that_no_integer_holds_is_the_longest_one() {
        let wire::Failure::Retry(request) = Failure::retry("x").after(Duration::MAX).into_wire() else { panic!() };
        assert_eq!(request.after_ms, Some(u64::MAX));
    }

    #[test]
    fn an_unknown_error_is_a_retry_that_names_its_sources() {
        #[derive(Debug)]
        struct Outer(std::num::ParseIntError);
        impl fmt::Display for Outer {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("read the limit")
            }
        }
        impl Error for Outer {
            fn source(&self) -> Option<&(dyn Error + 'static)> {
                Some(&self.0)
            }
        }
        let failure = fails_with(Outer("x".parse::<u8>().unwrap_err()));
        assert_eq!(failure, Failure::retry("read the limit: invalid digit found in string"));
    }

    #[test]
    fn what_fails_the_same_way_again_is_rejected() {
        let json = serde_json::from_str::<u8>("true").unwrap_err();
        assert_eq!(fails_with(json).code.as_deref(), Some(BAD_DATA));
        for (error, code) in [
            (outbox::Error::Denied("x".into()), "denied"),
            (outbox::Error::Invalid("x".into()), "invalid"),
            (outbox::Error::Limit("x".into()), "limit"),
        ] {
            let failure = fails_with(error);
            assert!(!failure.is_retry(), "{failure}");
            assert_eq!(failure.code.as_deref(), Some(code));
        }
        assert!(!fails_with(keys::Error::Limit("x".into())).is_retry());
        assert!(!fails_with(config::Error::Missing("x".into())).is_retry());
        assert!(!fails_with(secrets::Error::Denied("x".into())).is_retry());
    }

    #[test]
    fn what_may_pass_is_run_again() {
        let failure = fails_with(keys::Error::Unavailable("no connection".into()));
        assert!(failure.is_retry());
        assert_eq!(failure.to_string(), "retry (unavailable): the keys cannot be read now: no connection");
        let failure = fails_with(outbox::Error::Other { code: "busy".into(), message: "later".into() });
        assert!(failure.is_retry());
        assert_eq!(failure.code.as_deref(), Some("busy"));
    }
}
