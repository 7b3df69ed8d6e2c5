//! Which lane a message belongs to, for the bus: it divides a topic over the hosts of a group by lanes.

use std::sync::Arc;

use crate::bus::LaneOf;
use crate::config::{HandlerConfig, PayloadForm};
use crate::decode::Decoder;
use crate::dispatch::{self, Order};
use crate::event::{Lane, Message};
use crate::wire::Profile;

/// Names lanes as the handler's settings ask for; none if the handler asks for no order.
///
/// What has no key, cannot be read or is not for this handler waits for nothing: its lane is its own.
pub(super) fn lane_of(settings: &HandlerConfig, profile: Profile, decoder: &Arc<Decoder>) -> Option<LaneOf> {
    match settings.order {
        Order::None => None,
        Order::Topic => Some(LaneOf::new(|message| Lane::of(&message.topic, b""))),
        Order::Key => {
            let (filter, key, decoder) = (settings.filter.clone(), settings.key.clone(), Arc::clone(decoder));
            let raw = settings.payload == PayloadForm::Raw;
            Some(LaneOf::new(move |message| {
                let named = || {
                    let envelope = profile.read(message).ok()?;
                    if !filter.matches(&envelope.metadata.kind) {
                        return None;
                    }
                    let event = decoder.decode(message, envelope, raw).ok()?;
                    dispatch::lane(Order::Key, key.as_deref(), &event)
                };
                named().unwrap_or_else(|| own(message))
            }))
        }
    }
}

fn own(message: &Message) -> Lane {
    Lane::of(&message.topic, message.first.as_str().as_bytes())
}
