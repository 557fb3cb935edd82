//! Names of topics, publishers and subscribers.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// A checked name: 1 to 249 bytes of `[A-Za-z0-9._-]`. Cheap to clone.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Name(Arc<str>);

impl Name {
    /// The longest name, in bytes. Kafka's limit, so that names move between the systems.
    pub const BYTES_MAX: usize = 249;

    /// Checks a name.
    ///
    /// # Errors
    /// [`NameError`] says what is wrong with it.
    pub fn new(text: &str) -> Result<Self, NameError> {
        if text.is_empty() {
            return Err(NameError::Empty);
        }
        if text.len() > Self::BYTES_MAX {
            return Err(NameError::TooLong { bytes: text.len() });
        }
        match text
            .char_indices()
            .find(|(_, c)| !c.is_ascii_alphanumeric() && !matches!(c, '.' | '_' | '-'))
        {
            Some((position, character)) => Err(NameError::Character {
                character,
                position,
            }),
            None => Ok(Self(Arc::from(text))),
        }
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for Name {
    type Error = NameError;

    fn try_from(text: String) -> Result<Self, NameError> {
        Self::new(&text)
    }
}

impl From<Name> for String {
    fn from(name: Name) -> Self {
        name.0.as_ref().to_owned()
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", &*self.0)
    }
}

/// Why a text is not a name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// There is no text.
    #[error("a name has 1 to {max} bytes, this one is empty", max = Name::BYTES_MAX)]
    Empty,
    /// There is too much text.
    #[error("a name has 1 to {max} bytes, this one has {bytes}", max = Name::BYTES_MAX)]
    TooLong {
        /// How many bytes it has.
        bytes: usize,
    },
    /// A character is not allowed.
    #[error(
        "a name has only characters of [A-Za-z0-9._-], this one has {character:?} at byte {position}"
    )]
    Character {
        /// The first such character.
        character: char,
        /// Where it begins, in bytes from 0.
        position: usize,
    },
}

macro_rules! named {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub Name);

        impl $name {
            /// Checks the text of a name.
            ///
            /// # Errors
            /// [`NameError`] says what is wrong with it.
            pub fn new(text: &str) -> Result<Self, NameError> {
                Name::new(text).map(Self)
            }

            /// The text.
            pub fn as_str(&self) -> &str {
                self.0.as_str()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&self.0, f)
            }
        }
    };
}

named! {
    /// The name of a topic.
    TopicName
}
named! {
    /// The id of a publisher, chosen by the application.
    PublisherId
}
named! {
    /// The id of a subscriber, chosen by the application.
    SubscriberId
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_at_the_limit_is_taken_and_one_more_is_refused() {
        assert!(Name::new(&"a".repeat(249)).is_ok());
        assert_eq!(
            Name::new(&"a".repeat(250)),
            Err(NameError::TooLong { bytes: 250 })
        );
        assert_eq!(Name::new(""), Err(NameError::Empty));
    }

    #[test]
    fn bad_character_is_named_with_its_place() {
        assert_eq!(
            Name::new("a b"),
            Err(NameError::Character {
                character: ' ',
                position: 1
            })
        );
        assert_eq!(
            Name::new("aé"),
            Err(NameError::Character {
                character: 'é',
                position: 1
            })
        );
        assert!(Name::new("A-z_0.9").is_ok());
    }
}
