//! What a query asks to be subscribed to: of `GET /v1/subscribe`, and of `GET /ws`, where it stands for the frames that
//! a client would send first.

use serde_json::json;
use tidegate_protocol::{
    ErrorCode, Filter, From,
    frame::{Overflow, Subscribe},
};

use super::{super::refusal::Refusal, bad_field, position, query::Query};

/// The most subscriptions of one query.
const SUBSCRIPTIONS: usize = 64;

/// What holds for all subscriptions of one query.
#[derive(Debug)]
pub(super) struct Terms {
    pub(super) from: From,
    overflow: Option<Overflow>,
    limit: Option<u32>,
    limit_bytes: Option<u32>,
}

impl Terms {
    /// Reads `from`, `overflow`, `limit` and `limit_bytes`; nothing else may be left in the query.
    pub(super) fn read(mut query: Query) -> Result<Self, Refusal> {
        let from = query.take("from").map_or(Ok(From::Live), |from| position::read_from(&from))?;
        let overflow = query.take("overflow").map(|name| {
            serde_json::from_value::<Overflow>(json!(name)).map_err(|_| bad_field("`overflow` is no policy"))
        });
        let terms = Self {
            from,
            overflow: overflow.transpose()?,
            limit: query.take_count("limit")?,
            limit_bytes: query.take_count("limit_bytes")?,
        };
        query.end()?;
        Ok(terms)
    }

    /// The frame of the subscription with this id.
    pub(super) fn subscribe(&self, id: u64, filter: &str) -> Result<Subscribe, Refusal> {
        let filter = Filter::parse(filter)
            .map_err(|error| Refusal::error(ErrorCode::FilterInvalid, format!("not a filter: {error}")))?;
        let (from, overflow) = (self.from.clone(), self.overflow);
        let (limit, limit_bytes) = (self.limit, self.limit_bytes);
        Ok(Subscribe { id, filter, from, overflow, limit, limit_bytes, credit: None, echo: true })
    }
}

/// What the query of `GET /ws` stands for: one `subscribe` for each parameter of that name, with ids from 1.
pub(in super::super) fn of_websocket(query: Option<&str>) -> Result<Vec<Subscribe>, Refusal> {
    if query.is_none() {
        return Ok(Vec::new());
    }
    let (filters, query) = Query::parse_with_list(query, "subscribe", SUBSCRIPTIONS)?;
    if filters.is_empty() {
        query.end()?;
        return Ok(Vec::new());
    }
    let terms = Terms::read(query)?;
    filters.iter().zip(1..).map(|(filter, id)| terms.subscribe(id, filter)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filters(query: &str) -> Vec<(u64, String)> {
        let subscribes = of_websocket(Some(query)).unwrap();
        subscribes.into_iter().map(|subscribe| (subscribe.id, subscribe.filter.to_string())).collect()
    }

    fn refused(query: &str) -> String {
        of_websocket(Some(query)).unwrap_err().json().to_string()
    }

    #[test]
    fn each_filter_of_a_url_is_a_subscription_in_its_order() {
        assert!(of_websocket(None).unwrap().is_empty());
        assert!(filters("").is_empty());
        assert_eq!(filters("subscribe=chat.*"), [(1, "chat.*".into())]);
        let several = "subscribe=chat.%2A&limit=7&subscribe=%3E&subscribe=gr%C3%B6%C3%9Fe.x&subscribe=chat.*";
        let want = ["chat.*", ">", "größe.x", "chat.*"].map(str::to_owned);
        assert_eq!(filters(several), (1..).zip(want).collect::<Vec<_>>());
        assert!(of_websocket(Some(several)).unwrap().iter().all(|subscribe| subscribe.limit == Some(7)));
    }

    #[test]
    fn the_terms_are_those_of_a_frame() {
        let query = "subscribe=a&overflow=latest&from=last%3A3&limit=9&limit_bytes=4096";
        let want = Subscribe {
            id: 1,
            filter: Filter::parse("a").unwrap(),
            from: From::Last { n: 3, at: None },
            overflow: Some(Overflow::Latest),
            limit: Some(9),
            limit_bytes: Some(4096),
            credit: None,
            echo: true,
        };
        assert_eq!(of_websocket(Some(query)).unwrap(), [want]);
    }

    #[test]
    fn what_cannot_be_meant_is_refused_with_its_number() {
        let many = |count| vec!["subscribe=a"; count].join("&");
        assert_eq!(of_websocket(Some(&many(SUBSCRIPTIONS))).unwrap().len(), SUBSCRIPTIONS);
        let bad_field = ErrorCode::BadField.number();
        for (query, code) in [
            (&*many(SUBSCRIPTIONS + 1), bad_field),
            ("subscribe=a&subscribes=b", bad_field),
            ("subscibe=a", bad_field),
            ("from=beginning", bad_field),
            ("subscribe=a&from=new", bad_field),
            ("subscribe=a&overflow=spill", bad_field),
            ("subscribe=a&limit=1&limit=2", bad_field),
            ("subscribe", ErrorCode::FilterInvalid.number()),
            ("subscribe=a&subscribe=a..b", ErrorCode::FilterInvalid.number()),
            ("subscribe=%", 400),
            ("subscribe=%ff", 400),
        ] {
            let told = refused(query);
            assert!(told.contains(&format!(r#""code":{code},"#)), "{query:?}: {told}");
        }
    }
}
