//! Lists that come in pages (AIP-158), and the walk through all of them.
//!
//! It knows nothing of what is listed. Begin with [`Page`].

use std::sync::Arc;

use futures::stream::{self, BoxStream, StreamExt};

use crate::error::Error;

/// A part of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Page<T> {
    /// The entries; may be none although there are more.
    pub items: Vec<T>,
    /// Asks for the next page; `None`: this was the last.
    pub next_token: Option<String>,
}

/// Which page of a list to get.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PageRequest {
    /// At most so many entries; 0 leaves it to the peer (100).
    pub size: u32,
    /// `next_token` of the page before; empty for the first.
    pub token: String,
}

impl PageRequest {
    /// The size as the wire has it.
    pub(crate) fn wire_size(&self) -> i32 {
        i32::try_from(self.size).unwrap_or(i32::MAX)
    }
}

impl<T> Page<T> {
    /// A page as the wire has it.
    pub(crate) fn new<W: Into<T>>(items: Vec<W>, next_token: String) -> Self {
        Self {
            items: items.into_iter().map(Into::into).collect(),
            next_token: Some(next_token).filter(|token| !token.is_empty()),
        }
    }
}

/// Where a walk through pages is.
enum Walk<T> {
    /// These are left of the page, and the next has this token.
    Within(std::vec::IntoIter<T>, Option<String>),
    /// After an error.
    Ended,
}

/// All entries of all pages. Ends after the last page or an error.
pub(crate) fn pages<T, F, W>(fetch: F) -> BoxStream<'static, Result<T, Error>>
where
    T: Send + 'static,
    F: Fn(PageRequest) -> W + Send + Sync + 'static,
    W: Future<Output = Result<Page<T>, Error>> + Send,
{
    let fetch = Arc::new(fetch);
    let begin = Walk::Within(Vec::new().into_iter(), Some(String::new()));
    stream::unfold(begin, move |mut walk| {
        let fetch = Arc::clone(&fetch);
        async move {
            loop {
                let Walk::Within(mut items, token) = walk else {
                    return None;
                };
                if let Some(item) = items.next() {
                    return Some((Ok(item), Walk::Within(items, token)));
                }
                match fetch(PageRequest {
                    size: 0,
                    token: token?,
                })
                .await
                {
                    Ok(page) => walk = Walk::Within(page.items.into_iter(), page.next_token),
                    Err(error) => return Some((Err(error), Walk::Ended)),
                }
            }
        }
    })
    .boxed()
}

#[cfg(test)]
mod tests {
    use futures::TryStreamExt;

    use super::*;

    #[tokio::test]
    async fn walk_goes_through_empty_pages_to_the_last() {
        let all = pages(|page: PageRequest| async move {
            Ok(match page.token.as_str() {
                "" => Page {
                    items: vec![1, 2],
                    next_token: Some("a".to_owned()),
                },
                "a" => Page {
                    items: vec![],
                    next_token: Some("b".to_owned()),
                },
                _ => Page {
                    items: vec![3],
                    next_token: None,
                },
            })
        });
        assert_eq!(all.try_collect::<Vec<_>>().await.unwrap(), [1, 2, 3]);
    }

    #[tokio::test]
    async fn walk_ends_after_an_error() {
        let mut all = pages::<u8, _, _>(|_| async { Err(Error::Answer { field: "x" }) });
        assert!(all.next().await.unwrap().is_err());
        assert!(all.next().await.is_none());
    }
}
