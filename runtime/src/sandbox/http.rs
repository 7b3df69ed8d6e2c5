//! HTTP for handlers: `wasi:http/outgoing-handler`, served by a client of the host's own on threads of its own.
//!
//! What a guest may ask for is decided over parsed URLs (`grant`) and over the address that is connected to (`address`):
//! a name is looked up once, and the address that was checked is the one that is used. A request is no effect: it is sent
//! while the call runs, at least once, and with a key by which its receiver can tell a repeat.
//!
//! - `grant`: which URLs were given, and whether one is among them; `address`: which addresses nobody reaches by a name.
//! - `client`: the threads, and what servers are trusted by; `outlet`: one handler's connections; `connect`: how one is made.
//! - `exchange`: one request under way, between the guest's thread and the client's; `sending`: the latter's part.
//! - `fields`: headers, as far as a guest may choose them; `code`: what a guest is told when it fails.
//! - `table`: what a guest holds; `asking`: a request leaves it; `unsent`: one that is not to.

mod address;
mod asking;
mod client;
mod code;
mod connect;
mod exchange;
mod fields;
mod grant;
mod outlet;
mod sending;
mod table;
mod unsent;

pub(super) use client::{Client, Start};
pub(super) use code::{ErrorCode, Failure};
pub(super) use exchange::{Exchange, Read, Side, Times};
pub(super) use fields::{Fields, HeaderError, Refusal};
pub(super) use outlet::Outlet;
pub(super) use table::{Body, FIRST, Request, Response, Table, Thing, gone};

pub use client::{BadRoots, check_roots};
pub use grant::{BadUrl, Http, UrlGrant};
pub use unsent::{Answer, Unsent};
