//! Handlers that mean harm: one folder a case, with what is expected of the host beside it.
//!
//! A case is `case.wat`, or a command of a test guest, and `expect.toml`: why it is refused when it is loaded, or how its
//! call ends. Each is called alone, in a host with a neighbour, and hundreds of times with a wall limit of 5 ms
//! (`HOSTILE_REPETITIONS=10000`, as `make hostile` does). A new case is a new folder.

mod alone;
mod case;
mod neighbour;
mod repeated;
mod together;
