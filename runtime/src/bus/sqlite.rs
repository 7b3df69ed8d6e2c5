//! To be written.

use std::sync::Arc;

use super::{Bus, Error, Settings};

pub(super) async fn open(_settings: &Settings) -> Result<Arc<dyn Bus>, Error> {
    Err(Error::Settings("to be written".into()))
}
