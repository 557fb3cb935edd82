//! What comes from outside the program: time, chance, disk and network, each with a twin that tests command.
//!
//! Nothing else in the crate touches the file system, the wall clock, sockets or entropy. It decides nothing: callers say what is read and
//! written, and when it must be durable. Begin with [`disk`].

pub mod clock;
pub mod disk;
pub mod entropy;
pub mod faulty;
pub mod net;
