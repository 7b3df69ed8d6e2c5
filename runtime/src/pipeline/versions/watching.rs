//! The file that a handler's configuration names, looked at now and then.

use std::path::PathBuf;
use std::time::SystemTime;

/// A file, and how it looked.
#[derive(Debug)]
pub(super) struct Watched {
    path: PathBuf,
    /// How it looked when it was last read, or found to be unreadable.
    read: Option<Look>,
    /// How it looked last.
    seen: Option<Look>,
}

/// When it was written last, and its size.
type Look = (SystemTime, u64);

// === impl Watched ===

impl Watched {
    /// What lies there now is known.
    pub(super) fn new(path: PathBuf, read: Option<Look>) -> Self {
        Self { path, read, seen: read }
    }

    /// Its path, if there is something new in it that has been there for two looks: whoever writes it has ended.
    pub(super) async fn look(&mut self) -> Option<PathBuf> {
        let path = self.path.clone();
        // A disk may take its time.
        let now = tokio::task::spawn_blocking(move || std::fs::metadata(path).ok().and_then(|found| look(&found)));
        let now = now.await.ok().flatten();
        let settled = std::mem::replace(&mut self.seen, now) == now;
        (settled && now.is_some() && now != self.read).then(|| self.path.clone())
    }

    /// What was seen last is known.
    pub(super) fn read(&mut self) {
        self.read = self.seen;
    }
}

/// How a file looks.
pub(in crate::pipeline) fn look(found: &std::fs::Metadata) -> Option<Look> {
    Some((found.modified().ok()?, found.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_file_is_new_once_it_has_stood_still() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("m.wasm");
        std::fs::write(&path, "one").unwrap();
        let first = look(&std::fs::metadata(&path).unwrap());
        let mut watched = Watched::new(path.clone(), first);
        assert_eq!(watched.look().await, None, "it is known");
        std::fs::write(&path, "two, in part").unwrap();
        assert_eq!(watched.look().await, None, "it may still be written");
        std::fs::write(&path, "two, and whole").unwrap();
        assert_eq!(watched.look().await, None);
        assert_eq!(watched.look().await, Some(path.clone()));
        assert_eq!(watched.look().await, Some(path.clone()), "nobody has read it");
        watched.read();
        assert_eq!(watched.look().await, None);
        std::fs::remove_file(&path).unwrap();
        assert_eq!((watched.look().await, watched.look().await), (None, None), "nothing is nothing new");
    }
}
