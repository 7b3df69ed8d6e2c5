//! `sandbar:handler@0.1.0`: the bindings of the first version, kept for ever, and nothing else that knows them.

use bytes::Bytes;
use wasmtime::component::{Component, ComponentExportIndex, Func, HasSelf, InstancePre, Linker, TypedFunc};
use wasmtime::{Engine, Store};

use super::handler::Handling;
use super::host::{Level, Refused, State};
use super::{Draft, Secrets, limits, text};
use crate::event::{self, Event, Payload, Verdict};

use self::bindings::exports::sandbar::handler::guest;
use self::bindings::sandbar::handler::{config, keys, log, outbox, secrets, types};

mod bindings {
    wasmtime::component::bindgen!({
        path: "../wit",
        world: "handler-full",
        // What is only given to the guest is borrowed from the event: nothing is copied but into its memory.
        ownership: Borrowing { duplicate_if_necessary: true },
    });
}

/// The export by which a component says that it speaks this version.
pub(super) const EXPORT: &str = "sandbar:handler/guest@0.1.0";

/// The interfaces this version serves.
pub(super) const INTERFACES: [&str; 6] = ["types", "log", "outbox", "keys", "config", "secrets"];

/// Its version, as it stands in the names of imports.
pub(super) const VERSION: &str = "0.1.0";

/// A component of this version, linked and checked: instantiating looks nothing up by name.
pub(super) struct Prepared {
    pre: InstancePre<State>,
    handle: ComponentExportIndex,
}

type Arguments<'a> = (guest::Event<'a>,);
type Results = (Result<(), guest::Failure>,);

/// Adds all interfaces of this version. What a component does not import costs it nothing.
pub(super) fn link(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    bindings::HandlerFull::add_to_linker::<State, HasSelf<State>>(linker, |state| state)
}

// === impl Prepared ===

impl Prepared {
    /// # Errors
    ///
    /// If the export's type is not that of the contract.
    pub(super) fn new(engine: &Engine, component: &Component, pre: InstancePre<State>) -> wasmtime::Result<Self> {
        let ty = component.component_type();
        let instance = ty.get_export(engine, EXPORT).map(|export| export.ty);
        let Some(wasmtime::component::types::ComponentItem::ComponentInstance(instance)) = instance else {
            return Err(wasmtime::Error::msg(format!("`{EXPORT}` is not an instance")));
        };
        let handle = instance.get_export(engine, "handle").map(|export| export.ty);
        let Some(wasmtime::component::types::ComponentItem::ComponentFunc(handle)) = handle else {
            return Err(wasmtime::Error::msg(format!("`{EXPORT}` exports no function `handle`")));
        };
        handle
            .typecheck::<Arguments<'_>, Results>(&ty.instance_type())
            .map_err(|error| error.context(format!("the type of `handle` in `{EXPORT}`")))?;
        let instance = component.get_export_index(None, EXPORT);
        let handle = instance.and_then(|instance| component.get_export_index(Some(&instance), "handle"));
        let handle = handle.ok_or_else(|| wasmtime::Error::msg(format!("`{EXPORT}` has no `handle`")))?;
        Ok(Self { pre, handle })
    }

    /// What is linked.
    pub(super) fn component(&self) -> &Component {
        self.pre.component()
    }

    /// Makes an instance in a store that has none, and finds what to call.
    pub(super) fn instantiate(&self, store: &mut Store<State>) -> wasmtime::Result<Func> {
        let instance = self.pre.instantiate(&mut *store)?;
        let handle = instance.get_func(&mut *store, self.handle);
        handle.ok_or_else(|| wasmtime::Error::msg("the export `handle` is gone"))
    }

    /// Calls what [`Prepared::instantiate`] of this component found, in the same store.
    pub(super) fn call(
        &self,
        store: &mut Store<State>,
        handle: Func,
        handling: &Handling,
        event: &Event,
    ) -> wasmtime::Result<Verdict> {
        let (attempt, replayed) = (store.data().attempt, store.data().replayed);
        let deadline_ms = store.data().deadline_ms();
        let metadata = &event.metadata;
        let headers: Vec<(&str, &[u8])> =
            metadata.headers.iter().map(|(name, value)| (name.as_str(), &value[..])).collect();
        let argument = types::Event {
            id: &metadata.id,
            kind: &metadata.kind,
            source: &metadata.source,
            time: &metadata.time,
            topic: &event.topic,
            key: metadata.key.as_deref(),
            content_type: &event.content_type,
            payload: match &event.payload {
                Payload::Json(text) => types::PayloadParam::Json(text),
                Payload::Raw(bytes) => types::PayloadParam::Raw(bytes),
            },
            headers: &headers,
            delivery: types::Delivery {
                handler: &handling.spec.name,
                position: event.position.as_str(),
                attempt,
                max_attempts: handling.spec.max_attempts,
                deadline_ms,
                replayed,
            },
            attributes: &[],
        };
        // SAFETY: `new` checked the type of this export of this component, which no instance changes; checking it at
        // every call would compare the whole record field by field again.
        let handle: TypedFunc<Arguments<'_>, Results> = unsafe { TypedFunc::new_unchecked(handle) };
        let (answer,) = handle.call(&mut *store, (argument,))?;
        let (secrets, most) = (&handling.spec.grants.secrets, handling.spec.limits.reason_bytes);
        Ok(answer.map_or_else(|failure| verdict(failure, secrets, most), |()| Verdict::Done))
    }
}

