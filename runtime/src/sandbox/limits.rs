//! How far a guest may go: every limit of the sandbox as a named constant, with its reason.
//!
//! Those of a call that an operator sets per handler are [`super::Limits`], whose defaults are constants here. A limit
//! that is hit names itself, its value and its setting to the guest, the log or the verdict.

use std::time::Duration;

use super::Limits;

/// Wall time of a call. Handlers compute for micro- to milliseconds; a second leaves room for a cold cache and is
/// still short enough that one that hangs is found at once.
pub const TIME: Duration = Duration::from_secs(1);

/// Bytes of all memories of an instance. A Rust handler needs 1 to 2 MiB, a JavaScript engine 10, Python 40.
///
/// It is the sum that counts, and it is counted while the instance is made and runs. When a handler is set up only the
/// largest memory of its module is known, so that one is compared with the limit there; a component of several
/// memories that start with more together loads, and each call of it ends with the code `memory-limit`.
pub const MEMORY: u64 = 64 << 20;

/// The largest linear memory that 32-bit WebAssembly can address, and so the largest slot a pool can have.
pub const MEMORY_CEILING: u64 = 4 << 30;

/// What one element of a table is charged against the memory limit: a pointer, and as much again for its bookkeeping.
pub const TABLE_ELEMENT_BYTES: u64 = 16;

/// Cores that the calls of one handler may keep busy: as many as there are. While others wait, none has more than half of
/// them anyway.
pub const CORE_SLOTS: usize = usize::MAX;

// === the pool: what one call may hold at once, times the calls that may run at once ===

/// Threads that may be inside a guest at once, with those that stand in for slow calls. More would wait for a core
/// or for the bus anyway; each can hold `limits.memory`.
pub const THREADS: usize = 64;

/// Pool slots beside those of [`THREADS`], for calls on threads that are not the host's workers: a few at once, by
/// programs that use this library, and tests.
pub const EXTRA_CALLS: usize = 16;

/// Instances of all handlers together that may wait for their next event, where handlers have `reuse`. They have pool
/// slots of their own beside those for calls, so that waiting ones never keep a call out; each keeps its memory.
pub const KEPT: usize = 64;

/// How long an instance waits for its next event before it is dropped, about. Making one anew takes microseconds to
/// milliseconds, so that more would only hold memory.
pub const KEPT_IDLE: Duration = Duration::from_secs(5);

/// How often the host looks for instances that have waited too long, while there are any.
pub const KEPT_LOOK: Duration = Duration::from_secs(1);

/// Handles that an instance may hold from one event to the next. Runtimes keep a handful for good; more are a leak, and
/// the instance is dropped long before it meets [`HANDLES`].
pub const KEPT_HANDLES: usize = 100;

/// Core instances of one component. Plain guests have 3 or 4, the largest language runtimes a few dozen.
pub const CORE_INSTANCES: u32 = 64;

/// Linear memories of one component. Ordinary guests have one, composed ones one for each part.
pub const MEMORIES: u32 = 8;

/// Tables of one component. Ordinary guests have one for their functions and one for each shim.
pub const TABLES: u32 = 16;

/// Elements of one table. The largest runtime tried, Python's, has about 12,000 functions in its table.
pub const TABLE_ELEMENTS: usize = 65_536;

/// Tables or memories that one core module may define.
pub const PER_MODULE: u32 = 8;

/// Bytes of a linear memory that stay resident in an empty slot, so that the next instance finds its pages mapped.
/// With the kernel's page scan 256 KiB to 1 MiB measure alike; 1 MiB holds what a Rust handler touches.
pub const KEEP_RESIDENT: usize = 1 << 20;

/// The same for a table.
pub const TABLE_KEEP_RESIDENT: usize = 64 << 10;

/// Bytes of stack a guest may use: twice the engine's default, for the nested interpreters of language runtimes. A
/// runaway recursion traps there; the host's threads have more.
pub const GUEST_STACK: usize = 1 << 20;

/// Stack of the host's worker threads: the guest's, and as much for the host functions it calls, with room.
pub const THREAD_STACK: usize = 4 << 20;

/// Bytes that one host call may hand over. A draft has at most [`PUBLISHED_BYTES`].
pub const HOST_CALL_BYTES: usize = 8 << 20;

/// Times a call may call the host or a helper of the engine (growing a memory is one). Handlers need tens, language
/// runtimes hundreds as they start; who waits for a second by reading the clock needs a million, as each reading moves
/// it on by [`CLOCK_STEP_NANOS`].
pub const HOST_CALLS: u64 = 1_000_000;

