//! WHAT PEOPLE SEE: logs, one record per connection, metrics, and the admin socket that serves them.
//!
//! A connection is written down in `events` while it lives; at its end the one `record` of it becomes one log event
//! and a few counts in `metrics`, and `seen` remembers for a day who had connections with whom. `admin` serves the rest of
//! the agent's state as the JSON that `report` defines.
//! Nothing here decides anything, holds a key or blocks a connection.

pub mod admin;
pub mod events;
pub mod log;
pub mod metrics;
pub mod ready;
pub mod record;
pub mod report;
pub mod seen;