/// The reason has at most `most` bytes.
fn verdict(failure: types::Failure, secrets: &Secrets, most: usize) -> Verdict {
    let code = |text: &str| text::code(&secrets.hide(text, limits::REASON_BYTES), limits::CODE_BYTES);
    match failure {
        types::Failure::Retry(request) => {
            let own = request.attributes.iter().find(|(name, _)| name == "code");
            let own = own.and_then(|(_, value)| code(value));
            Verdict::Retry {
                code: own.unwrap_or_else(|| event::code::RETRY.to_owned()),
                reason: secrets.line(&request.reason, most),
                after: request.after_ms.map(std::time::Duration::from_millis),
            }
        }
        types::Failure::Reject(rejection) => Verdict::Reject {
            code: code(&rejection.code).unwrap_or_else(|| REJECTED.to_owned()),
            reason: secrets.line(&rejection.message, most),
        },
    }
}

/// The code of a rejection whose own is not fit for one.
pub(super) const REJECTED: &str = "rejected";

// === impl State ===

impl types::Host for State {}

impl log::Host for State {
    fn write(&mut self, level: log::Level, message: String, attributes: log::Attributes) {
        let mut line = message;
        for (name, value) in attributes {
            for part in [" ", &name, "=", &value] {
                line.push_str(part);
            }
        }
        let level = match level {
            log::Level::Trace => Level::Trace,
            log::Level::Debug => Level::Debug,
            log::Level::Info => Level::Info,
            log::Level::Warn => Level::Warn,
            log::Level::Error => Level::Error,
        };
        self.log(level, &line);
    }
}

impl outbox::Host for State {
    fn publish(&mut self, draft: outbox::Draft) -> Result<String, outbox::Error> {
        let headers = draft.headers.into_iter().map(|(name, value)| (name, Bytes::from(value))).collect();
        let draft = Draft {
            topic: draft.topic,
            kind: draft.kind,
            key: draft.key.map(Bytes::from),
            payload: match draft.payload {
                types::PayloadResult::Json(text) => Payload::Json(text),
                types::PayloadResult::Raw(bytes) => Payload::Raw(bytes.into()),
            },
            headers,
        };
        self.publish(draft).map_err(|refused| match refused {
            Refused::Denied(why) => outbox::Error::Denied(why),
            Refused::Invalid(why) => outbox::Error::Invalid(why),
            Refused::Limit(why) => outbox::Error::Limit(why),
            Refused::Unavailable(why) => outbox::Error::Other(("unavailable".to_owned(), why)),
        })
    }
}

impl keys::Host for State {
    fn get(&mut self, key: String) -> Result<Option<Vec<u8>>, keys::Error> {
        Ok(self.key_get(&key)?)
    }

    fn set(&mut self, key: String, value: Vec<u8>, _cause: Option<u32>) -> Result<(), keys::Error> {
        Ok(self.key_write(key, Some(value))?)
    }

    fn delete(&mut self, key: String, _cause: Option<u32>) -> Result<(), keys::Error> {
        Ok(self.key_write(key, None)?)
    }

    fn list(&mut self, prefix: String, limit: u32) -> Result<Vec<String>, keys::Error> {
        Ok(self.key_list(&prefix, limit)?)
    }
}

impl config::Host for State {
    fn get(&mut self, name: String) -> Result<Option<String>, config::Error> {
        self.config(&name).map_err(|refused| config::Error::Denied(refused.into_text()))
    }
}

impl secrets::Host for State {
    fn get(&mut self, name: String) -> Result<String, secrets::Error> {
        self.secret(&name).map_err(|refused| secrets::Error::Denied(refused.into_text()))
    }
}

// === impl Refused ===

impl Refused {
    fn into_text(self) -> String {
        match self {
            Self::Denied(why) | Self::Invalid(why) | Self::Limit(why) | Self::Unavailable(why) => why,
        }
    }
}

impl From<Refused> for keys::Error {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Denied(why) => Self::Denied(why),
            Refused::Invalid(why) => Self::Invalid(why),
            Refused::Limit(why) => Self::Limit(why),
            Refused::Unavailable(why) => Self::Unavailable(why),
        }
    }
}
