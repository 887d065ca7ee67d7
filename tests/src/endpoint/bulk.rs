//! Bytes by the megabyte, whose order and content a checksum pins down.

use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::thread;

use serde_json::{Value, json};

pub(super) const BLOCK: usize = 64 * 1024;

/// Sends `bytes` bytes and receives as many, at the same time.
pub(super) fn exchange(stream: &TcpStream, bytes: usize) -> io::Result<Value> {
    let (sent, received) = thread::scope(|scope| {
        let sending = scope.spawn(|| send(stream, bytes));
        let received = receive(stream, bytes);
        (sending.join().unwrap_or_else(|_| Err(ErrorKind::Other.into())), received)
    });
    let (received, checksum) = received?;
    Ok(json!({ "sent": sent?, "received": received, "checksum": checksum }))
}

/// Sends `bytes` bytes of the pattern, and gives their checksum.
pub(super) fn send(mut stream: &TcpStream, bytes: usize) -> io::Result<String> {
    let (mut pattern, mut checksum) = (Pattern(0), Checksum::default());
    let mut left = bytes;
    while left > 0 {
        let block = pattern.next_block(left.min(BLOCK));
        checksum.add(&block);
        stream.write_all(&block)?;
        left -= block.len();
    }
    Ok(checksum.text())
}

/// Receives until `limit` bytes have come or the other end ends; gives how many and their checksum.
pub(super) fn receive(stream: impl Read, limit: usize) -> io::Result<(usize, String)> {
    let (mut stream, mut block) = (stream.take(limit as u64), vec![0; BLOCK]);
    let (mut received, mut checksum) = (0, Checksum::default());
    loop {
        match stream.read(&mut block)? {
            0 => return Ok((received, checksum.text())),
            length => {
                checksum.add(&block[..length]);
                received += length;
            }
        }
    }
}

/// Receives until the other end ends.
pub(super) fn collect(stream: impl Read) -> io::Result<Value> {
    let (received, checksum) = receive(stream, usize::MAX)?;
    Ok(json!({ "received": received, "checksum": checksum }))
}

/// Bytes that never repeat within a test and do not compress (the counter of splitmix64).
pub(super) struct Pattern(pub(super) u64);

impl Pattern {
    /// The next `length` bytes; only the last block of all may have a length that is no multiple of 8.
    pub(super) fn next_block(&mut self, length: usize) -> Vec<u8> {
        let mut block = Vec::with_capacity(length + 8);
        while block.len() < length {
            self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            block.extend_from_slice(&(mixed ^ (mixed >> 27)).to_le_bytes());
        }
        block.truncate(length);
        block
    }
}

/// FNV-1a over 64 bits: it depends on every byte and on their order, wherever the borders of reads fall.
pub(super) struct Checksum(u64);

impl Default for Checksum {
    fn default() -> Checksum {
        Checksum(0xcbf2_9ce4_8422_2325)
    }
}

impl Checksum {
    pub(super) fn add(&mut self, bytes: &[u8]) {
        self.0 = bytes.iter().fold(self.0, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3));
    }

    pub(super) fn text(&self) -> String {
        format!("{:016x}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_knows_order_and_not_borders() {
        let (mut whole, mut parts, mut swapped) = (Checksum::default(), Checksum::default(), Checksum::default());
        whole.add(b"abcdef");
        parts.add(b"ab");
        parts.add(b"cdef");
        swapped.add(b"abdcef");
        assert_eq!(whole.text(), parts.text());
        assert_ne!(whole.text(), swapped.text());
    }

    #[test]
    fn the_pattern_does_not_depend_on_the_size_of_blocks() {
        let (mut one, mut two) = (Pattern(0), Pattern(0));
        assert_eq!(one.next_block(64), [two.next_block(16), two.next_block(48)].concat());
    }

    #[test]
    fn receives_up_to_the_end_or_the_limit() {
        assert_eq!(receive(b"abcdef".as_slice(), 4).unwrap().0, 4);
        assert_eq!(receive(b"abcdef".as_slice(), 100).unwrap().0, 6);
    }
}
