//! The contract of `wit/` as Rust types. Nothing outside this crate names them.

#![allow(
    missing_docs,
    unreachable_pub,
    clippy::all,
    clippy::allow_attributes_without_reason,
    reason = "generated code"
)]

wit_bindgen::generate!({
    path: "wit",
    world: "handler-full",
    pub_export_macro: true,
    export_macro_name: "__export_handler",
    default_bindings_module: "::sandbar_sdk::__private::bindings",
});
