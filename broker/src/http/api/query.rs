//! A request's query and percent-encoded texts.

use tidegate_protocol::ErrorCode;

use super::{super::refusal::Refusal, position::integer};

/// The parameters of a query. Each may stand once; one that nobody takes is a mistake.
#[derive(Debug)]
pub(super) struct Query(Vec<(String, String)>);

/// The most parameters: no route has so many.
const PARAMETERS: usize = 16;

impl Query {
    /// Reads `name=value` pairs as browsers write them (the URL Standard's `application/x-www-form-urlencoded`): a `+`
    /// is a space.
    pub(super) fn parse(text: Option<&str>) -> Result<Self, Refusal> {
        Self::parse_with_list(text, "", 0).map(|(_, query)| query)
    }

    /// The same, with one parameter that may stand up to `most` times: its values, in their order, and the others.
    pub(super) fn parse_with_list(
        text: Option<&str>,
        list: &str,
        most: usize,
    ) -> Result<(Vec<String>, Self), Refusal> {
        let mut values = Vec::new();
        let mut pairs: Vec<(String, String)> = Vec::new();
        for pair in text.unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let (name, value) = (percent_decode(name, true)?, percent_decode(value, true)?);
            if name == list && most > 0 {
                if values.len() == most {
                    return Err(bad(&name, "stands there too often"));
                }
                values.push(value);
                continue;
            }
            if pairs.len() == PARAMETERS || pairs.iter().any(|(earlier, _)| *earlier == name) {
                return Err(bad(&name, "stands twice, or there are too many"));
            }
            pairs.push((name, value));
        }
        Ok((values, Self(pairs)))
    }

    /// A parameter's value.
    pub(super) fn take(&mut self, name: &str) -> Option<String> {
        let at = self.0.iter().position(|(key, _)| key == name)?;
        Some(self.0.swap_remove(at).1)
    }

    /// A parameter that counts.
    pub(super) fn take_count(&mut self, name: &str) -> Result<Option<u32>, Refusal> {
        let Some(text) = self.take(name) else { return Ok(None) };
        let number = integer(&text).and_then(|number| u32::try_from(number).ok());
        number.map(Some).ok_or_else(|| bad(name, "is a whole number below 2^32"))
    }

    /// A parameter that is `true` or `false`; false where it does not stand.
    pub(super) fn take_flag(&mut self, name: &str) -> Result<bool, Refusal> {
        match self.take(name).as_deref() {
            None | Some("false") => Ok(false),
            Some("true") => Ok(true),
            Some(_) => Err(bad(name, "is true or false")),
        }
    }

    /// Nothing may be left.
    pub(super) fn end(self) -> Result<(), Refusal> {
        match self.0.first() {
            None => Ok(()),
            Some((name, _)) => Err(bad(name, "is not known here")),
        }
    }
}

/// The text that a percent-encoded one stands for.
pub(super) fn percent_decode(text: &str, plus_is_space: bool) -> Result<String, Refusal> {
    if !text.bytes().any(|byte| matches!(byte, b'%' | b'+')) {
        return Ok(text.to_owned());
    }
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, behind @ ..] = rest {
        rest = behind;
        match first {
            b'%' => {
                let digit = |byte: &u8| char::from(*byte).to_digit(16).map(|digit| digit as u8);
                let decoded = match behind {
                    [high, low, ..] => digit(high).zip(digit(low)),
                    _ => None,
                };
                let Some((high, low)) = decoded else {
                    return Err(Refusal::bad_request(
                        "a % in the URL is not followed by two hexadecimal digits",
                    ));
                };
                bytes.push(high << 4 | low);
                rest = &behind[2..];
            }
            b'+' if plus_is_space => bytes.push(b' '),
            &byte => bytes.push(byte),
        }
    }
    String::from_utf8(bytes).map_err(|_| Refusal::bad_request("the URL is not UTF-8 once it is decoded"))
}

fn bad(name: &str, why: &str) -> Refusal {
    let name: String = name.chars().take(64).collect();
    Refusal::error(ErrorCode::BadField, format!("the query's parameter {name:?} {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_is_read_as_a_browser_writes_it() {
        let mut query = Query::parse(Some("filter=chat.%3E&from=a+b%2B&limit=7&report=true&&x")).unwrap();
        assert_eq!(query.take("filter").as_deref(), Some("chat.>"));
        assert_eq!(query.take("from").as_deref(), Some("a b+"));
        assert_eq!(query.take("filter"), None);
        assert_eq!(query.take_count("limit").unwrap(), Some(7));
        assert_eq!(query.take_count("limit").unwrap(), None);
        assert!(query.take_flag("report").unwrap());
        assert!(query.end().is_err(), "x is left");
        assert!(Query::parse(None).unwrap().end().is_ok());
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        for bad in ["a=1&a=2", "%", "a=%4", "a=%zz", "a=%ff", &"a=1&".repeat(3)] {
            assert!(Query::parse(Some(bad)).is_err(), "{bad}");
        }
        let many: Vec<_> = (0..17).map(|at| format!("p{at}=1")).collect();
        assert!(Query::parse(Some(&many.join("&"))).is_err());
        for bad in ["", "-1", "+1", "4294967296", "1.0"] {
            assert!(
                Query::parse(Some(&format!("n={}", bad.replace('+', "%2B"))))
                    .unwrap()
                    .take_count("n")
                    .is_err()
            );
        }
        assert!(Query::parse(Some("b=yes")).unwrap().take_flag("b").is_err());
    }
}
