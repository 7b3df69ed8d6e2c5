//! Which bytes are loaded at all: those of a digest, those that somebody trusted signed. The signatures are made by the
//! reference implementation of their format.

use sandbar::sandbox::{LoadError, Malformed, Trust, TrustedKey, Untrusted, inspect};
use wasmsign2::{CustomSection, KeyPair, Module, Section, SectionLike as _};

use super::component::component;
use super::support::{guest, shared};

const HANDLE: &str = r#"(func (export "handle") (param i32) (result i32) (i32.const 8))"#;

fn by(pair: &KeyPair) -> Trust {
    Trust { keys: Some(TrustedKey::parse(&pair.pk.to_bytes()).unwrap()), ..Trust::default() }
}

fn bytes(module: &Module) -> Vec<u8> {
    let mut out = Vec::new();
    module.serialize(&mut out).unwrap();
    out
}

fn signed(wasm: &[u8], pair: &KeyPair) -> Vec<u8> {
    bytes(&pair.sk.sign(Module::deserialize(&mut &wasm[..]).unwrap(), None).unwrap())
}

fn refused(wasm: &[u8], trust: &Trust) -> Untrusted {
    match shared().0.load_trusted(wasm, trust) {
        Err(LoadError::Untrusted(why)) => why,
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_somebody_trusted_signed_is_loaded() {
    let (pair, other) = (KeyPair::generate(), KeyPair::generate());
    for wasm in [component("", HANDLE), guest("noop")] {
        let signed = signed(&wasm, &pair);
        shared().0.load_trusted(&signed, &by(&pair)).unwrap();
        // Any one of the keys will do, and any one of the signatures.
        let keys = [by(&other).keys.unwrap(), by(&pair).keys.unwrap()].concat();
        let both = Trust { keys: Some(keys), ..Trust::default() };
        assert_eq!(both.check(&signed), Ok(Some(by(&pair).keys.unwrap().remove(0))));
        let module = Module::deserialize(&mut &signed[..]).unwrap();
        let (twice, _) = other.sk.sign_multi(module, Some(&b"other".to_vec()), false, false).unwrap();
        for one in [&pair, &other] {
            shared().0.load_trusted(&bytes(&twice), &by(one)).unwrap();
        }
        assert_eq!(Trust::default().check(&wasm), Ok(None), "nothing is asked for");
    }
}

#[test]
fn what_nobody_trusted_signed_is_refused() {
    let (pair, other) = (KeyPair::generate(), KeyPair::generate());
    let wasm = component("", HANDLE);
    assert_eq!(refused(&wasm, &by(&pair)), Untrusted::Unsigned);
    let signed = signed(&wasm, &pair);
    assert_eq!(refused(&signed, &by(&other)), Untrusted::Stranger);
    let nobody = Trust { keys: Some(Vec::new()), ..Trust::default() };
    assert_eq!(refused(&signed, &nobody), Untrusted::Stranger);
    // The signature in the middle of the file signs nothing.
    let mut moved = Module::deserialize(&mut &signed[..]).unwrap();
    moved.sections.rotate_left(1);
    assert_eq!(refused(&bytes(&moved), &by(&pair)), Untrusted::Unsigned);
}

#[test]
fn one_flipped_byte_is_refused_wherever_it_is() {
    let pair = KeyPair::generate();
    let signed = signed(&component("", HANDLE), &pair);
    for at in 8..signed.len() {
        let mut flipped = signed.clone();
        flipped[at] ^= 1;
        assert!(by(&pair).check(&flipped).is_err(), "byte {at} of {}", signed.len());
    }
    for more in [&[0, 1, 0][..], &[0]] {
        assert_eq!(refused(&[&signed, more].concat(), &by(&pair)), Untrusted::Stranger);
    }
    assert!(by(&pair).check(&signed[..signed.len() - 1]).is_err());
}

#[test]
fn a_part_that_may_be_verified_by_itself_is_not_the_whole() {
    let pair = KeyPair::generate();
    let module = Module::deserialize(&mut &component("", HANDLE)[..]).unwrap();
    let mut at = 0;
    let each = |_: &Section| {
        at += 1;
        at % 2 == 0
    };
    let parts = module.split(each).unwrap();
    let (parts, _) = pair.sk.sign_multi(parts, None, false, false).unwrap();
    by(&pair).check(&bytes(&parts)).unwrap();
    let ends: Vec<usize> =
        parts.sections.iter().enumerate().filter(|(_, one)| one.is_signature_delimiter()).map(|(at, _)| at).collect();
    assert!(ends.len() > 2, "it has parts");
    for end in &ends[..ends.len() - 1] {
        let part = bytes(&Module { sections: parts.sections[..=*end].to_vec(), ..parts.clone() });
        pair.pk.verify(&mut &part[..], None).expect("the format has it signed");
        assert_eq!(refused(&part, &by(&pair)), Untrusted::Stranger);
    }
}

/// A component whose signature section holds this, before sections that are signed by nobody.
fn with_section(payload: &[u8]) -> Vec<u8> {
    let mut module = Module::deserialize(&mut &component("", HANDLE)[..]).unwrap();
    module.sections.insert(0, Section::Custom(CustomSection::new("signature".to_owned(), payload.to_vec())));
    bytes(&module)
}

#[test]
fn a_signature_section_that_lies_is_refused() {
    let pair = KeyPair::generate();
    let whole = signed(&component("", HANDLE), &pair);
    let module = Module::deserialize(&mut &whole[..]).unwrap();
    let good = module.sections[0].payload();
    for cut in 0..good.len() {
        assert!(matches!(refused(&with_section(&good[..cut]), &by(&pair)), Untrusted::Malformed(_)), "{cut}");
    }
    for lying in [
        &[1, 1, 1, 0xff, 0xff, 0xff, 0xff, 0x0f][..],
        &[1, 1, 1, 1, 0xff, 0xff, 0xff, 0xff, 0x0f],
        &[1, 1, 1, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff],
        &[1, 1, 1, 65],
        &[1, 1, 1, 0, 0],
        &[2, 1, 1, 0],
        &[1, 2, 1, 0],
        &[1, 1, 2, 0],
    ] {
        assert!(matches!(refused(&with_section(lying), &by(&pair)), Untrusted::Malformed(_)), "{lying:?}");
    }
    assert_eq!(refused(&with_section(&[1, 1, 1, 0]), &by(&pair)), Untrusted::Stranger);
    // A list of no hashes and so many signatures of no bytes, which take their time all the same.
    let list =
        |signatures: u8| [&[2 + 4 * signatures, 0, signatures][..], &[3, 0, 1, 0].repeat(signatures.into())].concat();
    let lists = |lists: &[Vec<u8>]| {
        with_section(&[&[1, 1, 1, u8::try_from(lists.len()).unwrap()][..], &lists.concat()].concat())
    };
    for (many, refusal) in [
        (lists(&vec![list(0); 64]), Untrusted::Stranger),
        (lists(&vec![list(0); 65]), Untrusted::Malformed(Malformed::TooMany)),
        (lists(&vec![list(16); 4]), Untrusted::Stranger),
        (lists(&[list(31), list(31), list(3)]), Untrusted::Malformed(Malformed::TooMany)),
    ] {
        assert_eq!(refused(&many, &by(&pair)), refusal);
    }
    // A first section of four gigabytes, of which there is nothing: no room is made for it.
    let huge = b"\0asm\x0d\0\x01\0\0\xff\xff\xff\xff\x0f\x09signature";
    assert_eq!(refused(huge, &by(&pair)), Untrusted::Unsigned);
}

#[test]
fn trust_is_asked_before_anything_else() {
    let pair = KeyPair::generate();
    for nothing in [&b""[..], b"\0asm", b"#!/bin/sh", &guest("noop")[..50]] {
        assert_eq!(refused(nothing, &by(&pair)), Untrusted::Unsigned);
    }
}

#[test]
fn a_pin_takes_these_bytes_and_no_others() {
    let wasm = component("", HANDLE);
    let digest = inspect(&wasm).digest;
    let byte = |n: usize| u8::from_str_radix(&digest[2 * n..2 * n + 2], 16).unwrap();
    let pin = Trust { sha256: Some(std::array::from_fn(byte)), ..Trust::default() };
    assert_eq!(shared().0.load_trusted(&wasm, &pin).unwrap().digest(), digest);
    let mut other = wasm;
    *other.last_mut().unwrap() ^= 1;
    let why = refused(&other, &pin);
    assert!(matches!(&why, Untrusted::Digest { wanted, .. } if *wanted == digest), "{why}");
    // Both are asked for.
    let both = Trust { keys: Some(Vec::new()), ..pin };
    assert_eq!(refused(&component("", HANDLE), &both), Untrusted::Unsigned);
}
