//! How much a key may serve (RFC 8446 5.5). The kernel does not look; a program counts what leaves.

use enforcer_ebpf::{Live, MANY_OCTETS, Reason};
use rustls::CipherSuite;

use super::written::{held, identity};
use super::{Direct, owner_of};
use crate::kernel::ktls;

/// Blocks of AES that one AES-GCM key may encrypt: those of 2^24.5 full records (RFC 8446 5.5).
const BLOCKS: u64 = 23_726_566 * blocks(16_384, 1);
/// Octets of the shortest record: its header, the type of its content, and its tag.
const SHORTEST: u64 = 5 + 1 + 16;

/// What this many records with this many octets take at most: the last block of each may be a short one, and its tag
/// takes another.
const fn blocks(octets: u64, records: u64) -> u64 {
    octets / 16 + 2 * records
}

impl Direct {
    /// A connection has sent this many octets: ends it before its key has served too much. A new key for an open
    /// connection would need both ends at the same record, and a kernel that takes one (7.2).
    pub(super) fn weigh(&self, cookie: u64, sent: u64) {
        let Some(live) = self.holds.live_one(cookie) else { return };
        // Until the agent is told again.
        let soon = sent + MANY_OCTETS;
        if live.cipher == u32::from(u16::from(CipherSuite::TLS13_CHACHA20_POLY1305_SHA256))
            || blocks(soon, soon / SHORTEST) < BLOCKS
        {
            return;
        }
        match self.records(cookie, &live) {
            Some(records) if blocks(soon, records + MANY_OCTETS / SHORTEST) < BLOCKS => {
                tracing::debug!(cookie, sent, records, "key goes on");
            }
            records => {
                tracing::info!(cookie, sent, records, "the key of a direct connection is used up");
                self.destroy(cookie, &held(&live), Reason::RekeyUnsupported);
                self.lives.failed(cookie, Reason::RekeyUnsupported);
            }
        }
    }

    /// `None`: nobody is found who has the socket, so nobody knows.
    fn records(&self, cookie: u64, live: &Live) -> Option<u64> {
        let picture = self.current.picture();
        let workload = owner_of(&picture, live, &identity(&live.local)?)?;
        let (_process, socket) = self.processes.find_in_cgroup(&workload.cgroup, cookie).ok()??;
        ktls::records_sent(&socket).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 8446 5.5 counts full records, of which a key may serve 389 GB; of the shortest ones 148 GiB.
    #[test]
    fn a_key_serves_as_many_blocks_as_full_records_may_have() {
        assert_eq!(BLOCKS / blocks(16_384, 1), 23_726_566);
        assert!(blocks(388 << 30, (388 << 30) / 16_384) > BLOCKS);
        assert!(blocks(361 << 30, (361 << 30) / 16_384) < BLOCKS);
        assert!(blocks(147 << 30, (147 << 30) / SHORTEST) < BLOCKS);
        assert!(blocks(148 << 30, (148 << 30) / SHORTEST) > BLOCKS);
    }
}