/// At every so many of them the host looks at its clock and at [`HOST_CALLS`]. The engine looks for the end of a call's
/// time where a function begins and where a loop goes round: millions of host calls one after the other in one function
/// have neither. A power of two.
pub const HOST_CALLS_LOOK: u64 = 8;

/// Handles (streams, pollables, …) that a guest may hold at once. Runtimes use a handful.
pub const HANDLES: usize = 1_000;

// === a module: counted over the bytes before anything is compiled ===

/// Bytes of a module. The largest components of language runtimes have 20 to 40 MB.
pub const MODULE_BYTES: usize = 128 << 20;

/// Imports of a component with everything in it. Guests have hundreds, Python's linked libraries some thousands; each
/// is looked up by name when it is linked.
pub const IMPORTS: usize = 50_000;

/// Exports of a component with everything in it. The same guests have as many; each is kept by name for as long as the
/// module is loaded.
pub const EXPORTS: usize = 50_000;

/// Types of a component with everything in it. Guests have hundreds, the largest runtimes some thousands.
pub const TYPES: usize = 50_000;

/// Functions of a component with everything in it. The largest runtimes tried have 40,000; compiling one costs memory
/// and time even if it is empty.
pub const FUNCTIONS: usize = 200_000;

/// Bytes of one function. The largest of an interpreter have a few hundred thousand. Compiling takes the more time per
/// byte the larger a function is, and nothing stops it but the end of its process.
pub const FUNCTION_BYTES: usize = 1 << 20;

/// Bytes of each function times its local variables, of all functions together: what compiling takes grows with it. One
/// function of 720 kB with 20,000 variables (14 thousand million) takes minutes. Python's interpreter with all it is made
/// of has some hundred million.
pub const COMPILE_WORK: u64 = 4_000_000_000;

/// Components in components. Composed ones have 2 or 3.
pub const NESTING: usize = 16;

/// Processors' time of compiling one module, in a process of its own; what takes more keeps a start or a swap waiting.
/// Measured with a development build, whose compiler is optimised by one level of three: the example handlers of 60 to
/// 370 kB take 0.2 to 0.9 s, a module of 20 MB of code 36 s in small functions and 47 s in large ones.
pub const COMPILE_TIME: Duration = Duration::from_secs(120);

/// How many times [`COMPILE_TIME`] may pass until a process is ended that does not take that time: it waits for others
/// that want the processor, or for nothing.
pub const COMPILE_WALL: u32 = 4;

/// How often it is looked at whether a compiler that yields to others gets anywhere: one that had less than an eighth of a
/// core so far begins again and yields no more. So an eighth of the time is lost at most, and a host on a busy machine is a
/// second late. A module that is swapped in takes 0.2 to 0.9 s of processor time (above).
pub const COMPILE_LOOK: Duration = Duration::from_secs(1);

/// Of [`COMPILE_LOOK`]: the least share, one part of so many, of a core.
pub const COMPILE_SHARE: u32 = 8;

/// Processes that compile at once, if there are as many cores: for a host that starts with several modules that it has no code
/// of, and for modules that are swapped in at the same time. Each may take [`COMPILE_MEMORY`].
pub const COMPILERS: u8 = 4;

/// Threads of a compiler, if there are as many cores. Each takes some 90 MiB of address space whatever the module is, of which
/// little is used: with 64 the least that compiles an example handler is 2 GiB, with 8 it is 750 MiB.
pub const COMPILE_THREADS: usize = 8;

/// Bytes of address space of compiling one module, beside what the process has anyway (105 MiB) and the module. Measured as
/// above, with two threads: the example handlers take 200 to 260 MiB, of which 60 to 110 are used, the module of 20 MB takes 420
/// to 690, of which 330 to 440 are used.
pub const COMPILE_MEMORY: u64 = 4 << 30;

/// Bytes of the code that a compiler may answer with: what one entry of the code cache may have.
pub const COMPILED_BYTES: u64 = CODE_CACHE_BYTES;

/// Bytes of the code cache. What was not used for longest goes first. A compiled module has two to five times its bytes.
pub const CODE_CACHE_BYTES: u64 = 1 << 30;

/// Entries of the code cache: modules, times the versions of them and of this program that were used of late.
pub const CODE_CACHE_ENTRIES: usize = 1_000;

// === time ===

/// A year: for what must be given an end and has none.
pub(super) const FOR_EVER: Duration = Duration::from_secs(365 * 24 * 3600);

