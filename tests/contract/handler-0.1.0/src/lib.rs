//! The binary that is kept for ever: it uses every interface of `sandbar:handler@0.1.0` once, so that a host which
//! changed the shape of any of them can no longer run it.
//!
//! It publishes what it saw of the event, its keys and its configuration; for an event of type `fail` it fails.
#![no_std]

extern crate alloc;

use alloc::borrow::ToOwned;
use alloc::string::String;
use alloc::vec::Vec;
use alloc::{format, vec};
use core::alloc::{GlobalAlloc, Layout};
use core::cell::UnsafeCell;

use exports::sandbar::handler::guest::Guest;
use sandbar::handler::types::{Event, Failure, Payload, Rejection, RetryRequest};
use sandbar::handler::{config, keys, log, outbox, secrets};

wit_bindgen::generate!({ path: "wit", world: "handler-full" });

struct Contract;

export!(Contract);

impl Guest for Contract {
    fn handle(event: Event) -> Result<(), Failure> {
        let payload = match &event.payload {
            Payload::Json(text) => text.clone(),
            Payload::Raw(bytes) => format!("{} bytes", bytes.len()),
        };
        match event.kind.as_str() {
            "retry" => {
                let attributes = vec![("code".to_owned(), "later".to_owned())];
                return Err(Failure::Retry(RetryRequest { reason: payload, after_ms: Some(1_500), attributes }));
            }
            "reject" => {
                let code = "no-use".to_owned();
                return Err(Failure::Reject(Rejection { code, message: payload, attributes: vec![] }));
            }
            _ => {}
        }
        log::write(log::Level::Info, &payload, &[("attempt".to_owned(), format!("{}", event.delivery.attempt))]);
        let before = keys::get("count").map_err(|error| retry(format!("{error:?}")))?;
        let count = before.and_then(|value| value.first().copied()).unwrap_or(0) + 1;
        keys::set("count", &[count], None).map_err(|error| retry(format!("{error:?}")))?;
        keys::delete("gone", None).map_err(|error| retry(format!("{error:?}")))?;
        let listed = keys::list("", 10).map_err(|error| retry(format!("{error:?}")))?;
        let base = config::get("base").map_err(|error| retry(format!("{error:?}")))?;
        let secret = secrets::get("token");
        let delivery = &event.delivery;
        let saw = format!(
            "{{\"id\":{:?},\"source\":{:?},\"time\":{:?},\"topic\":{:?},\"content\":{:?},\"payload\":{:?},\"handler\":{:?},\
             \"position\":{:?},\"attempt\":{},\"of\":{},\"deadline\":{},\"replayed\":{},\"attributes\":{},\"count\":{count},\
             \"listed\":{listed:?},\"base\":{:?},\"secret\":{}}}",
            event.id, event.source, event.time, event.topic, event.content_type, payload, delivery.handler,
            delivery.position, delivery.attempt, delivery.max_attempts, delivery.deadline_ms, delivery.replayed,
            event.attributes.len(), base.unwrap_or_default(), secret.is_ok(),
        );
        let draft = outbox::Draft {
            topic: "out".to_owned(),
            kind: "saw".to_owned(),
            key: event.key.clone(),
            payload: Payload::Json(saw),
            headers: event.headers.clone(),
            cause: None,
            attributes: vec![],
        };
        outbox::publish(&draft).map_err(|error| retry(format!("{error:?}")))?;
        Ok(())
    }
}

fn retry(reason: String) -> Failure {
    Failure::Retry(RetryRequest { reason, after_ms: None, attributes: Vec::new() })
}

/// Hands out an arena and takes nothing back: an instance lives for one event.
struct Arena(UnsafeCell<usize>, UnsafeCell<[u8; ARENA]>);

const ARENA: usize = 48 << 10;

// SAFETY: a guest has one thread.
unsafe impl Sync for Arena {}

// SAFETY: every block lies inside the arena, is aligned as asked, and is handed out once.
unsafe impl GlobalAlloc for Arena {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let base = self.1.get().cast::<u8>();
        // SAFETY: one thread, and no reference to the counter outlives this function.
        let used = unsafe { &mut *self.0.get() };
        let start = (base as usize + *used).next_multiple_of(layout.align()) - base as usize;
        if start + layout.size() > ARENA {
            return core::ptr::null_mut();
        }
        *used = start + layout.size();
        // SAFETY: `start` was just checked to lie inside.
        unsafe { base.add(start) }
    }

    unsafe fn dealloc(&self, _: *mut u8, _: Layout) {}
}

#[global_allocator]
static ALLOCATOR: Arena = Arena(UnsafeCell::new(0), UnsafeCell::new([0; ARENA]));

/// What the host calls to put its arguments into this memory.
///
/// # Safety
///
/// As the canonical ABI says: `old` is null or a block of `old_len` bytes that this function gave.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cabi_realloc(old: *mut u8, old_len: usize, align: usize, new_len: usize) -> *mut u8 {
    let Ok(layout) = Layout::from_size_align(new_len, align) else { core::arch::wasm32::unreachable() };
    // SAFETY: the arena takes any layout, and what is copied lies in both blocks.
    unsafe {
        let new = ALLOCATOR.alloc(layout);
        if new.is_null() {
            core::arch::wasm32::unreachable();
        }
        if !old.is_null() {
            core::ptr::copy_nonoverlapping(old, new, old_len.min(new_len));
        }
        new
    }
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    core::arch::wasm32::unreachable()
}
