//! stand-in
use crate::kernel::netns::Namespace;
use std::io; use std::net::SocketAddr;
/// x
pub struct Destroyer;
impl Destroyer {
/// x
/// # Errors
/// x
pub fn open(_n: &Namespace) -> io::Result<Self> { Ok(Self) }
/// x
/// # Errors
/// x
pub fn destroy(&self, _c: (SocketAddr, SocketAddr), _k: u64) -> io::Result<()> { Ok(()) }
}