/// How often the host looks whether a running call is over its time, or holds a core too long. Only while calls run.
pub const TICK: Duration = Duration::from_millis(1);

/// How long the monitor keeps ticking after the last call, so that steady traffic need not wake it for every event.
pub const LINGER: Duration = Duration::from_millis(20);

/// A call that runs longer gives its core slot to a spare thread. Ordinary calls take a hundredth of it, so a hand-over
/// is rare and costs nothing beside the call; and others hardly notice the wait.
pub const SLOW_CALL: Duration = Duration::from_millis(5);

/// So many calls must end by themselves after one that was stopped for its time, until the handler's calls are as
/// important as others' again: whoever stops now and then can take a small part of the processor only.
pub const OVERRUN_CALLS: u32 = 32;

/// How long such a call rests after each [`TICK`] in which others have work, or had some a moment ago: it takes a twentieth
/// of a core or so. A slow call that has a core more than its handler's share rests as long. Its time stands still meanwhile.
pub const OVERRUN_REST: Duration = Duration::from_millis(24);

/// Others that had work so short a time ago count as having some: steady traffic comes every few milliseconds at most, and
/// a call that looks in between would take the core just when they come back.
pub const OTHERS_LATELY: Duration = Duration::from_millis(50);

/// A worker that has held its slot for so long lets another handler have it, if one waits: as long as one slow call may
/// hold it, so that many short ones are no worse.
pub const TURN: Duration = Duration::from_millis(5);

/// A finished job goes back no later than this, whatever the rest of its batch does. It is the tick that looks; sooner
/// would cost a hand-over for every few calls.
pub const CHUNK_AGE: Duration = Duration::from_millis(1);

/// Jobs a worker takes at once: enough that a hand-over is nothing beside the calls, few enough to share out.
pub const BATCH: usize = 256;

/// A queue shorter than this is not shared out between workers: waking one more costs more than it brings.
pub const BATCH_LEAST: usize = 16;

/// A spare thread that found nothing to do for so long ends. Starting one anew takes tens of microseconds, so this only
/// keeps load that comes in waves from starting the same threads each time.
pub const SPARE_IDLE: Duration = Duration::from_secs(10);

// === what a call may ask for ===

/// Events one call may publish. One event fans out to a few; hundreds are a loop gone wrong.
pub const PUBLISHED_EVENTS: usize = 100;

/// Bytes of all drafts of a call. They are held in memory until the commit, which is one transaction.
pub const PUBLISHED_BYTES: usize = 4 << 20;

/// Headers of one draft. The wire profiles write about ten of their own.
pub const DRAFT_HEADERS: usize = 64;

/// Bytes of a key: room for a few identifiers.
pub const KEY_BYTES: usize = 512;

/// Bytes of the value of a key: keys hold small state, not documents by the megabyte.
pub const KEY_VALUE_BYTES: usize = 1 << 20;

/// Reads, writes and lists of keys in one call. Each read waits for the bus, and all are checked at commit.
pub const KEY_OPERATIONS: usize = 1_000;

/// Bytes of all key writes of a call, for the same reason as [`PUBLISHED_BYTES`].
pub const KEY_WRITE_BYTES: usize = 4 << 20;

/// Keys that one `list` returns at most, whatever it asks for: with the longest keys half a megabyte.
pub const KEY_LIST: u32 = 1_000;

/// Bytes of random numbers that one host call returns. Seeds take tens; a megabyte is milliseconds of the host's time,
/// which no tick can cut short.
pub const RANDOM_BYTES: u64 = 1 << 20;

// === requests ===

/// Requests of one call. Each waits for a server; a call that needs dozens is better split into events.
pub const HTTP_CALLS: usize = 32;

/// Bytes of the bodies of all requests of a call. They are held in memory until they are sent.
pub const HTTP_REQUEST_BYTES: usize = 4 << 20;

/// Bytes of the bodies of all answers to a call. They pass through [`HTTP_BUFFER`]; the guest that keeps them has
/// [`MEMORY`] for it. What cuts an endless body is this, or the call's time.
pub const HTTP_RESPONSE_BYTES: usize = 8 << 20;

/// Bytes of the headers of one request or answer. Servers take 8 to 32 KiB by default; cookies are the largest.
pub const HTTP_HEADER_BYTES: usize = 32 << 10;

/// Headers of one request or answer.
pub const HTTP_HEADERS: usize = 100;

/// Connections of one handler on a host, in use or waiting for their next request: half as many as there are threads
/// that could use one, and few enough for a small server.
pub const HTTP_CONNECTIONS: usize = 32;

