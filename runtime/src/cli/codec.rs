//! `sandbar decode` and `sandbar encode`: one datum, without a bus.

use std::io::{self, Read as _};
use std::path::PathBuf;

use sandbar::decode::{Decoder, Settings};

use super::{Exit, Failure, out};

/// Somebody asks for this one datum by hand: it may be larger than what the line takes.
const MAX_PAYLOAD: usize = 64 << 20;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Event type, such as org.openedx.learning.course.enrollment.created.v1
    #[arg(long = "type", value_name = "TYPE")]
    kind: String,
    /// A directory of .avsc files, beside the schemas that are built in
    #[arg(long, value_name = "DIR")]
    schemas: Vec<PathBuf>,
}

/// Bytes on stdin, JSON on stdout.
pub(super) fn decode(args: Args) -> Result<Exit, Failure> {
    let decoder = args.decoder()?;
    let mut datum = Vec::new();
    io::stdin().lock().read_to_end(&mut datum)?;
    let document = decoder.to_json(&args.kind, &datum).map_err(Failure::usage)?;
    out::bytes(format!("{document}\n").as_bytes())?;
    Ok(Exit::Clean)
}

/// JSON on stdin, bytes on stdout.
pub(super) fn encode(args: Args) -> Result<Exit, Failure> {
    let decoder = args.decoder()?;
    let mut document = Vec::new();
    io::stdin().lock().read_to_end(&mut document)?;
    let document = String::from_utf8(document)
        .map_err(|error| Failure::usage(anyhow::Error::new(error).context("stdin is no JSON document")))?;
    let datum = decoder.to_avro(&args.kind, &document).map_err(Failure::usage)?;
    out::bytes(&datum)?;
    Ok(Exit::Clean)
}

// === impl Args ===

impl Args {
    fn decoder(&self) -> Result<Decoder, Failure> {
        let settings = Settings { dirs: self.schemas.clone(), builtin: true, max_payload: MAX_PAYLOAD };
        Decoder::load(&settings).map_err(|errors| Failure {
            exit: Exit::Usage,
            errors: errors.into_iter().map(|error| anyhow::anyhow!("{error}")).collect(),
        })
    }
}
