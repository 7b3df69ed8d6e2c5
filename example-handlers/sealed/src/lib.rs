//! Publishes each event again with a seal, so that whoever has the same key knows who published it.
//!
//! The lesson: a secret. The operator gives the key; it is not in the component, not in its configuration and not in any
//! log.
//!
//! Needs `publish = ["sealed"]` and `secrets = ["SEAL_KEY"]`.

use hmac::{Hmac, Mac as _};
use sandbar_sdk::{Event, Failure, handler, outbox, secrets};
use sha2::Sha256;

#[handler]
fn handle(event: Event) -> Result<(), Failure> {
    let text = event.json().ok_or_else(|| Failure::reject("no-json", "only JSON is sealed"))?;
    let seal = seal(&secrets::get("SEAL_KEY")?, event.id(), text);
    outbox::Draft::new("sealed", event.kind()).json_text(text).header("seal", seal).publish()?;
    Ok(())
}

/// HMAC-SHA256 over the id of the event that it was made for and its data, in hex.
fn seal(key: &str, id: &str, data: &str) -> String {
    // A key of any length will do.
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(key.as_bytes()) else { return String::new() };
    for part in [id.as_bytes(), b"\0", data.as_bytes()] {
        mac.update(part);
    }
    mac.finalize().into_bytes().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_seal_is_of_key_id_and_data() {
        let one = seal("key", "The quick brown fox", "jumps");
        assert_eq!(one.len(), 64);
        for other in [seal("yek", "The quick brown fox", "jumps"), seal("key", "The quick brown foxj", "umps")] {
            assert_ne!(one, other);
        }
        // As `printf 'id\0data' | openssl dgst -sha256 -hmac key` has it.
        assert_eq!(seal("key", "id", "data"), "0865178d01c433e7667f03e3754d0cb915cff31cec775794304a1254b2ac124e");
    }
}
