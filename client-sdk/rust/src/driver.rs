//! The one task that owns the connection. Its body is being written; the handles' types are final.

use std::sync::Arc;

use crate::{
    client::Handle,
    error::{ConnectError, ConnectErrorKind},
    options::Options,
};

pub(crate) async fn start(_options: Options, _url: &str) -> Result<Arc<Handle>, ConnectError> {
    Err(ConnectError::new(ConnectErrorKind::Unreachable))
}
