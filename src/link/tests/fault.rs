//! Faults and the bodies that obey them, in a time that stands still unless everybody waits.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use http_body::{Body as _, Frame};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::body::Body;

use crate::env::entropy::SeededEntropy;
use crate::link::fault::{Fault, FaultId, Faults, Injection, Passage};
use crate::link::held;
use crate::types::PeerId;

const PEER: PeerId = PeerId(3);

fn faults(injection: Injection) -> Faults {
    Faults::new(injection, Arc::new(SeededEntropy::new(5)))
}

fn ms(count: u64) -> Duration {
    Duration::from_millis(count)
}

fn delay(by: Duration) -> Fault {
    Fault {
        delay: by,
        ..Fault::default()
    }
}

fn cut(peers: &[PeerId], duration: Option<Duration>) -> Fault {
    Fault {
        peers: peers.to_vec(),
        passage: Passage::Cut,
        duration,
        ..Fault::default()
    }
}

/// A body whose parts are sent by hand.
struct Parts(ReceiverStream<u8>);

impl http_body::Body for Parts {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let part = self.0.poll_next_unpin(context);
        part.map(|part| part.map(|part| Ok(Frame::data(Bytes::copy_from_slice(&[part])))))
    }
}

fn body(faults: &Faults) -> (mpsc::Sender<u8>, Body) {
    let (sender, parts) = mpsc::channel(16);
    let body = Body::new(Parts(ReceiverStream::new(parts)));
    (sender, held::wrap(body, PEER, faults))
}

/// The next part. `None`: the body ended. An error: it broke.
async fn next(body: &mut Body) -> Result<Option<u8>, String> {
    let frame = std::future::poll_fn(|cx| std::pin::Pin::new(&mut *body).poll_frame(cx)).await;
    match frame {
        None => Ok(None),
        Some(Ok(frame)) => Ok(Some(frame.into_data().unwrap()[0])),
        Some(Err(error)) => Err(error.to_string()),
    }
}

#[tokio::test(start_paused = true)]
async fn faults_have_numbers_and_end_by_word_or_by_time() {
    let faults = faults(Injection::Allowed);
    let first = faults.inject(delay(ms(1)));
    let second = faults.inject(cut(&[PEER], Some(ms(100))));
    assert_eq!((first, second), (FaultId(1), FaultId(2)));
    assert_eq!(faults.active().len(), 2);
    tokio::time::advance(ms(100)).await;
    assert_eq!(faults.active(), [(first, delay(ms(1)))]);
    assert_eq!(faults.clear(&[second]), [], "it is over");
    assert_eq!(faults.clear(&[]), [(first, delay(ms(1)))]);
    assert_eq!(faults.inject(Fault::default()), FaultId(3));
}

#[tokio::test(start_paused = true)]
async fn messages_pass_at_once_without_a_fault_and_where_faults_are_forbidden() {
    let forbidden = faults(Injection::Forbidden);
    forbidden.inject(cut(&[], None));
    forbidden.pass(PEER).await.unwrap();
    let (sender, mut body) = body(&faults(Injection::Allowed));
    sender.send(1).await.unwrap();
    drop(sender);
    assert_eq!(next(&mut body).await, Ok(Some(1)));
    assert_eq!(next(&mut body).await, Ok(None));
}

#[tokio::test(start_paused = true)]
async fn cut_holds_back_heads_and_parts_until_it_ends() {
    let faults = faults(Injection::Allowed);
    let (sender, mut body) = body(&faults);
    let id = faults.inject(cut(&[PEER], None));
    faults.pass(PeerId(4)).await.unwrap();
    sender.send(1).await.unwrap();
    {
        let held = async { tokio::join!(faults.pass(PEER), next(&mut body)) };
        tokio::pin!(held);
        assert!(futures::poll!(&mut held).is_pending());
        faults.clear(&[id]);
        let (head, part) = held.await;
        assert_eq!((head, part), (Ok(()), Ok(Some(1))));
    }
    let begun = Instant::now();
    faults.inject(cut(&[], Some(ms(250))));
    sender.send(2).await.unwrap();
    assert_eq!(next(&mut body).await, Ok(Some(2)));
    assert_eq!(begun.elapsed(), ms(250));
}

#[tokio::test(start_paused = true)]
async fn delay_holds_each_part_as_long_and_keeps_their_order() {
    let faults = faults(Injection::Allowed);
    let jitter = Fault {
        delay: ms(20),
        jitter: ms(10),
        ..Fault::default()
    };
    faults.inject(jitter);
    let (sender, mut body) = body(&faults);
    let begun = Instant::now();
    for part in 0..8 {
        sender.send(part).await.unwrap();
    }
    for part in 0..8 {
        assert_eq!(next(&mut body).await, Ok(Some(part)));
    }
    let took = begun.elapsed();
    assert!(
        took >= ms(20) && took < ms(32),
        "together, not one after another: {took:?}"
    );
    let begun = Instant::now();
    faults.pass(PEER).await.unwrap();
    assert!(begun.elapsed() >= ms(20) && begun.elapsed() < ms(32));
}

#[tokio::test(start_paused = true)]
async fn lost_message_breaks_its_call() {
    let faults = faults(Injection::Allowed);
    let half = Fault {
        loss: 0.5,
        ..Fault::default()
    };
    faults.inject(half.clone());
    let mut lost = 0;
    for _ in 0..1000 {
        lost += u32::from(faults.pass(PEER).await.is_err());
    }
    assert!((400..600).contains(&lost), "{lost}");
    faults.inject(half);
    let mut lost = 0;
    for _ in 0..1000 {
        lost += u32::from(faults.pass(PEER).await.is_err());
    }
    assert!((650..850).contains(&lost), "two faults add up: {lost}");
    faults.inject(Fault {
        loss: 1.0,
        ..Fault::default()
    });
    let (sender, mut body) = body(&faults);
    sender.send(1).await.unwrap();
    sender.send(2).await.unwrap();
    assert_eq!(next(&mut body).await, Ok(Some(1)), "it went with the head");
    let broken = next(&mut body).await.unwrap_err();
    assert!(broken.contains("injected fault"), "{broken}");
}
