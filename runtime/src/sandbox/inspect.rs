//! What a component is, by its bytes alone: nothing is compiled, linked or called.

use sha2::{Digest as _, Sha256};
use wasmparser::{ComponentTypeRef, KnownCustom, Parser, Payload, ProducersSectionReader, Validator, WasmFeatures};

use super::grants::{Capability, MissingGrant, missing};
use super::modules::{LoadError, look};
use super::served::{capabilities, no_guest, served};
use super::signature;
use super::trust::hex;
use super::{Malformed, Spec, Trust, TrustedKey, call, contract_v0_1, limits, shape, text};

/// What is told of a component.
#[derive(Debug)]
pub struct Inspection {
    /// SHA-256 of its bytes, in hex.
    pub digest: String,
    /// Bytes.
    pub size: usize,
    /// The versions of `sandbar:handler/guest` that it exports.
    pub contracts: Vec<String>,
    /// The names of everything it imports.
    pub imports: Vec<String>,
    /// The names of everything it exports.
    pub exports: Vec<String>,
    /// What its imports can make use of.
    pub capabilities: Vec<Capability>,
    /// Who made it, by its own account: each once.
    pub producers: Vec<Producer>,
    /// Whether it is signed, by its own account.
    pub signatures: Signatures,
    /// Bytes that its largest memory has at its start.
    pub first_memory: u64,
    /// Why no handler can have it, as far as that is seen without compiling it.
    pub refusal: Option<LoadError>,
}

/// One entry of a `producers` section.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Producer {
    /// `language`, `sdk` or `processed-by`.
    pub field: String,
    /// What it is called.
    pub name: String,
    /// May be empty.
    pub version: String,
}

/// What the signature section says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Signatures {
    /// There is none.
    None,
    /// So many; whose they are only a key can tell. With each the identifier of its key in hex, if it has one.
    Unverified(Vec<String>),
    /// It cannot be read, which is refused wherever a signature is asked for.
    Malformed(Malformed),
}

/// What a handler's configuration makes of a component.
#[derive(Debug)]
pub struct Acceptance {
    /// Whose signature it has, if the configuration asks for one.
    pub signed_by: Option<TrustedKey>,
    /// Why it would be refused; empty if it is accepted.
    pub refusals: Vec<String>,
    /// What it imports that the handler was not given: it runs all the same.
    pub missing: Vec<MissingGrant>,
}

/// More than anybody needs to know.
const PRODUCERS: usize = 64;

/// Bytes of a name that a component gives to something that made it.
const PRODUCER_BYTES: usize = 200;

/// Looks at the bytes of a component, or of anything.
#[must_use]
pub fn inspect(wasm: &[u8]) -> Inspection {
    let mut found = Inspection {
        digest: hex(&Sha256::digest(wasm)),
        size: wasm.len(),
        contracts: Vec::new(),
        imports: Vec::new(),
        exports: Vec::new(),
        capabilities: Vec::new(),
        producers: Vec::new(),
        signatures: match signature::read(wasm) {
            Ok(None) => Signatures::None,
            Ok(Some(signed)) => Signatures::Unverified(signed.key_ids().iter().map(|id| hex(id)).collect()),
            Err(malformed) => Signatures::Malformed(malformed),
        },
        first_memory: 0,
        refusal: look(wasm).err(),
    };
    if found.refusal.is_none() {
        let read = found.read(wasm);
        found.refusal = shape::check(wasm).and(read).err();
    }
    found.capabilities = capabilities(&found.imports);
    // The language first, then what it was made with, in the order of the file.
    found.producers.sort_by_key(|one| ["language", "sdk"].iter().position(|field| *field == one.field).unwrap_or(2));
    found
}

// === impl Inspection ===

impl Inspection {
    /// Whether a handler would run these bytes, which are the ones that were inspected.
    #[must_use]
    pub fn accepted(&self, wasm: &[u8], trust: &Trust, spec: &Spec) -> Acceptance {
        let mut refusals: Vec<String> = self.refusal.iter().map(ToString::to_string).collect();
        let signed_by = trust.check(wasm).unwrap_or_else(|error| {
            refusals.push(error.to_string());
            None
        });
        let limit = spec.limits.memory;
        if self.first_memory > limit {
            let (limit, first) = (call::mebibytes(limit), call::mebibytes(self.first_memory));
            refusals.push(format!(
                "starts with {first} of memory and may have {limit}; more: [handler.limits] memory = \"{first}\""
            ));
        }
        Acceptance { signed_by, refusals, missing: missing(&self.capabilities, &spec.grants) }
    }

    fn read(&mut self, wasm: &[u8]) -> Result<(), LoadError> {
        // Of some faults the parser makes several lines.
        let invalid = |error: wasmparser::BinaryReaderError| {
            LoadError::Invalid(text::line(&error.to_string(), limits::REASON_BYTES))
        };
        let mut refusal = None;
        let mut depth = 0_usize;
        for payload in Parser::new(0).parse_all(wasm) {
            match payload.map_err(invalid)? {
                Payload::ModuleSection { .. } | Payload::ComponentSection { .. } => depth += 1,
                Payload::End(_) => depth = depth.saturating_sub(1),
                Payload::ComponentImportSection(section) if depth == 0 => {
                    for import in section {
                        let import = import.map_err(invalid)?;
                        let kind = match import.ty {
                            ComponentTypeRef::Instance(_) => Some(true),
                            ComponentTypeRef::Type(_) => None,
                            _ => Some(false),
                        };
                        if let Some(is_instance) = kind {
                            refusal = refusal.or_else(|| served(import.name.name, is_instance).err());
                        }
                        self.imports.push(text::name(import.name.name));
                    }
                }
                Payload::ComponentExportSection(section) if depth == 0 => {
                    for export in section {
                        self.exports.push(text::name(export.map_err(invalid)?.name.name));
                    }
                }
                Payload::MemorySection(section) => {
                    for memory in section {
                        let memory = memory.map_err(invalid)?;
                        let bytes = memory.initial.saturating_mul(1 << memory.page_size_log2.unwrap_or(16).min(16));
                        self.first_memory = self.first_memory.max(bytes);
                    }
                }
                Payload::CustomSection(section) => {
                    if let KnownCustom::Producers(section) = section.as_known() {
                        self.made_by(section);
                    }
                }
                _ => {}
            }
        }
        let versions = self.exports.iter().filter_map(|name| name.strip_prefix("sandbar:handler/guest@"));
        self.contracts = versions.map(str::to_owned).collect();
        // Features that the host's engine does not have either.
        let features = WasmFeatures::default().difference(WasmFeatures::MEMORY64 | WasmFeatures::THREADS);
        Validator::new_with_features(features).validate_all(wasm).map_err(invalid)?;
        match refusal {
            Some(refusal) => Err(refusal),
            None if !self.exports.iter().any(|name| name == contract_v0_1::EXPORT) => Err(no_guest(&self.exports)),
            None => Ok(()),
        }
    }

    /// What a custom section says, which may be anything: what cannot be read is left out.
    fn made_by(&mut self, section: ProducersSectionReader<'_>) {
        for field in section.into_iter().map_while(Result::ok) {
            for value in field.values.into_iter().map_while(Result::ok) {
                let shown = |said: &str| text::line(said, PRODUCER_BYTES);
                let (name, version) = (shown(value.name), shown(value.version));
                let one = Producer { field: field.name.to_owned(), name, version };
                if self.producers.len() < PRODUCERS && !self.producers.contains(&one) {
                    self.producers.push(one);
                }
            }
        }
    }
}
