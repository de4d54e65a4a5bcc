//! A request that is not done: its status, its number and name in the one table of errors, and why.

use hyper::{
    Response, StatusCode,
    header::{self, HeaderName, HeaderValue},
};
use serde_json::{Value, json};
use tidegate_protocol::ErrorCode;

use super::{Answer, respond};

/// Where a retry can help, when it may: in seconds, of a `Retry-After`.
const RETRY_AFTER: &str = "1";

/// See the module.
#[derive(Debug)]
pub(super) struct Refusal {
    status: StatusCode,
    /// Of the protocol's table; where that has none, the status.
    code: u16,
    name: &'static str,
    message: String,
    retry: bool,
    headers: Vec<(HeaderName, HeaderValue)>,
}

impl Refusal {
    /// One that only HTTP knows: its number is the status.
    pub(super) fn new(status: StatusCode, name: &'static str, message: impl Into<String>) -> Self {
        Self {
            status,
            code: status.as_u16(),
            name,
            message: message.into(),
            retry: false,
            headers: Vec::new(),
        }
    }

    /// One of the table.
    pub(super) fn error(code: ErrorCode, message: impl Into<String>) -> Self {
        let status = status(code);
        let refusal = Self {
            status,
            code: code.number(),
            name: code.name(),
            message: message.into(),
            retry: code.retry(),
            headers: Vec::new(),
        };
        match status {
            StatusCode::SERVICE_UNAVAILABLE => refusal.with(header::RETRY_AFTER, RETRY_AFTER),
            _ => refusal,
        }
    }

    pub(super) fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "bad_request", message)
    }

    pub(super) fn forbidden(message: String) -> Self {
        Self::new(StatusCode::FORBIDDEN, "forbidden", message)
    }

    /// `allow` lists the methods.
    pub(super) fn method(allow: &str) -> Self {
        let message = format!("only {allow} here");
        let refusal = Self::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", message);
        match HeaderValue::from_str(allow) {
            Ok(allow) => refusal.with_value(header::ALLOW, allow),
            Err(_) => refusal,
        }
    }

    pub(super) fn upgrade_required(message: impl Into<String>) -> Self {
        Self::new(StatusCode::UPGRADE_REQUIRED, "upgrade_required", message)
            .with(header::CONNECTION, "upgrade")
            .with(header::UPGRADE, "websocket")
            .with(header::SEC_WEBSOCKET_VERSION, "13")
    }

    pub(super) fn unavailable(message: impl Into<String>) -> Self {
        let refusal = Self::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", message);
        Self { retry: true, ..refusal }.with(header::RETRY_AFTER, RETRY_AFTER)
    }

    /// Where the next request begins is in doubt, so there is none.
    pub(super) fn closing(self) -> Self {
        self.with(header::CONNECTION, "close")
    }

    pub(super) fn with(self, name: HeaderName, value: &'static str) -> Self {
        self.with_value(name, HeaderValue::from_static(value))
    }

    pub(super) fn with_value(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.push((name, value));
        self
    }

    /// What stands under `error` in an answer's body.
    pub(super) fn json(&self) -> Value {
        json!({ "code": self.code, "name": self.name, "message": self.message, "retry": self.retry })
    }

    pub(super) fn response(self) -> Answer {
        let body = format!("{}\n", json!({ "error": self.json() }));
        let mut response: Response<_> = respond(self.status, "application/json", body);
        for (name, value) in self.headers {
            response.headers_mut().insert(name, value);
        }
        response
    }
}

/// The HTTP status that goes with an error of the table.
fn status(code: ErrorCode) -> StatusCode {
    match code {
        ErrorCode::Unauthorized | ErrorCode::TokenInvalid | ErrorCode::TokenExpired => {
            StatusCode::UNAUTHORIZED
        }
        ErrorCode::PermissionDenied | ErrorCode::TopicReserved => StatusCode::FORBIDDEN,
        ErrorCode::SubscriptionUnknown | ErrorCode::NoHistory => StatusCode::NOT_FOUND,
        // The log that the position is of is no more.
        ErrorCode::FromInvalid => StatusCode::GONE,
        ErrorCode::PayloadTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        ErrorCode::RateLimited => StatusCode::TOO_MANY_REQUESTS,
        ErrorCode::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        code if code.retry() => StatusCode::SERVICE_UNAVAILABLE,
        // What is left is a mistake in the request.
        _ => StatusCode::BAD_REQUEST,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_retry_is_promised_by_the_status_exactly_where_the_table_promises_it() {
        for &code in ErrorCode::ALL {
            let status = status(code);
            let later = status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS;
            assert_eq!(later, code.retry(), "{code}: {status}");
        }
    }
}
