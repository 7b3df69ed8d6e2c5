//! The steps that only turn words into other words: decode, encode, dispatch.

use std::hint::black_box;

use anyhow::{Context, Result, anyhow, ensure};
use sandbar::decode::{Decoder, Settings};
use sandbar::dispatch::{Filter, Lanes, Order, Release, lane};
use sandbar::event::{Envelope, Event, Lane, Message, Position};
use sandbar::wire::{Identity, Profile};

use crate::Step;
use crate::events::{ENROLLMENT, Vector};

/// Events that go through the lanes in one run: two for each of 64 keys.
pub const LANES_EVENTS: u64 = 128;

/// Where the key of an enrollment is.
const POINTER: &str = "/enrollment/course/course_key";

struct Decode {
    decoder: Decoder,
    message: Message,
}

struct Encode {
    decoder: Decoder,
    kind: String,
    json: String,
    envelope: Envelope,
    identity: Identity,
}

struct Dispatch {
    filter: Filter,
    lanes: Lanes<usize>,
    events: Vec<Event>,
    running: Vec<(Lane, Position)>,
}

/// The host's decoder with the schemas that ship with it.
///
/// # Errors
///
/// A schema is damaged.
pub fn decoder() -> Result<Decoder> {
    let dirs = vec![crate::root().join("schemas/openedx")];
    Decoder::load(&Settings { dirs, builtin: false, ..Settings::default() }).map_err(|errors| anyhow!("{errors:?}"))
}

/// Reads the headers of a vector and decodes its data.
///
/// # Errors
///
/// The vector or the schemas cannot be read.
pub fn decode(file: &str) -> Result<Box<dyn Step>> {
    Ok(Box::new(Decode { decoder: decoder()?, message: Vector::read(file)?.message()? }))
}

/// Encodes a vector's data and writes its headers, as for an event that a handler publishes.
///
/// # Errors
///
/// The vector or the schemas cannot be read.
pub fn encode(file: &str) -> Result<Box<dyn Step>> {
    let vector = Vector::read(file)?;
    let envelope = Profile::OpenEdx.read(&vector.message()?)?;
    let identity = Identity { source: "openedx/lms/web".into(), host: "lms-1".into(), lib: "11.2.0".into() };
    let json = vector.data.get().to_owned();
    Ok(Box::new(Encode { decoder: decoder()?, kind: vector.kind, json, envelope, identity }))
}

/// Chooses the handler's events, names their lanes and takes them through: half of them run at once, the others wait for
/// one of the same key.
///
/// # Errors
///
/// The vector or the schemas cannot be read.
pub fn dispatch() -> Result<Box<dyn Step>> {
    let globs = ["org.openedx.content_authoring.*", "org.openedx.enterprise.*", "org.openedx.learning.course.*"];
    let event = decoded(ENROLLMENT)?;
    let mut events = Vec::new();
    for number in 0..LANES_EVENTS {
        let mut event = event.clone();
        let sandbar::event::Payload::Json(json) = &mut event.payload else { continue };
        *json = json.replace("Demo_Course", &format!("Course_{:02}", number % (LANES_EVENTS / 2)));
        event.first = format!("1773500987000-{number}").as_str().into();
        events.push(event);
    }
    let filter = Filter::new(&globs.map(str::to_owned))?;
    Ok(Box::new(Dispatch { filter, lanes: Lanes::default(), events, running: Vec::new() }))
}

/// A vector as a handler gets it.
///
/// # Errors
///
/// The vector or the schemas cannot be read.
pub fn decoded(file: &str) -> Result<Event> {
    let message = Vector::read(file)?.message()?;
    let envelope = Profile::OpenEdx.read(&message)?;
    Ok(decoder()?.decode(&message, envelope, false)?)
}

// === impl Step ===

impl Step for Decode {
    fn run(&mut self) -> Result<()> {
        let message = black_box(&self.message);
        let envelope = Profile::OpenEdx.read(message)?;
        black_box(self.decoder.decode(message, envelope, false)?);
        Ok(())
    }
}

impl Step for Encode {
    fn run(&mut self) -> Result<()> {
        let datum = self.decoder.to_avro(black_box(&self.kind), black_box(&self.json))?;
        self.envelope.payload = datum.into();
        black_box(Profile::OpenEdx.write(&self.envelope, &self.identity));
        Ok(())
    }
}

impl Step for Dispatch {
    fn run(&mut self) -> Result<()> {
        let (mut run, all) = (0, self.events.len());
        for (index, event) in self.events.iter().enumerate() {
            ensure!(self.filter.matches(black_box(&event.metadata.kind)), "the filter does not match");
            let lane = lane(Order::Key, Some(POINTER), event).context("the event has no key")?;
            if self.lanes.admit(&event.topic, lane, &event.first, index).is_some() {
                run += 1;
            }
            self.running.push((lane, event.first.clone()));
        }
        ensure!(run == all / 2, "{run} of {all} events run at once");
        for (index, (lane, first)) in self.running.drain(..).enumerate() {
            if self.lanes.release(&self.events[index].topic, lane, &first, Release::Gone).is_some() {
                run += 1;
            }
        }
        ensure!(run == all && self.lanes.held_back() == 0, "{run} of {all} events came through");
        Ok(())
    }
}
