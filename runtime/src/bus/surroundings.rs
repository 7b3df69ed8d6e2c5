//! What a bus takes from the machine as long as it is open, for a host that gives up the rest.

use std::path::PathBuf;

use super::Settings;

/// What the bus of some settings takes from the machine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Surroundings {
    /// Files that are read when it connects: certificates and keys.
    pub read: Vec<PathBuf>,
    /// A file that is written, and others beside it whose names begin with its own.
    pub write: Option<PathBuf>,
    /// Whether it looks hosts up and connects to them.
    pub network: bool,
}

/// What [`super::open`] and the bus that it opens will take. Settings that cannot be used take nothing.
#[must_use]
pub fn surroundings(settings: &Settings) -> Surroundings {
    match settings.url.split(':').next().unwrap_or_default() {
        #[cfg(feature = "sqlite")]
        "sqlite" => Surroundings { write: super::sqlite::path(&settings.url).ok(), ..Surroundings::default() },
        #[cfg(feature = "redis")]
        scheme => Surroundings { read: super::redis::files(&settings.url), write: None, network: scheme != "unix" },
        #[cfg(not(feature = "redis"))]
        _ => Surroundings::default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(url: &str) -> Surroundings {
        surroundings(&Settings { url: url.to_owned(), ..Settings::default() })
    }

    #[cfg(feature = "sqlite")]
    #[test]
    fn the_embedded_bus_needs_its_file() {
        for (url, path) in [("sqlite:a/b.db", "a/b.db"), ("sqlite://b.db", "b.db"), ("sqlite:///var/b.db", "/var/b.db")]
        {
            assert_eq!(of(url), Surroundings { write: Some(path.into()), ..Surroundings::default() }, "{url}");
        }
        assert_eq!(of("sqlite:"), Surroundings::default());
    }

    #[cfg(feature = "redis")]
    #[test]
    fn a_bus_on_the_network_needs_what_its_url_names() {
        let files = "ssl_ca_certs=/tls/ca.pem&ssl_certfile=c.pem&socket_timeout=3&ssl_keyfile=%2Ftls%2Fkey.pem";
        let read: Vec<PathBuf> = ["/tls/ca.pem", "c.pem", "/tls/key.pem"].map(PathBuf::from).to_vec();
        for url in [
            format!("rediss://user:secret@host:6380/0?{files}"),
            format!("rediss+cluster://one:6380,two:6380/?{files}"),
            format!("rediss+sentinel://one,two:26379/main/0?{files}"),
        ] {
            assert_eq!(of(&url), Surroundings { read: read.clone(), write: None, network: true }, "{url}");
        }
        assert_eq!(of("redis://host"), Surroundings { network: true, ..Surroundings::default() });
    }
}
