//! The wire does not change by accident: what `proto/wire.lock` lists must stay, and what is new must be listed.
//!
//! `UPDATE_EXPECT=1 cargo test --test wire` adds what is new; a line that is gone from the protocol has to be taken out by hand, after a look at
//! the versioning rules in `proto/README.md`.

#![expect(clippy::unwrap_used, reason = "a test proves things with these")]

use std::collections::BTreeSet;
use std::fmt::Write as _;

use prost::Message;
use prost_types::{DescriptorProto, EnumDescriptorProto, FileDescriptorProto, FileDescriptorSet};

const LOCK: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/proto/wire.lock");

fn message(lines: &mut BTreeSet<String>, scope: &str, message: &DescriptorProto) {
    let name = format!("{scope}.{}", message.name());
    for field in &message.field {
        let mut line = format!("{name} {} {}", field.number(), field.name());
        write!(
            line,
            " {} {}",
            field.r#type().as_str_name(),
            field.label().as_str_name()
        )
        .unwrap();
        if field.type_name.is_some() {
            write!(line, " {}", field.type_name()).unwrap();
        }
        if field.oneof_index.is_some() {
            line.push_str(" oneof");
        }
        lines.insert(line);
    }
    for nested in &message.nested_type {
        self::message(lines, &name, nested);
    }
    for nested in &message.enum_type {
        enumeration(lines, &name, nested);
    }
}

fn enumeration(lines: &mut BTreeSet<String>, scope: &str, enumeration: &EnumDescriptorProto) {
    for value in &enumeration.value {
        lines.insert(format!(
            "{scope}.{} {} {}",
            enumeration.name(),
            value.number(),
            value.name()
        ));
    }
}

fn file(lines: &mut BTreeSet<String>, file: &FileDescriptorProto) {
    for message in &file.message_type {
        self::message(lines, file.package(), message);
    }
    for enumeration in &file.enum_type {
        self::enumeration(lines, file.package(), enumeration);
    }
    for service in &file.service {
        for method in &service.method {
            let stream = |is_stream: bool| if is_stream { "stream " } else { "" };
            lines.insert(format!(
                "{}.{}/{} {}{} -> {}{}",
                file.package(),
                service.name(),
                method.name(),
                stream(method.client_streaming()),
                method.input_type(),
                stream(method.server_streaming()),
                method.output_type(),
            ));
        }
    }
}

/// Everything that the public package puts on the wire, a line each.
fn wire() -> BTreeSet<String> {
    let set = FileDescriptorSet::decode(cubecast_sdk::proto::FILE_DESCRIPTOR_SET).unwrap();
    let mut lines = BTreeSet::new();
    for public in set
        .file
        .iter()
        .filter(|file| file.package() == "cubecast.v1")
    {
        file(&mut lines, public);
    }
    lines
}

#[test]
fn nothing_on_the_wire_changes_by_accident() {
    let wire = wire();
    assert!(
        wire.iter()
            .any(|line| line.starts_with("cubecast.v1.MessageBatch 4 messages ")),
        "field 4 for ever: see types/batch.rs"
    );
    let locked = std::fs::read_to_string(LOCK).unwrap_or_default();
    let locked: BTreeSet<String> = locked.lines().map(str::to_owned).collect();
    let gone: Vec<&String> = locked.difference(&wire).collect();
    assert!(
        gone.is_empty(),
        "gone or changed, so older clients break: {gone:#?}"
    );
    let new: Vec<&String> = wire.difference(&locked).collect();
    if std::env::var_os("UPDATE_EXPECT").is_some() && !new.is_empty() {
        let text: String = wire.iter().flat_map(|line| [line.as_str(), "\n"]).collect();
        std::fs::write(LOCK, text).unwrap();
        return;
    }
    assert!(
        new.is_empty(),
        "new; list it with UPDATE_EXPECT=1: {new:#?}"
    );
}
