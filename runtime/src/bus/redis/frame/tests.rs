use super::*;

const READ: &[u8] =
    b"*2\r\n*2\r\n$1\r\na\r\n*2\r\n*2\r\n$3\r\n1-0\r\n*4\r\n$4\r\ntype\r\n$2\r\n\r\n\r\n$1\r\nx\r\n$0\r\n\r\n\
                      *2\r\n$3\r\n2-0\r\n*-1\r\n*2\r\n$2\r\nbc\r\n*1\r\n*2\r\n$3\r\n3-0\r\n*0\r\n";

/// What a frame says, stream by stream.
fn said(frame: &Frame) -> Option<Vec<(String, Vec<Message>)>> {
    let streams = frame.streams().ok()?.into_iter();
    streams.map(|(key, entries)| Some((key.to_owned(), entries.messages(&"t".into()).ok()?))).collect()
}

fn expected() -> Vec<(String, Vec<Message>)> {
    let message = |position: &str, fields| first::message("t".into(), position.into(), fields);
    let full = Fields::from_pairs([(&b"type"[..], &b"\r\n"[..]), (b"x", b"")]);
    vec![("a".to_owned(), vec![message("1-0", full)]), ("bc".to_owned(), vec![message("3-0", Fields::default())])]
}

#[test]
fn entries_are_read_to_the_byte_and_deleted_ones_left_out() {
    assert_eq!(said(&Frame::new(Bytes::from_static(READ))).unwrap(), expected());
}

#[test]
fn what_a_library_has_read_reads_the_same() {
    let value = Frame::new(Bytes::from_static(READ)).value().unwrap().unwrap();
    assert_eq!(said(&Frame::of(&value)).unwrap(), expected());
    assert!(said(&Frame::of(&Value::Nil)).unwrap().is_empty());
}

#[test]
fn an_answer_ends_where_it_ends_however_it_comes() {
    let mut two = READ.to_vec();
    two.extend_from_slice(b":1\r\n");
    for size in 1..two.len() {
        let mut scan = Scan::default();
        let mut here = 0;
        let end = loop {
            here = (here + size).min(two.len());
            match scan.advance(&two[..here]).unwrap() {
                Progress::Whole(end) => break end,
                Progress::Until(end) => assert!(here < end && end <= READ.len() + 1, "{here} of {end}"),
            }
        };
        assert_eq!(end, READ.len(), "in pieces of {size}");
    }
}

#[test]
fn what_is_no_answer_is_refused() {
    for bytes in
        [&b"x\r\n"[..], b"$x\r\n", b"*-2\r\n", b"$99999999999999999999999\r\n", b"$18446744073709551615\r\n", b"\r\n"]
    {
        assert_eq!(Scan::default().advance(bytes), Err(Malformed), "{}", String::from_utf8_lossy(bytes));
    }
    let other: [&[u8]; 6] = [
        b":1\r\n",
        b"*1\r\n:1\r\n",
        b"*1\r\n*1\r\n$1\r\na\r\n",
        b"*1\r\n*2\r\n$1\r\na\r\n*1\r\n:1\r\n",
        b"*1\r\n*2\r\n$1\r\na\r\n*1\r\n*2\r\n$3\r\n1-0\r\n*1\r\n$1\r\nn\r\n",
        b"*1\r\n*2\r\n$1\r\na\r\n*1\r\n*2\r\n$3\r\n1-0\r\n*2\r\n$1\r\nn\r\n:1\r\n",
    ];
    for bytes in other {
        assert!(said(&Frame::new(Bytes::from_static(bytes))).is_none(), "{}", String::from_utf8_lossy(bytes));
    }
}

#[test]
fn refusals_are_told_apart() {
    let refusal = Frame::new(Bytes::from_static(b"-NOGROUP no such group\r\n"));
    assert!(refusal.is_refusal());
    assert_eq!(refusal.value().unwrap().unwrap_err().code(), "NOGROUP");
    assert!(!Frame::new(Bytes::from_static(READ)).is_refusal());
}

proptest::proptest! {
    #[test]
    fn nothing_that_comes_makes_it_panic(bytes: Vec<u8>, cut in 0..READ.len(), put: u8) {
        let mut read = READ.to_vec();
        read[cut] = put;
        for bytes in [bytes, read] {
            if let Ok(Progress::Whole(end)) = Scan::default().advance(&bytes) {
                drop(said(&Frame::new(Bytes::from(bytes).slice(..end))));
            }
        }
    }
}
