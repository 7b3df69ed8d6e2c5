//! A handler's own keys during one call: writes are kept back, reads remember what they saw.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use super::{Refused, State};
use crate::event::{KeyRead, KeyWrite, Versioned};
use crate::sandbox::grants::Capability;
use crate::sandbox::{Unread, limits};

/// What one call did to its keys.
#[derive(Default)]
pub(super) struct Keys {
    operations: usize,
    written_bytes: usize,
    /// In the order they were made.
    writes: Vec<KeyWrite>,
    /// The last write to each key: what this call reads back.
    own: BTreeMap<String, Option<Bytes>>,
    /// What the first read of each key saw. Later reads of the call see the same.
    seen: BTreeMap<String, Versioned>,
    /// The version of the space at the first list.
    listed: Option<u64>,
}

// === impl Keys ===

impl Keys {
    pub(super) fn into_parts(self) -> (Vec<KeyWrite>, Vec<KeyRead>) {
        let list = self.listed.map(|version| KeyRead { key: None, version, value: None });
        let read =
            |(key, seen): (String, Versioned)| KeyRead { key: Some(key), version: seen.version, value: seen.value };
        (self.writes, list.into_iter().chain(self.seen.into_iter().map(read)).collect())
    }

    fn count(&mut self, most: usize) -> Result<(), Refused> {
        self.operations += 1;
        if self.operations > most {
            let more = limits::more_bytes("key_operations", most);
            return Err(Refused::Limit(format!("a call may use keys {most} times; {more}")));
        }
        Ok(())
    }

    fn write(&mut self, key: String, value: Option<Bytes>, most: usize) -> Result<(), Refused> {
        let length = value.as_ref().map_or(0, Bytes::len);
        if length > limits::KEY_VALUE_BYTES {
            let most = limits::KEY_VALUE_BYTES;
            return Err(Refused::Limit(format!("a value may have {most} bytes, this one has {length}")));
        }
        let bytes = self.written_bytes + key.len() + length;
        if bytes > most {
            let more = limits::more_bytes("key_bytes", most);
            return Err(Refused::Limit(format!("the key writes of a call may have {most} bytes in all; {more}")));
        }
        self.written_bytes = bytes;
        self.own.insert(key.clone(), value.clone());
        self.writes.push(KeyWrite { key, value });
        Ok(())
    }
}

// === impl State ===

impl State {
    /// The value of a key as this call sees it: its own write, else what its first read saw.
    pub(in crate::sandbox) fn key_get(&mut self, key: &str) -> Result<Option<Vec<u8>>, Refused> {
        self.keys_granted()?;
        valid(key)?;
        self.keys.count(self.handling.spec.limits.key_operations)?;
        if let Some(own) = self.keys.own.get(key) {
            return Ok(own.as_ref().map(|value| value.to_vec()));
        }
        if let Some(seen) = self.keys.seen.get(key) {
            return Ok(seen.value.as_ref().map(|value| value.to_vec()));
        }
        let handling = &self.handling;
        let read = self.outside(|| handling.services.read_key(&handling.spec.name, key, self.deadline));
        let seen = read.map_err(|unread| refused(unread, &mut self.trouble))?;
        let value = seen.value.as_ref().map(|value| value.to_vec());
        self.keys.seen.insert(key.to_owned(), seen);
        Ok(value)
    }

    /// Keeps a write back until the acknowledgement.
    pub(in crate::sandbox) fn key_write(&mut self, key: String, value: Option<Vec<u8>>) -> Result<(), Refused> {
        self.keys_granted()?;
        valid(&key)?;
        self.keys.count(self.handling.spec.limits.key_operations)?;
        let bytes = value.as_ref().map_or(0, |value| (key.len() + value.len()) as u64);
        if let Some(most) = self.handling.spec.grants.key_bytes.filter(|most| bytes > *most) {
            // It would be refused at the commit, whatever else there is.
            let text = format!("this key would hold {bytes} bytes, and all keys of the handler may hold {most}");
            return Err(Refused::Limit(format!("{text}; more: [handler.grants] keys = {{ max_bytes = \"…\" }}")));
        }
        self.keys.write(key, value.map(Bytes::from), self.handling.spec.limits.key_bytes)
    }

    /// Keys with a prefix, this call's own writes among them.
    pub(in crate::sandbox) fn key_list(&mut self, prefix: &str, limit: u32) -> Result<Vec<String>, Refused> {
        self.keys_listed(prefix, limit.min(limits::KEY_LIST) as usize)
    }

    /// The same for a guest in another process, which counts its own deletions there: each may hide a key that is stored.
    pub(in crate::sandbox) fn key_list_apart(&mut self, prefix: &str, limit: usize) -> Result<Vec<String>, Refused> {
        let deletions = self.handling.spec.limits.key_operations;
        self.keys_listed(prefix, limit.min(deletions.saturating_add(limits::KEY_LIST as usize)))
    }

    fn keys_listed(&mut self, prefix: &str, limit: usize) -> Result<Vec<String>, Refused> {
        self.keys_granted()?;
        if !prefix.is_empty() {
            valid(prefix)?;
        }
        self.keys.count(self.handling.spec.limits.key_operations)?;
        let own = || self.keys.own.range(prefix.to_owned()..).take_while(|(key, _)| key.starts_with(prefix));
        // Each own deletion can hide one stored key, so as many more are asked for.
        let hidden = own().filter(|(_, value)| value.is_none()).count();
        let handling = &self.handling;
        let ask = || handling.services.list_keys(&handling.spec.name, prefix, limit + hidden, self.deadline);
        let stored = self.outside(ask);
        let stored = stored.map_err(|unread| refused(unread, &mut self.trouble))?;
        let mut keys: BTreeSet<String> = stored.keys.into_iter().collect();
        for (key, value) in own() {
            match value {
                Some(_) => keys.insert(key.clone()),
                None => keys.remove(key),
            };
        }
        self.keys.listed.get_or_insert(stored.version);
        Ok(keys.into_iter().take(limit).collect())
    }

    fn keys_granted(&self) -> Result<(), Refused> {
        let spec = &self.handling.spec;
        match spec.grants.keys {
            true => Ok(()),
            false => Err(Refused::Denied(Capability::Keys.denied(&spec.name))),
        }
    }
}

/// What the guest is told, and what is kept in mind beside it.
fn refused(unread: Unread, trouble: &mut Option<String>) -> Refused {
    if unread.passing {
        trouble.get_or_insert_with(|| unread.reason.clone());
    }
    Refused::Unavailable(unread.reason)
}

fn valid(key: &str) -> Result<(), Refused> {
    if key.is_empty() {
        return Err(Refused::Invalid("a key must not be empty".into()));
    }
    if key.len() > limits::KEY_BYTES {
        let (most, has) = (limits::KEY_BYTES, key.len());
        return Err(Refused::Invalid(format!("a key may have {most} bytes, this one has {has}")));
    }
    if key.chars().any(char::is_control) {
        return Err(Refused::Invalid("a key must not contain control characters".into()));
    }
    Ok(())
}
