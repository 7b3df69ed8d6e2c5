//! Any bytes as a component: looked at, validated, and loaded if they are few.

use std::sync::{Arc, LazyLock};

use sandbar::sandbox::{Sandbox, Settings, Trust, TrustedKey, inspect};

/// Larger ones are only looked at: the compiler is not ours, and takes long.
const COMPILED: usize = 4 << 10;

static SANDBOX: LazyLock<Arc<Sandbox>> = LazyLock::new(|| {
    let settings = Settings { threads: 1, ..Settings::default() };
    Sandbox::tight(&settings, 1).expect("a pool for one call")
});

/// Somebody who signed none of the inputs.
static TRUST: LazyLock<Trust> = LazyLock::new(|| {
    let key = b"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f releases@example.org";
    Trust { sha256: None, keys: Some(TrustedKey::parse(key).expect("a key")) }
});

/// The input is the component; or, as bytes are bytes, somebody's public key.
pub fn run(input: &[u8]) {
    let _ = TrustedKey::parse(input);
    assert!(TRUST.check(input).is_err(), "nobody signed this");
    let found = inspect(input);
    assert_eq!(found.size, input.len());
    // All of it is told on lines of which it must not make more.
    let producers = found.producers.iter().flat_map(|one| [&one.field, &one.name, &one.version]);
    let refusal = found.refusal.as_ref().map(ToString::to_string);
    for said in producers.chain(&found.imports).chain(&found.exports).chain(&refusal) {
        assert!(!said.contains(char::is_control), "{said:?}");
    }
    if input.len() > COMPILED {
        return;
    }
    if let Ok(module) = SANDBOX.load(input) {
        assert_eq!(module.digest(), found.digest);
        // Nothing that runs may be told of as if it could not.
        assert!(found.refusal.is_none(), "it loads, although: {:?}", found.refusal);
        assert_eq!(module.capabilities(), found.capabilities);
    }
}