/// How long connecting may take, with the look-up and TLS; the call's time ends it too. Three times the first wait of TCP
/// for a lost packet, with room.
pub const HTTP_CONNECT: Duration = Duration::from_secs(5);

/// How long a connection waits for its next request. The servers that close soonest (Node's) do so after 5 s, and a request
/// that meets that moment fails.
pub const HTTP_IDLE: Duration = Duration::from_secs(4);

/// Bytes of a body that are received before the guest asks for them, about.
pub const HTTP_BUFFER: usize = 64 << 10;

/// Bytes of a URL: what servers take at most.
pub const HTTP_URL_BYTES: usize = 8 << 10;

/// Handles of HTTP (headers, requests, answers, bodies, …) that a guest may hold at once. Each can have
/// [`HTTP_HEADER_BYTES`] of the host's memory; one request at a time needs about eight.
pub const HTTP_HANDLES: usize = 256;

/// Addresses of one name that are tried. The time to connect is divided among them.
pub const HTTP_ADDRESSES: usize = 4;

/// Names of one handler that are looked up at once: a look-up holds a thread, for half a minute if no server answers.
pub const HTTP_LOOKUPS: usize = 4;

/// Threads for the look-ups of all handlers.
pub const HTTP_LOOKUP_THREADS: usize = 64;

/// Threads that send and receive for all handlers. They encrypt and copy, and wait for the most part.
pub const HTTP_THREADS: usize = 2;

/// URLs that one handler may be granted. Each request is compared with all.
pub const HTTP_URLS: usize = 64;

// === what a guest may say ===

/// Log lines of one call, standard output and error included: a stack trace and what led to it; more from one call
/// are a loop. Lines beyond it are dropped, counted, and one says so.
pub const LOG_LINES: u32 = 100;

/// Bytes of one log line: a page of text, and with what the host adds less than the 8 KiB at which
/// collectors of logs begin to cut.
pub const LOG_LINE_BYTES: usize = 4 << 10;

/// Bytes of all log lines of a call, so that a hundred of the longest do not fit.
pub const LOG_BYTES: usize = 64 << 10;

/// Bytes of the reason of a failure: it is kept in the retry store and in the dead letter.
pub const REASON_BYTES: usize = 2 << 10;

/// Bytes of what a guest said last (an error line of its log, or its standard error), put into the reason when it
/// traps: a message and where it came from.
pub const LAST_WORDS_BYTES: usize = 512;

/// Bytes of a code that groups failures. It labels metrics and stands in columns; a few words joined by dashes fit.
pub const CODE_BYTES: usize = 64;

/// The virtual clock of a guest moves on by so many nanoseconds each time it is read, so that a loop that waits for
/// time to pass ends.
pub const CLOCK_STEP_NANOS: u32 = 1_000;

// === secrets ===

/// Bytes of a secret at least. A shorter one can be found by trying, and hiding it would leave little of a log.
pub const SECRET_LEAST: usize = 8;

/// Bytes of a secret at most: a private key with its certificates has some 10 KiB.
pub const SECRET_MOST: usize = 64 << 10;

/// Secrets of one handler. Each is looked for in whatever the handler says.
pub const SECRETS: usize = 32;

impl Default for Limits {
    fn default() -> Self {
        Self {
            time: TIME,
            memory: MEMORY,
            core_slots: CORE_SLOTS,
            handles: HANDLES,
            host_calls: HOST_CALLS,
            host_call_bytes: HOST_CALL_BYTES,
            published_events: PUBLISHED_EVENTS,
            published_bytes: PUBLISHED_BYTES,
            key_operations: KEY_OPERATIONS,
            key_bytes: KEY_WRITE_BYTES,
            http_calls: HTTP_CALLS,
            http_request_bytes: HTTP_REQUEST_BYTES,
            http_response_bytes: HTTP_RESPONSE_BYTES,
            http_header_bytes: HTTP_HEADER_BYTES,
            http_connections: HTTP_CONNECTIONS,
            http_connect: HTTP_CONNECT,
            log_lines: LOG_LINES,
            log_bytes: LOG_BYTES,
            reason_bytes: REASON_BYTES,
        }
    }
}

/// What to write to have more of something: twice as much.
pub(super) fn more(key: &str, now: impl Into<u64>) -> String {
    format!("more: [handler.limits] {key} = {}", now.into().saturating_mul(2))
}

/// The same in bytes.
pub(super) fn more_bytes(key: &str, now: usize) -> String {
    more(key, now as u64)
}
