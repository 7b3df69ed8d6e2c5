//! What a component is made of, counted over its bytes: what has too much of anything is refused before a compiler sees
//! it. Nothing is validated here, and what cannot be read is left to the validation that follows.

use std::ops::Range;

use wasmparser::{ComponentAlias, ComponentExternalKind, ComponentInstance, ComponentOuterAliasKind, ComponentTypeRef};
use wasmparser::{Instance, Parser, Payload};

use super::limits;
use super::modules::LoadError;

/// What there is of everything, with all that lies within.
#[derive(Default)]
struct Shape {
    imports: u64,
    exports: u64,
    types: u64,
    functions: u64,
    /// What compiling it takes.
    work: u64,
    /// The component that is being read and those around it, the outermost first.
    open: Vec<Open>,
}

/// A component, or a core module, that is being read.
#[derive(Default)]
struct Open {
    /// What instantiating each component of its index space makes; `None` if that cannot be told by looking here.
    components: Vec<Option<u64>>,
    /// Core instances that instantiating this one makes.
    instances: u64,
    is_component: bool,
}

/// Checks a component against the limits on modules.
///
/// # Errors
///
/// [`LoadError::Limit`], which says of what it has too much.
pub(super) fn check(wasm: &[u8]) -> Result<(), LoadError> {
    let mut shape = Shape::default();
    for payload in Parser::new(0).parse_all(wasm) {
        let Ok(payload) = payload else { return Ok(()) };
        shape.add(&payload)?;
    }
    Ok(())
}

// === impl Shape ===

impl Shape {
    fn add(&mut self, payload: &Payload<'_>) -> Result<(), LoadError> {
        match payload {
            Payload::Version { encoding, .. } => {
                let is_component = *encoding == wasmparser::Encoding::Component;
                self.open.push(Open { is_component, ..Open::default() });
                within(self.open.len() as u64, limits::NESTING as u64, "components and modules within each other")
            }
            Payload::End(_) => {
                self.close();
                Ok(())
            }
            Payload::ImportSection(section) => self.imports(section.count()),
            Payload::ExportSection(section) => self.exports(section.count()),
            Payload::ComponentExportSection(section) => {
                self.exports(section.count())?;
                // An exported component gets one more place in the index space.
                for export in section.clone().into_iter().map_while(Result::ok) {
                    if export.kind == ComponentExternalKind::Component {
                        let known =
                            self.open.last().and_then(|open| open.components.get(export.index as usize).copied());
                        self.define(known.flatten());
                    }
                }
                Ok(())
            }
            Payload::TypeSection(section) => self.types(section.count()),
            Payload::CoreTypeSection(section) => self.types(section.count()),
            Payload::ComponentTypeSection(section) => self.types(section.count()),
            Payload::FunctionSection(section) => {
                self.functions += u64::from(section.count());
                within(self.functions, limits::FUNCTIONS as u64, "functions")
            }
            Payload::CodeSectionEntry(body) => {
                let bytes = length(&body.range());
                within(bytes, limits::FUNCTION_BYTES as u64, "bytes in one function")?;
                let groups = body.get_locals_reader().into_iter().flatten().map_while(Result::ok);
                let locals: u64 = groups.map(|(count, _)| u64::from(count)).sum();
                self.work = self.work.saturating_add(bytes.saturating_mul(locals));
                within(self.work, limits::COMPILE_WORK, "bytes of functions times their variables to compile")
            }
            Payload::ComponentImportSection(section) => {
                self.imports(section.count())?;
                for import in section.clone().into_iter().map_while(Result::ok) {
                    if matches!(import.ty, ComponentTypeRef::Component(_)) {
                        self.define(None);
                    }
                }
                Ok(())
            }
            Payload::ComponentAliasSection(section) => {
                section.clone().into_iter().map_while(Result::ok).for_each(|alias| self.alias(&alias));
                Ok(())
            }
            Payload::InstanceSection(section) => {
                for instance in section.clone().into_iter().map_while(Result::ok) {
                    if matches!(instance, Instance::Instantiate { .. }) {
                        self.instantiate(1)?;
                    }
                }
                Ok(())
            }
            Payload::ComponentInstanceSection(section) => {
                for instance in section.clone().into_iter().map_while(Result::ok) {
                    if let ComponentInstance::Instantiate { component_index, .. } = instance {
                        self.instantiate_component(component_index)?;
                    }
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn imports(&mut self, count: u32) -> Result<(), LoadError> {
        self.imports += u64::from(count);
        within(self.imports, limits::IMPORTS as u64, "imports")
    }

    fn exports(&mut self, count: u32) -> Result<(), LoadError> {
        self.exports += u64::from(count);
        within(self.exports, limits::EXPORTS as u64, "exports")
    }

    fn types(&mut self, count: u32) -> Result<(), LoadError> {
        self.types += u64::from(count);
        within(self.types, limits::TYPES as u64, "types")
    }

    /// A component is over: the one around it can instantiate it from now on.
    fn close(&mut self) {
        if let Some(open) = self.open.pop()
            && open.is_component
        {
            self.define(Some(open.instances));
        }
    }

    fn define(&mut self, instances: Option<u64>) {
        if let Some(open) = self.open.last_mut() {
            open.components.push(instances);
        }
    }

    fn alias(&mut self, alias: &ComponentAlias<'_>) {
        match *alias {
            ComponentAlias::Outer { kind: ComponentOuterAliasKind::Component, count, index } => {
                let outer = (self.open.len() - 1).checked_sub(count as usize).and_then(|place| self.open.get(place));
                let instances = outer.and_then(|open| open.components.get(index as usize).copied().flatten());
                self.define(instances);
            }
            ComponentAlias::InstanceExport { kind: ComponentExternalKind::Component, .. } => self.define(None),
            _ => {}
        }
    }

    fn instantiate_component(&mut self, index: u32) -> Result<(), LoadError> {
        let Some(known) = self.open.last().and_then(|open| open.components.get(index as usize).copied()) else {
            return Ok(());
        };
        match known {
            // One that makes none is a step of the engine's all the same.
            Some(instances) => self.instantiate(instances.max(1)),
            None => Err(LoadError::Invalid(
                "it instantiates a component that it imports or takes from an instance; how much that makes cannot be told"
                    .to_owned(),
            )),
        }
    }

    fn instantiate(&mut self, count: u64) -> Result<(), LoadError> {
        let Some(open) = self.open.last_mut() else { return Ok(()) };
        open.instances = open.instances.saturating_add(count);
        within(open.instances, u64::from(limits::CORE_INSTANCES), "core instances")
    }
}

fn length(range: &Range<usize>) -> u64 {
    range.len() as u64
}

fn within(has: u64, most: u64, what: &'static str) -> Result<(), LoadError> {
    if has > most { Err(LoadError::Limit { what, has, most }) } else { Ok(()) }
}
