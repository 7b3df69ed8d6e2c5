//! The `#[handler]` attribute of `sandbar-sdk`. Use it from there.

use proc_macro::TokenStream;
use quote::{quote, quote_spanned};
use syn::spanned::Spanned;
use syn::{Error, ItemFn};

/// Makes a function the handler of this component: `fn(Event) -> Result<(), Failure>`, of any name, once per crate.
///
/// ```text
/// #[handler]
/// fn handle(event: Event) -> Result<(), Failure> {
///     Ok(())
/// }
/// ```
///
/// Outside WebAssembly nothing is exported, so that the crate's tests can call the function.
#[proc_macro_attribute]
pub fn handler(arguments: TokenStream, item: TokenStream) -> TokenStream {
    expand(arguments.into(), item.into()).into()
}

fn expand(arguments: proc_macro2::TokenStream, item: proc_macro2::TokenStream) -> proc_macro2::TokenStream {
    let function: ItemFn = match syn::parse2(item.clone()) {
        Ok(function) => function,
        Err(error) => {
            let error = Error::new(
                error.span(),
                "#[handler] goes on a function: fn handle(event: Event) -> Result<(), Failure>",
            );
            return error.into_compile_error();
        }
    };
    let complaint = match check(&arguments, &function) {
        Ok(()) => return export(&function),
        Err(error) => error.into_compile_error(),
    };
    // The function stays, so that the complaint is the only error.
    quote! { #complaint #[allow(dead_code)] #item }
}

/// Says what is wrong in the words of the author rather than in those of the generated code.
fn check(arguments: &proc_macro2::TokenStream, function: &ItemFn) -> Result<(), Error> {
    let signature = &function.sig;
    if !arguments.is_empty() {
        return Err(Error::new(arguments.span(), "#[handler] takes no arguments"));
    }
    if let Some(token) = &signature.asyncness {
        return Err(Error::new(
            token.span(),
            "a handler is a plain function: the host calls it on a thread of its own, and its imports return when done",
        ));
    }
    if !signature.generics.params.is_empty() {
        return Err(Error::new(
            signature.generics.span(),
            "a handler cannot be generic: the host calls it with one type, Event",
        ));
    }
    if signature.inputs.len() != 1 || signature.receiver().is_some() {
        return Err(Error::new(signature.paren_token.span.join(), "a handler takes one argument: (event: Event)"));
    }
    if matches!(signature.output, syn::ReturnType::Default) {
        return Err(Error::new(
            signature.paren_token.span.join(),
            "a handler says how it ended: add `-> Result<(), Failure>`, and `Ok(())` at the end",
        ));
    }
    Ok(())
}

fn export(function: &ItemFn) -> proc_macro2::TokenStream {
    let name = &function.sig.ident;
    // A wrong type of argument or result is reported at the function's signature.
    let typed = quote_spanned! { function.sig.span() =>
        // Outside WebAssembly nothing calls it but the author's tests, if there are any.
        #[allow(dead_code)]
        const __HANDLER: fn(::sandbar_sdk::Event) -> ::core::result::Result<(), ::sandbar_sdk::Failure> = #name;
    };
    quote! {
        #function

        const _: () = {
            #typed

            #[cfg(target_family = "wasm")]
            const _: () = {
                struct __Component;

                impl ::sandbar_sdk::__private::guest::Guest for __Component {
                    fn handle(
                        event: ::sandbar_sdk::__private::guest::Event,
                    ) -> ::core::result::Result<(), ::sandbar_sdk::__private::guest::Failure> {
                        ::sandbar_sdk::__private::run(event, __HANDLER)
                    }
                }

                ::sandbar_sdk::__private::export!(__Component with_types_in ::sandbar_sdk::__private::bindings);
            };
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn complaint(arguments: &str, item: &str) -> String {
        let expanded = expand(arguments.parse().unwrap(), item.parse().unwrap()).to_string();
        let (_, rest) = expanded.split_once("compile_error").unwrap_or_else(|| panic!("no complaint: {expanded}"));
        rest.split('"').nth(1).unwrap_or_default().to_owned()
    }

    #[test]
    fn a_plain_function_of_any_name_is_exported() {
        let expanded =
            expand(quote! {}, quote! { fn on_enrollment(e: Event) -> Result<(), Failure> { Ok(()) } }).to_string();
        assert!(!expanded.contains("compile_error"), "{expanded}");
        assert!(expanded.contains("= on_enrollment ;"), "{expanded}");
        assert!(expanded.contains("export !"), "{expanded}");
    }

    #[test]
    fn what_is_no_handler_is_refused_in_plain_words() {
        let result = "-> Result<(), Failure> { Ok(()) }";
        for (arguments, item, expected) in [
            ("", "struct Handler;".to_owned(), "goes on a function"),
            ("x = 1", format!("fn f(e: Event) {result}"), "takes no arguments"),
            ("", format!("async fn f(e: Event) {result}"), "plain function"),
            ("", format!("fn f<T>(e: T) {result}"), "cannot be generic"),
            ("", format!("fn f() {result}"), "takes one argument"),
            ("", format!("fn f(e: Event, n: u32) {result}"), "takes one argument"),
            ("", format!("fn f(self) {result}"), "takes one argument"),
            ("", "fn f(e: Event) {}".to_owned(), "says how it ended"),
        ] {
            let said = complaint(arguments, &item);
            assert!(said.contains(expected), "{item}: {said}");
        }
    }
}
