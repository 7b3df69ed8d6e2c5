//! What is said about a handler's module: `swap`, after whose line the module and its fixtures follow, and `rollback`.

use std::time::Duration;

use sandbar::pipeline::Control;
use sandbar::pipeline::selftest::Fixture;
use sandbar::pipeline::versions::{Swap, Swapped};
use sandbar::sandbox::limits;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::time::timeout;

use super::refusal;

/// Bytes of all fixtures of a module.
const FIXTURES_MAX: usize = 16 << 20;

/// How long a client may take to send a module.
const SENDING: Duration = Duration::from_secs(60);

/// The line.
#[derive(Debug, Deserialize)]
#[serde(tag = "do", rename_all = "lowercase", deny_unknown_fields)]
pub(super) enum Command {
    Swap {
        handler: String,
        by: String,
        /// Bytes of the module, which follow the line.
        module: usize,
        /// Bytes of its fixtures, which follow the module: a JSON array of names and texts.
        fixtures: usize,
    },
    Rollback {
        handler: String,
        by: String,
    },
}

// === impl Command ===

impl Command {
    /// `None` if the line says something else.
    pub(super) fn of(line: &[u8]) -> Option<Self> {
        serde_json::from_slice(line).ok()
    }
}

/// Does what is asked, and says what was done. An error if the rest of what the client says means nothing.
pub(super) async fn answer(
    command: Command,
    read: &mut (impl AsyncRead + Unpin),
    control: &Control,
) -> Result<Value, String> {
    let done = match command {
        Command::Rollback { handler, by } => control.roll_back(&handler, &by).await,
        Command::Swap { handler, by, module, fixtures } => {
            let (wasm, texts) = body(read, module, fixtures).await?;
            let fixtures = texts.iter().map(|(name, text)| Fixture::parse(name, text)).collect::<Result<_, _>>();
            match fixtures {
                Ok(fixtures) => control.swap(&handler, Swap { wasm: wasm.into(), fixtures, by }).await,
                Err(error) => return Ok(refusal(&error.to_string())),
            }
        }
    };
    Ok(match done {
        Ok(Swapped { digest, before, passed }) => {
            json!({ "ok": true, "pid": std::process::id(), "module": digest, "before": before, "passed": passed })
        }
        Err(refused) => refusal(&refused.to_string()),
    })
}

/// What follows the line: the module, and names and texts of its fixtures.
async fn body(
    read: &mut (impl AsyncRead + Unpin),
    module: usize,
    fixtures: usize,
) -> Result<(Vec<u8>, Vec<(String, String)>), String> {
    if module > limits::MODULE_BYTES || fixtures > FIXTURES_MAX {
        let most = limits::MODULE_BYTES;
        return Err(format!("a module has {most} bytes at most, and its fixtures {FIXTURES_MAX}"));
    }
    let (mut wasm, mut texts) = (vec![0; module], vec![0; fixtures]);
    let whole = async {
        read.read_exact(&mut wasm).await?;
        read.read_exact(&mut texts).await
    };
    if !matches!(timeout(SENDING, whole).await, Ok(Ok(_))) {
        return Err("the module did not come whole".to_owned());
    }
    if texts.is_empty() {
        return Ok((wasm, Vec::new()));
    }
    let texts = serde_json::from_slice(&texts).map_err(|error| format!("the fixtures are no list: {error}"))?;
    Ok((wasm, texts))
}
