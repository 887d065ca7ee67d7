//! The outside of TLS: a stream of records, as anybody on the wire sees it (RFC 8446 5.1).
//!
//! This says whether bytes *look* like TLS from the first to the last. It has no keys and judges no content.

use anyhow::{Result, bail};

/// change_cipher_spec, alert, handshake, application_data.
const CONTENT_TYPES: std::ops::RangeInclusive<u8> = 20..=23;
const HANDSHAKE: u8 = 22;
const APPLICATION_DATA: u8 = 23;

/// A record of application data may be this long (RFC 8446 5.2), any other no more than 2^14.
const LONGEST: usize = (1 << 14) + 256;

const HEADER: usize = 5;

/// Checks that the stream consists of TLS records from byte 0; the last one may be cut off, as a reset does.
pub fn check(stream: &[u8]) -> Result<()> {
    Records::default().take(stream)
}

/// The same of a stream that comes piece by piece; of it nothing is kept.
#[derive(Debug, Default)]
pub struct Records {
    /// The first octets of a header that has not come whole.
    header: Vec<u8>,
    /// How many octets of the record are still to come.
    left: usize,
    /// How many octets have come in all.
    offset: usize,
}

impl Records {
    /// Takes the next octets.
    pub fn take(&mut self, mut octets: &[u8]) -> Result<()> {
        while !octets.is_empty() {
            let wanted = if self.left > 0 { self.left } else { HEADER - self.header.len() };
            let (taken, rest) = octets.split_at(wanted.min(octets.len()));
            self.offset += taken.len();
            octets = rest;
            if self.left > 0 {
                self.left -= taken.len();
                continue;
            }
            self.header.extend_from_slice(taken);
            if self.header.len() == HEADER {
                self.left = self.length()?;
                self.header.clear();
            }
        }
        match self.header.first() {
            Some(content) if !CONTENT_TYPES.contains(content) => self.refuse(),
            _ => Ok(()),
        }
    }

    /// The length that a whole header gives, which is never 0.
    fn length(&self) -> Result<usize> {
        let header = &self.header;
        let (content, version) = (header[0], u16::from_be_bytes([header[1], header[2]]));
        let length = usize::from(u16::from_be_bytes([header[3], header[4]]));
        let longest = if content == APPLICATION_DATA { LONGEST } else { 1 << 14 };
        let plausible = CONTENT_TYPES.contains(&content) && matches!(version, 0x0301 | 0x0303) && length <= longest;
        if plausible && length > 0 { Ok(length) } else { self.refuse() }
    }

    fn refuse<T>(&self) -> Result<T> {
        bail!("no TLS record at byte {}: {}", self.offset - self.header.len(), self.header.escape_ascii())
    }
}

/// Whether the stream opens with a handshake record: a ClientHello or a ServerHello.
pub fn opens_with_handshake(stream: &[u8]) -> bool {
    stream.first() == Some(&HANDSHAKE)
}

/// Whether the stream opens with a record of application data: its keys were agreed on elsewhere.
pub fn opens_with_data(stream: &[u8]) -> bool {
    stream.first() == Some(&APPLICATION_DATA)
}

/// TLS 1.3, as a ServerHello says it.
pub const TLS_1_3: u16 = 0x0304;

/// The version that the server's direction of a connection chose, if it opens with a ServerHello (RFC 8446 4.1.3).
pub fn chosen_version(stream: &[u8]) -> Option<u16> {
    const SERVER_HELLO: usize = 2;
    const SUPPORTED_VERSIONS: usize = 43;
    let mut record = Octets(stream);
    let (content, _version, length) = (record.number(1)?, record.number(2)?, record.number(2)?);
    let mut hello = Octets(record.take(length)?);
    let (kind, _length) = (hello.number(1)?, hello.number(3)?);
    if content != usize::from(HANDSHAKE) || kind != SERVER_HELLO {
        return None;
    }
    let legacy = hello.number(2)?;
    let _random = hello.take(32)?;
    let session = hello.number(1)?;
    let _session = hello.take(session)?;
    let _suite_and_compression = hello.take(3)?;
    let extensions = hello.number(2).unwrap_or_default();
    let mut extensions = Octets(hello.take(extensions)?);
    while let (Some(kind), Some(length)) = (extensions.number(2), extensions.number(2)) {
        let mut content = Octets(extensions.take(length)?);
        if kind == SUPPORTED_VERSIONS {
            return u16::try_from(content.number(2)?).ok();
        }
    }
    u16::try_from(legacy).ok()
}

