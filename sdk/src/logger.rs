//! The `log` facade over the host's log.

use crate::bindings::sandbar::handler::log as host;

/// Where the lines of [`log`] go: to the host, under the handler's name and the event's id.
struct Logger;

static LOGGER: Logger = Logger;

/// Makes the host's log that of the facade. If the author has installed another, that one stays.
pub(crate) fn install() {
    if log::set_logger(&LOGGER).is_ok() {
        // The host knows which levels the operator wants; `log`'s own features `release_max_level_…` take lines out
        // where formatting them costs too much.
        log::set_max_level(log::LevelFilter::Trace);
    }
}

/// Writes one line.
pub(crate) fn write(level: log::Level, message: &str, attributes: &[(String, String)]) {
    let level = match level {
        log::Level::Error => host::Level::Error,
        log::Level::Warn => host::Level::Warn,
        log::Level::Info => host::Level::Info,
        log::Level::Debug => host::Level::Debug,
        log::Level::Trace => host::Level::Trace,
    };
    host::write(level, message, attributes);
}

// === impl Logger ===

impl log::Log for Logger {
    fn enabled(&self, metadata: &log::Metadata<'_>) -> bool {
        // `tracing` reports the start and end of spans under this target; an event is one call, so they say nothing.
        !metadata.target().starts_with("tracing::span")
    }

    fn log(&self, record: &log::Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let attributes = attributes(record);
        match record.args().as_str() {
            Some(message) => write(record.level(), message, &attributes),
            None => write(record.level(), &record.args().to_string(), &attributes),
        }
    }

    fn flush(&self) {}
}

#[cfg(not(feature = "kv"))]
fn attributes(_: &log::Record<'_>) -> Vec<(String, String)> {
    Vec::new()
}

#[cfg(feature = "kv")]
fn attributes(record: &log::Record<'_>) -> Vec<(String, String)> {
    struct Collect(Vec<(String, String)>);

    impl<'kvs> log::kv::VisitSource<'kvs> for Collect {
        fn visit_pair(&mut self, key: log::kv::Key<'kvs>, value: log::kv::Value<'kvs>) -> Result<(), log::kv::Error> {
            self.0.push((key.to_string(), value.to_string()));
            Ok(())
        }
    }

    let mut collected = Collect(Vec::new());
    // A value that cannot be shown is left out; the line itself matters more.
    let _ = record.key_values().visit(&mut collected);
    collected.0
}

#[cfg(test)]
mod tests {
    use log::Log as _;

    use super::*;

    #[test]
    fn the_starts_and_ends_of_spans_are_left_out() {
        let enabled = |target: &str| LOGGER.enabled(&log::Metadata::builder().target(target).build());
        assert!(!enabled("tracing::span") && !enabled("tracing::span::active"));
        assert!(enabled("xapi") && enabled("tracing"));
    }

    #[cfg(feature = "kv")]
    #[test]
    fn key_values_become_attributes() {
        let pairs = [("user", 7), ("tries", 2)];
        let record = log::Record::builder().args(format_args!("enrolled")).key_values(&pairs).build();
        let expected = [("user".to_owned(), "7".to_owned()), ("tries".to_owned(), "2".to_owned())];
        assert_eq!(attributes(&record), expected);
    }
}
