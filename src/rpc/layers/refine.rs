//! Gives a reason to the errors that tonic makes before a method is reached.
//!
//! Every error of ours has details, so one without them comes from tonic. It reports an oversized request as `OUT_OF_RANGE` and bytes that
//! are no request as `INTERNAL`, which would blame the peer. A method that nobody serves is one of a later version.

use cubecast_sdk::proto::v1::ErrorReason;
use http::Response;
use tonic::body::Body;
use tonic::{Code, Status};

use crate::rpc::status::Fault;

/// The response, its error with a reason.
pub(super) fn refine(
    response: Response<Body>,
    path: &str,
    request_bytes_max: u64,
) -> Response<Body> {
    let headers = response.headers();
    if !headers.contains_key(Status::GRPC_STATUS)
        || headers.contains_key(Status::GRPC_STATUS_DETAILS)
    {
        return response;
    }
    let Some(status) = Status::from_header_map(headers) else {
        return response;
    };
    let fault = match status.code() {
        Code::OutOfRange => {
            let text = format!(
                "a request has at most {request_bytes_max} bytes: {}",
                status.message()
            );
            Fault::new(ErrorReason::RequestTooLarge, text).with("limit", request_bytes_max)
        }
        Code::Internal => Fault::new(
            ErrorReason::RequestMalformed,
            format!("this is no request of the method: {}", status.message()),
        ),
        Code::Unimplemented => {
            let method = path.rsplit('/').next().unwrap_or(path);
            let text = format!(
                "this version of cubecast does not serve {path}: {}",
                status.message()
            );
            Fault::new(ErrorReason::NotImplemented, text).with("method", method)
        }
        _ => return response,
    };
    fault.into_status().into_http()
}
