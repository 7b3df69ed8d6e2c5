//! History, page by page, one topic after the other.

use std::collections::VecDeque;
use std::sync::Arc;

use futures_util::future::BoxFuture;

use super::Request;
use crate::bus::{self, Bus, Pace, Span};
use crate::event::{Message, Topic};

/// What is still to be read, and what was read and not taken yet: one page at most.
pub(super) struct Source {
    spans: VecDeque<(Topic, Span)>,
    page: VecDeque<Message>,
    pace: Pace,
}

/// What one read found.
pub(super) type Page = Result<Vec<Message>, bus::Error>;

// === impl Source ===

impl Source {
    /// Fixes where each topic's stretch ends: what is published from now on, perhaps by the replay itself, is not in it.
    pub(super) async fn open(
        bus: &Arc<dyn Bus>,
        topics: impl Iterator<Item = &Topic>,
        request: &Request,
    ) -> Result<Self, bus::Error> {
        let mut spans = VecDeque::new();
        for topic in topics {
            if let Some(span) = bus.history(topic, &request.from, request.to.as_ref()).await? {
                spans.push_back((topic.clone(), span));
            }
        }
        Ok(Self { spans, page: VecDeque::new(), pace: Pace::default() })
    }

    /// True when nothing is left to read or to take.
    pub(super) fn is_over(&self) -> bool {
        self.spans.is_empty() && self.page.is_empty()
    }

    /// True if only reading brings more.
    pub(super) fn is_empty(&self) -> bool {
        self.page.is_empty()
    }

    pub(super) fn peek(&self) -> Option<&Message> {
        self.page.front()
    }

    pub(super) fn pop(&mut self) {
        self.page.pop_front();
    }

    /// The next page, to be handed to [`Source::took`].
    pub(super) fn read(&self, bus: &Arc<dyn Bus>) -> BoxFuture<'static, Page> {
        let (bus, front, count) = (Arc::clone(bus), self.spans.front().cloned(), self.pace.count());
        Box::pin(async move {
            match front {
                Some((topic, span)) => bus.read(&topic, &span, count).await,
                None => Ok(Vec::new()),
            }
        })
    }

    pub(super) fn took(&mut self, page: Page) -> Result<(), bus::Error> {
        let page = page?;
        self.pace.learn_messages(&page);
        match (page.last(), self.spans.front_mut()) {
            (Some(last), Some((_, span))) if !span.ends_with(&last.position) => span.advance(&last.position),
            _ => drop(self.spans.pop_front()),
        }
        self.page.extend(page);
        Ok(())
    }
}
