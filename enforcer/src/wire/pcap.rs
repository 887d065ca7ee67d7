//! A capture file in the classic format that `tcpdump -r` and everybody else reads.
//!
//! Packets begin with the header of IP (LINKTYPE_RAW), because they may come from devices of different kinds.

use std::io::{self, Write};

use super::Packet;

/// Of one packet at most; readers refuse files that promise more.
const SNAPSHOT_LENGTH: u32 = 262_144;
const LINKTYPE_RAW: u32 = 101;

/// Writes all of them. A packet that is longer than the format takes is cut off, and says so.
///
/// # Errors
///
/// The writer's.
pub fn write(mut to: impl Write, packets: &[Packet]) -> io::Result<()> {
    // Microseconds, version 2.4, no correction for a time zone.
    to.write_all(&0xa1b2_c3d4_u32.to_le_bytes())?;
    to.write_all(&[2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0])?;
    to.write_all(&SNAPSHOT_LENGTH.to_le_bytes())?;
    to.write_all(&LINKTYPE_RAW.to_le_bytes())?;
    for packet in packets {
        let kept = packet.octets.len().min(usize::try_from(SNAPSHOT_LENGTH).unwrap_or(usize::MAX));
        let number = |number: usize| u32::try_from(number).unwrap_or(u32::MAX).to_le_bytes();
        // The format ends in 2106.
        to.write_all(&u32::try_from(packet.at.as_secs()).unwrap_or(u32::MAX).to_le_bytes())?;
        to.write_all(&packet.at.subsec_micros().to_le_bytes())?;
        to.write_all(&number(kept))?;
        to.write_all(&number(packet.length))?;
        to.write_all(&packet.octets[..kept])?;
    }
    to.flush()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_file_is_as_the_format_has_it() {
        let packet = Packet { at: Duration::from_micros(1_000_002), length: 9, octets: vec![0x45, 7] };
        let mut file = Vec::new();
        write(&mut file, &[packet]).unwrap();
        let expected: [&[u8]; 5] = [
            &[0xd4, 0xc3, 0xb2, 0xa1, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 4, 0, 101, 0, 0, 0],
            &[1, 0, 0, 0, 2, 0, 0, 0],
            &[2, 0, 0, 0],
            &[9, 0, 0, 0],
            &[0x45, 7],
        ];
        assert_eq!(file, expected.concat());
    }
}
