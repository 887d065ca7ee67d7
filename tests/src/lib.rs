//! What the suites and the demo are made of: worlds of network namespaces with agents, unmodified
//! programs inside them, and a packet capture as the oracle.
//!
//! Everything here runs as root on one machine. Nothing here knows what a suite promises; nothing here
//! looks into the agent except through its command line, its admin socket and the bytes on the wire.

pub mod ground;
pub mod teardown;
pub mod wanderer;
pub mod world;

pub mod agent;
pub mod authority;
pub mod clock;
pub mod config;
pub mod control;
pub mod pebble;

pub mod peer;
pub mod program;

pub mod records;
pub mod streams;
pub mod wire;

pub mod onlooker;

pub mod leaks;

pub mod cgroup;
pub mod netns;
pub mod place;

pub mod endpoint;
pub mod http;
pub mod process;
pub mod random;
pub mod settings;
pub mod wait;
