//! What can go wrong with the file, sorted by what somebody can do about it.

use std::path::Path;

use rusqlite::ErrorCode;

use super::super::Error;
use crate::event::Malformed;

/// Trouble with one transaction. `Clone`, because all that gathered in a transaction share its fate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// Another process holds the lock.
    Locked,
    Full,
    ReadOnly,
    CannotOpen(String),
    /// The disk or the memory failed: it may pass.
    Failing(String),
    Damaged(String),
    /// A value that the file does not take.
    TooLarge(String),
    Settings(String),
    Other(String),
}

// === impl Fault ===

impl Fault {
    /// True if the connection should not be used again.
    pub(super) fn spoils_connection(&self) -> bool {
        matches!(self, Self::CannotOpen(_) | Self::Failing(_) | Self::Damaged(_) | Self::ReadOnly)
    }

    /// What the caller of the bus is told.
    pub(super) fn error(self, path: &Path) -> Error {
        let url = format!("sqlite:{}", path.display());
        let unavailable = |reason: String| Error::Unavailable { url: url.clone(), reason };
        match self {
            Self::Locked => unavailable(format!(
                "another process has held the write lock for {} s; look for one that is stopped (frozen) and has the \
                 file open",
                super::schema::BUSY_LIMIT.as_secs()
            )),
            Self::Full => unavailable("the disk is full; free some space".into()),
            Self::Failing(reason) => unavailable(reason),
            Self::ReadOnly => Error::Settings(format!(
                "bus at {url} is read-only; give this user write permission to the file and its directory"
            )),
            Self::CannotOpen(reason) => Error::Settings(format!(
                "bus at {url} cannot be opened: {reason}; its directory must exist and be writable by this user"
            )),
            Self::Damaged(reason) => Error::Unexpected(format!(
                "bus at {url} is damaged or no database: {reason}; restore it from a backup, or move it away to start \
                 with an empty one"
            )),
            Self::TooLarge(reason) => Error::Unexpected(format!("bus at {url} does not take this: {reason}")),
            Self::Settings(reason) => Error::Settings(reason),
            Self::Other(reason) => Error::Unexpected(format!("bus at {url}: {reason}")),
        }
    }
}

impl From<rusqlite::Error> for Fault {
    fn from(error: rusqlite::Error) -> Self {
        let reason = error.to_string();
        let rusqlite::Error::SqliteFailure(failure, _) = error else {
            return match error {
                rusqlite::Error::FromSqlConversionFailure(..)
                | rusqlite::Error::InvalidColumnType(..)
                | rusqlite::Error::IntegralValueOutOfRange(..) => Self::Damaged(reason),
                _ => Self::Other(reason),
            };
        };
        match failure.code {
            ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked => Self::Locked,
            ErrorCode::DiskFull => Self::Full,
            ErrorCode::ReadOnly => Self::ReadOnly,
            ErrorCode::CannotOpen | ErrorCode::PermissionDenied | ErrorCode::AuthorizationForStatementDenied => {
                Self::CannotOpen(reason)
            }
            ErrorCode::SystemIoFailure | ErrorCode::OutOfMemory | ErrorCode::FileLockingProtocolFailed => {
                Self::Failing(reason)
            }
            ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase => Self::Damaged(reason),
            ErrorCode::TooBig => Self::TooLarge(reason),
            _ => Self::Other(reason),
        }
    }
}

impl From<Malformed> for Fault {
    fn from(malformed: Malformed) -> Self {
        Self::Damaged(malformed.to_string())
    }
}

#[cfg(test)]
mod tests {
    use rusqlite::{Connection, OpenFlags};

    use super::*;

    #[test]
    fn a_read_only_file_is_a_matter_of_settings() {
        let directory = tempfile::TempDir::new().unwrap();
        let path = directory.path().join("events.db");
        Connection::open(&path).unwrap().execute_batch("CREATE TABLE t (n INTEGER)").unwrap();
        let db = Connection::open_with_flags(&path, OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap();
        let fault = Fault::from(db.execute("INSERT INTO t VALUES (1)", []).unwrap_err());
        assert_eq!(fault, Fault::ReadOnly);
        let error = fault.error(&path);
        assert!(!error.is_transient() && error.to_string().contains("write permission"), "{error}");
    }
}
