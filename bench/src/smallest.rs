//! The smallest client that can be written: one socket, nothing allocated, nothing looked at but the ids.
//!
//! It is the limit: what the server itself takes for reading and acknowledging, on this machine.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Result, bail, ensure};

use crate::bare::BATCH;
use crate::running::Running;
use crate::stream::Stream;

mod scan;

use scan::{Scan, Scanner};

/// Bytes that a read of the socket asks for: more than a batch of the usual events.
const READ: usize = 512 << 10;

/// Reads the only topic of the stream until nothing is left.
pub(crate) fn start(stream: &Stream<'_>, group: &str) -> Result<Running> {
    let [key] = &stream.keys()[..] else { bail!("the smallest client reads one topic") };
    stream.make_group(&mut stream.server.connect()?, group)?;
    let socket = TcpStream::connect(stream.server.address())?;
    socket.set_nodelay(true)?;
    let ack = bulks(&["XACK", key, group]);
    let count = BATCH.to_string();
    let words = ["XREADGROUP", "GROUP", group, "loop", "COUNT", &count, "STREAMS", key, ">"];
    let read = [format!("*{}\r\n", words.len()).into_bytes(), bulks(&words)].concat();
    Ok(Running::thread(move |stop| drain(socket, &ack, &read, stop)))
}

/// Sends `read` and, in the same write, the acknowledgement of what the read before it brought: `ack` and the ids, which
/// are copied from the answer as they lie there.
fn drain(mut socket: TcpStream, ack: &[u8], read: &[u8], stop: &AtomicBool) -> Result<()> {
    let mut buffer = vec![0; READ];
    let mut request = read.to_vec();
    let mut acknowledges = false;
    while !stop.load(Ordering::Relaxed) {
        socket.write_all(&request)?;
        request.clear();
        let mut scanner = Scanner::new(acknowledges);
        let mut filled = 0;
        let count = loop {
            if filled == buffer.len() {
                buffer.resize(2 * filled, 0);
            }
            let more = socket.read(&mut buffer[filled..])?;
            ensure!(more > 0, "the server closed the connection");
            filled += more;
            let count_known = |request: &mut Vec<u8>, count: u64| {
                // Writing to a vector does not fail. Three words stand before the ids.
                let _ = write!(request, "*{}\r\n", count + 3);
                request.extend_from_slice(ack);
            };
            match scanner.scan(&buffer[..filled], &mut request, count_known)? {
                Scan::Unfinished => {}
                Scan::Finished { entries } => break entries,
            }
        };
        if count == 0 {
            break;
        }
        acknowledges = true;
        request.extend_from_slice(read);
    }
    Ok(())
}

/// The words of a command without its head, as RESP has them.
fn bulks(words: &[&str]) -> Vec<u8> {
    let mut text = Vec::new();
    for word in words {
        text.extend_from_slice(format!("${}\r\n{word}\r\n", word.len()).as_bytes());
    }
    text
}
