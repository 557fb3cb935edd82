//! `health`: whether one peer serves, cheap enough for a container's health check.
//!
//! It asks the standard health service of gRPC, once, without looking at the rest of the cluster. Without `--address` it asks the peer that the
//! settings in file and environment describe: in a container that is the one beside it. Begin with [`run`].

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use clap::Args;
use tokio::time::Instant;
use tonic::Code;
use tonic::transport::Endpoint;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use super::argument::{self, Global};
use super::exit::Failure;
use super::output::Output;
use super::record;
use super::text;
use crate::config::Sources;

/// A peer that needs longer is not well; and container health checks have little time.
const TIMEOUT: Duration = Duration::from_secs(1);

/// Ask one peer whether it serves: exit 0 yes, 1 no, 4 not reached
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Ask about one service, such as cubecast.v1.PeerService, instead of the whole peer
    #[arg(
        long,
        value_name = "NAME",
        default_value = "",
        hide_default_value = true
    )]
    service: String,
    /// File with the settings of the peer to ask [env: CUBECAST_CONFIG]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

pub(super) async fn run(arguments: Arguments, global: &Global, output: &mut Output) -> Result<()> {
    let address = match global.given_addresses().into_iter().next() {
        Some(address) => address,
        None => own_address(arguments.config)?,
    };
    let begun = Instant::now();
    let asked =
        tokio::time::timeout(global.timeout_or(TIMEOUT), ask(&address, arguments.service)).await;
    if global.timing {
        output.word(format_args!(
            "timing: Check {}",
            text::milliseconds(begun.elapsed())
        ))?;
    }
    let Ok(answer) = asked else {
        return Err(Failure::Unavailable(format!("{address} does not answer")).into());
    };
    let status = match answer? {
        ServingStatus::Serving => "serving",
        ServingStatus::NotServing => "not serving",
        _ => "unknown",
    };
    output.line(
        format_args!("{address} is {status}"),
        &record::Health {
            address: &address,
            status,
        },
    )?;
    if status == "serving" {
        Ok(())
    } else {
        Err(Failure::Failed(format!("{address} is {status}")).into())
    }
}

async fn ask(address: &str, service: String) -> Result<ServingStatus> {
    let uri = if address.contains("://") {
        address.to_owned()
    } else {
        format!("http://{address}")
    };
    let endpoint = Endpoint::from_shared(uri)
        .map_err(|error| Failure::Usage(format!("{address:?} is no address: {error}")))?;
    let unreachable = |problem: &dyn std::fmt::Display| {
        Failure::Unavailable(format!("{address} cannot be reached: {problem}"))
    };
    let channel = endpoint
        .connect()
        .await
        .map_err(|error| unreachable(&deepest(&error)))?;
    let request = HealthCheckRequest { service };
    let answer = HealthClient::new(channel).check(request).await;
    match answer {
        Ok(answer) => Ok(answer.into_inner().status()),
        Err(status) if status.code() == Code::NotFound => Err(Failure::Failed(format!(
            "{address} has no such service: {}",
            status.message()
        ))
        .into()),
        Err(status) => Err(unreachable(&status.message()).into()),
    }
}

/// The cause that says something: the outer ones say `transport error`.
fn deepest(error: &(dyn std::error::Error + 'static)) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}

/// Where the peer of these settings is reached from its own machine.
fn own_address(file: Option<PathBuf>) -> Result<String> {
    let sources = Sources::default().environment(std::env::vars_os());
    let sources = match file {
        Some(file) => sources.file(file),
        None => sources,
    };
    Ok(near(argument::config(&sources)?.listen))
}

fn near(listen: SocketAddr) -> String {
    let host = match listen.ip() {
        host if !host.is_unspecified() => host,
        IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
    };
    format!("http://{}", SocketAddr::new(host, listen.port()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peer_that_listens_everywhere_is_asked_on_this_machine() {
        assert_eq!(
            near("0.0.0.0:8004".parse().unwrap()),
            "http://127.0.0.1:8004"
        );
        assert_eq!(near("[::]:8004".parse().unwrap()), "http://[::1]:8004");
        assert_eq!(
            near("10.0.0.7:8004".parse().unwrap()),
            "http://10.0.0.7:8004"
        );
    }

    #[tokio::test]
    async fn nobody_there_is_unavailable() {
        // Port 1 is taken by nobody.
        let error = ask("127.0.0.1:1", String::new()).await.unwrap_err();
        assert!(
            matches!(error.downcast_ref(), Some(Failure::Unavailable(_))),
            "{error}"
        );
    }
}
