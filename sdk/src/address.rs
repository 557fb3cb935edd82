//! Where a peer listens, as text that was looked at.
//!
//! It never dials. Begin with [`Address::parse`].

use std::fmt;
use std::sync::Arc;

use crate::error::Error;

/// Where a peer listens: `http://127.0.0.1:8000`. Cheap to clone.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Address(Arc<str>);

impl Address {
    /// Reads an address; `host:port` alone is taken for plain HTTP.
    pub(crate) fn parse(text: &str) -> Result<Self, Error> {
        let text = text.trim().trim_end_matches('/');
        let whole = if text.contains("://") {
            text.to_owned()
        } else {
            format!("http://{text}")
        };
        let wrong = |problem: String| Error::Address {
            address: text.to_owned(),
            problem,
        };
        let uri: http::Uri = whole
            .parse()
            .map_err(|error: http::uri::InvalidUri| wrong(error.to_string()))?;
        if uri.host().is_none_or(str::is_empty) {
            return Err(wrong("it has no host".to_owned()));
        }
        if uri.port_u16().is_none() {
            return Err(wrong("it has no port".to_owned()));
        }
        Ok(Self(whole.into()))
    }

    /// In place of an address, where nobody knows it.
    pub(crate) fn unknown() -> Self {
        Self("".into())
    }

    /// The text.
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn address_gets_its_scheme_and_must_have_host_and_port() {
        assert_eq!(
            Address::parse("127.0.0.1:8000/").unwrap().as_str(),
            "http://127.0.0.1:8000"
        );
        assert_eq!(
            Address::parse("http://[::1]:8000").unwrap().as_str(),
            "http://[::1]:8000"
        );
        for wrong in ["", "http://", "http://host", ":8000", "a b:1"] {
            assert!(Address::parse(wrong).is_err(), "{wrong:?}");
        }
    }
}
