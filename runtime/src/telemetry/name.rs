//! Every name of a span, attribute or metric. The first two groups are OpenTelemetry's semantic conventions for
//! messaging (1.37) and for CloudEvents; the rest is ours.
//!
//! A span is named `{messaging.operation.name} {messaging.destination.name}` there. Here the first word is fixed, and who
//! exports spans adds the destination. No well-known value of `messaging.system` is meant for Redis or SQLite, so ours
//! are custom ones, which the conventions allow.

/// Span: one fetch from the bus. Its kind is client.
pub const SPAN_RECEIVE: &str = "receive";
/// Span: one event on its way through decode, sandbox and settle. Its kind is consumer.
pub const SPAN_PROCESS: &str = "process";
/// Span: one batch of settlements. Its kind is client.
pub const SPAN_SETTLE: &str = "settle";
/// Span: one batch of publications. Its kind is client: producer is for a span whose own context the messages carry, and
/// no context is put into messages yet.
pub const SPAN_SEND: &str = "send";

/// `redis` or `sqlite`.
pub const SYSTEM: &str = "messaging.system";
/// The topic, without prefix.
pub const DESTINATION: &str = "messaging.destination.name";
/// The handler's consumer group.
pub const GROUP: &str = "messaging.consumer.group.name";
/// The name of this consumer in its group.
pub const CLIENT: &str = "messaging.client.id";
/// One of the `OPERATION_…` values.
pub const OPERATION: &str = "messaging.operation.type";
/// The system's own word for it, such as `xreadgroup`.
pub const OPERATION_NAME: &str = "messaging.operation.name";
/// The event's id.
pub const MESSAGE_ID: &str = "messaging.message.id";
/// Bytes of the payload as it came.
pub const BODY_SIZE: &str = "messaging.message.body.size";
/// How many events a batch holds.
pub const BATCH: &str = "messaging.batch.message_count";
/// Code of a failure; absent on success.
pub const ERROR_TYPE: &str = "error.type";
/// Value of [`OPERATION`].
pub const OPERATION_RECEIVE: &str = "receive";
/// Value of [`OPERATION`].
pub const OPERATION_PROCESS: &str = "process";
/// Value of [`OPERATION`].
pub const OPERATION_SETTLE: &str = "settle";
/// Value of [`OPERATION`].
pub const OPERATION_SEND: &str = "send";

/// Histogram, seconds: how long a call to the bus took.
pub const METRIC_OPERATION_DURATION: &str = "messaging.client.operation.duration";
/// Histogram, seconds: how long an event took from its decoding to its verdict.
pub const METRIC_PROCESS_DURATION: &str = "messaging.process.duration";
/// Counter: events read from the bus.
pub const METRIC_CONSUMED: &str = "messaging.client.consumed.messages";
/// Counter: events published to the bus.
pub const METRIC_SENT: &str = "messaging.client.sent.messages";

/// CloudEvents: the event's type.
pub const EVENT_TYPE: &str = "cloudevents.event_type";
/// CloudEvents: who produced it.
pub const EVENT_SOURCE: &str = "cloudevents.event_source";

/// The handler's name.
pub const HANDLER: &str = "sandbar.handler";
/// SHA-256 of the module, in hex.
pub const MODULE: &str = "sandbar.module";
/// Where the event lies in its topic.
pub const POSITION: &str = "sandbar.position";
/// 1 for the first call.
pub const ATTEMPT: &str = "sandbar.attempt";
/// `done`, `retry` or `reject`.
pub const VERDICT: &str = "sandbar.verdict";
/// Code of a retry or dead letter.
pub const CODE: &str = "sandbar.code";
/// Which limit stopped a call.
pub const LIMIT: &str = "sandbar.limit";

/// Histogram, seconds: one call of a guest, with making and dropping its instance.
pub const METRIC_CALL_DURATION: &str = "sandbar.call.duration";
/// Counter: calls, by handler, verdict and code.
pub const METRIC_CALLS: &str = "sandbar.calls";
/// Counter: dead letters, by handler and code.
pub const METRIC_DEAD_LETTERS: &str = "sandbar.dead_letters";
/// Counter: events acknowledged because no type filter of the handler matched.
pub const METRIC_FILTERED: &str = "sandbar.filtered";
/// Counter: settlements that found the delivery in other hands.
pub const METRIC_LOST_DELIVERIES: &str = "sandbar.deliveries.lost";
/// Gauge: events in hand.
pub const METRIC_IN_FLIGHT: &str = "sandbar.in_flight";
/// Gauge: events that wait for a retry or for their key, beside the permits.
pub const METRIC_PARKED: &str = "sandbar.parked";
