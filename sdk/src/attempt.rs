//! One attempt of a call: a request as bytes to one peer, and its answer.
//!
//! It never chooses a peer and never repeats. Begin with [`send`].

use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes};
use http::uri::PathAndQuery;
use prost::DecodeError;
use prost::encoding::{DecodeContext, WireType};
use tonic::client::Grpc;
use tonic_prost::ProstCodec;
use tracing::debug;

use crate::address::Address;
use crate::connect::Chosen;
use crate::error::{self, Failure};
use crate::retry::Repeat;

/// What a call gave.
#[derive(Debug)]
pub(crate) struct Answer<A> {
    pub(crate) message: A,
    /// The vertex of the peer that answered, where it said so.
    pub(crate) served_by: Option<String>,
    /// The address that was called.
    pub(crate) address: Address,
}

/// A request on its way.
#[derive(Debug, Clone)]
pub(crate) struct Parcel {
    pub(crate) path: &'static str,
    pub(crate) request: Bytes,
    /// One for all attempts of a call, so that all peers' traces of it are found together.
    pub(crate) trace: Option<Arc<str>>,
    pub(crate) timeout: Duration,
    /// Bytes of the answer.
    pub(crate) answer_bytes_max: usize,
    /// What repeating it may do.
    pub(crate) repeat: Repeat,
}

/// Sends the request to one peer.
pub(crate) async fn send<A>(chosen: Chosen, parcel: Parcel) -> Result<Answer<A>, Failure>
where
    A: prost::Message + Default + 'static,
{
    let timeout = parcel.timeout;
    let Ok(attempt) = tokio::time::timeout(timeout, call::<A>(&chosen, parcel)).await else {
        return Err(Failure::no_answer(chosen.address, timeout));
    };
    let response =
        attempt.map_err(|status| Failure::from_status(&status, chosen.address.clone()))?;
    let served_by = response.metadata().get("cubecast-served-by");
    Ok(Answer {
        served_by: served_by
            .and_then(|value| value.to_str().ok())
            .map(str::to_owned),
        message: response.into_inner(),
        address: chosen.address,
    })
}

async fn call<A>(chosen: &Chosen, parcel: Parcel) -> error::Attempt<A>
where
    A: prost::Message + Default + 'static,
{
    let mut request = tonic::Request::new(Encoded::new(parcel.request, Bytes::new()));
    request.set_timeout(parcel.timeout);
    if let Some(trace) = parcel.trace.and_then(|trace| trace.parse().ok()) {
        request.metadata_mut().insert("traceparent", trace);
    }
    let mut grpc = Grpc::new(chosen.channel.clone())
        .max_decoding_message_size(parcel.answer_bytes_max)
        .max_encoding_message_size(usize::MAX);
    // A lazy channel is always ready, or closed for good: then the call itself says so.
    if let Err(error) = grpc.ready().await {
        debug!(%error, address = %chosen.address, "channel is not ready");
    }
    let codec = ProstCodec::<Encoded, A>::default();
    grpc.unary(request, PathAndQuery::from_static(parcel.path), codec)
        .await
}

/// A message that is encoded already, in one or two pieces: a run of messages is not copied to have a head before it.
#[derive(Debug, Default, Clone)]
pub(crate) struct Encoded {
    head: Bytes,
    run: Bytes,
}

impl Encoded {
    pub(crate) fn new(head: Bytes, run: Bytes) -> Self {
        Self { head, run }
    }
}

impl prost::Message for Encoded {
    fn encode_raw(&self, buffer: &mut impl BufMut) {
        buffer.put_slice(&self.head);
        buffer.put_slice(&self.run);
    }

    fn merge_field(
        &mut self,
        tag: u32,
        wire_type: WireType,
        buffer: &mut impl Buf,
        context: DecodeContext,
    ) -> Result<(), DecodeError> {
        prost::encoding::skip_field(wire_type, tag, buffer, context)
    }

    fn encoded_len(&self) -> usize {
        self.head.len().saturating_add(self.run.len())
    }

    fn clear(&mut self) {
        *self = Self::default();
    }
}