/// What is left to read.
struct Octets<'a>(&'a [u8]);

impl<'a> Octets<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    fn number(&mut self, octets: usize) -> Option<usize> {
        Some(self.take(octets)?.iter().fold(0, |number, octet| number << 8 | usize::from(*octet)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(content: u8, length: u16) -> Vec<u8> {
        let mut bytes = vec![content, 3, 3];
        bytes.extend(length.to_be_bytes());
        bytes.resize(bytes.len() + usize::from(length), 0xaa);
        bytes
    }

    #[test]
    fn accepts_whole_records() {
        check(&[record(22, 100), record(20, 1), record(23, 16_640), record(21, 19)].concat()).unwrap();
    }

    #[test]
    fn accepts_a_last_record_that_is_cut_off() {
        let stream = [record(22, 100), record(23, 50)].concat();
        for cut in 0..stream.len() {
            check(&stream[..cut]).unwrap();
        }
    }

    #[test]
    fn judges_pieces_as_it_does_the_whole() {
        let good = [record(22, 100), record(20, 1), record(23, 3000)].concat();
        let bad = [&good[..], b"plain text"].concat();
        for size in [1, 2, 3, 7, 100, 4000] {
            let pieces = |stream: &[u8]| {
                let mut records = Records::default();
                stream.chunks(size).try_for_each(|piece| records.take(piece))
            };
            pieces(&good).unwrap();
            pieces(&bad).unwrap_err();
        }
    }

    #[test]
    fn refuses_plaintext_from_the_first_byte() {
        let error = check(b"GET / HTTP/1.1\r\n").unwrap_err();
        assert_eq!(error.to_string(), "no TLS record at byte 0: GET /");
        check(b"GET").unwrap_err();
    }

    #[test]
    fn refuses_plaintext_between_and_after_records() {
        check(&[record(22, 100), b"plain text".to_vec(), record(23, 50)].concat()).unwrap_err();
        check(&[record(22, 100), b"hi".to_vec()].concat()).unwrap_err();
    }

    #[test]
    fn refuses_impossible_lengths_and_versions() {
        check(&record(23, 16_641)).unwrap_err();
        check(&record(22, 16_385)).unwrap_err();
        check(&record(23, 0)).unwrap_err();
        check(&[23, 2, 0, 0, 1, 0]).unwrap_err();
    }

    /// A ServerHello of TLS 1.2 by its old field, with these extensions.
    fn server_hello(extensions: &[u8]) -> Vec<u8> {
        let mut hello = [&[3, 3], [7; 32].as_slice(), &[0, 0x13, 0x01, 0]].concat();
        hello.extend(u16::try_from(extensions.len()).unwrap().to_be_bytes());
        hello.extend(extensions);
        let message = [&[2, 0, 0, u8::try_from(hello.len()).unwrap()], hello.as_slice()].concat();
        [&[22, 3, 3, 0, u8::try_from(message.len()).unwrap()], message.as_slice(), &record(23, 50)].concat()
    }

    #[test]
    fn knows_which_version_a_server_chose() {
        let other = [0, 51, 0, 2, 3, 4];
        assert_eq!(chosen_version(&server_hello(&[&other[..], &[0, 43, 0, 2, 3, 4]].concat())), Some(TLS_1_3));
        assert_eq!(chosen_version(&server_hello(&other)), Some(0x0303));
        assert_eq!(chosen_version(&record(23, 50)), None);
        assert_eq!(chosen_version(&server_hello(&other)[..20]), None);
    }
}
