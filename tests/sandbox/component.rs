//! Components of the contract as text.

/// What a component of the contract imports whatever it does, with the types that [`GUEST`] needs.
pub(crate) const TYPES: &str = r#"
(import "sandbar:handler/types@0.1.0" (instance $types
  (type $attributes (list (tuple string string)))
  (type $payload0 (variant (case "json" string) (case "raw" (list u8))))
  (export "payload" (type $payload (eq $payload0)))
  (type $delivery0 (record (field "handler" string) (field "position" string) (field "attempt" u32)
    (field "max-attempts" u32) (field "deadline-ms" u32) (field "replayed" bool)))
  (export "delivery" (type $delivery (eq $delivery0)))
  (type $key (option (list u8)))
  (type $headers (list (tuple string (list u8))))
  (type $event0 (record (field "id" string) (field "kind" string) (field "source" string) (field "time" string)
    (field "topic" string) (field "key" $key) (field "content-type" string) (field "payload" $payload)
    (field "headers" $headers) (field "delivery" $delivery) (field "attributes" $attributes)))
  (export "event" (type $event (eq $event0)))
  (type $after (option u64))
  (type $retry0 (record (field "reason" string) (field "after-ms" $after) (field "attributes" $attributes)))
  (export "retry-request" (type $retry (eq $retry0)))
  (type $rejection0 (record (field "code" string) (field "message" string) (field "attributes" $attributes)))
  (export "rejection" (type $rejection (eq $rejection0)))
  (type $failure0 (variant (case "retry" $retry) (case "reject" $rejection)))
  (export "failure" (type $failure (eq $failure0)))))
(alias export $types "event" (type $event))
(alias export $types "failure" (type $failure))"#;

/// Exports the handler: the function `handle` of the core instance `$m`, with its `memory` and `realloc`.
pub(crate) const GUEST: &str = r#"
(func $handle (param "event" $event) (result (result (error $failure)))
  (canon lift (core func $m "handle") (memory (core memory $m "memory")) (realloc (core func $m "realloc"))))
(instance $guest (export "handle" (func $handle)))
(export "sandbar:handler/guest@0.1.0" (instance $guest))"#;

/// In a core module: a memory of two pages, and what gives it out from its second page on.
pub(crate) const MEMORY: &str = r#"
(memory (export "memory") 2)
(global $at (mut i32) (i32.const 65536))
(func (export "realloc") (param i32 i32 i32 i32) (result i32)
  (local $start i32)
  (local.set $start (i32.and (i32.add (global.get $at) (i32.const 7)) (i32.const -8)))
  (global.set $at (i32.add (local.get $start) (local.get 3)))
  (local.get $start))"#;

/// A component of the contract: `imports` and `core` are put in, the latter into its core module, whose function
/// `handle` is the handler.
pub(crate) fn component(imports: &str, core: &str) -> Vec<u8> {
    importing(imports, "", core)
}

/// The same with arguments for the instance of the core module.
pub(crate) fn importing(imports: &str, with: &str, core: &str) -> Vec<u8> {
    // What a module imports comes first in its text.
    let (core_imports, core) = core.split_once(";;").unwrap_or(("", core));
    let text = format!(
        "(component {imports} {TYPES} (core module $main {core_imports} {MEMORY} {core}) (core instance $m (instantiate $main {with})) {GUEST})"
    );
    wat::parse_str(text).unwrap()
}
