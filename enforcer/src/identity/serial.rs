//! The serial number of a certificate, by which its authority revokes it (RFC 5280 4.1.2.2).
//!
//! A number, so that it does not matter where it comes from: DER, a revocation list, or a command line. As text it is what
//! DER has as its content, in hexadecimal.

use std::fmt;
use std::str::FromStr;

use enforcer_ebpf::SERIAL as OCTETS;
use rustls::pki_types::CertificateDer;
use x509_parser::prelude::{FromDer, X509Certificate};

/// A number of at most 20 octets that is not negative.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Serial([u8; OCTETS]);

/// The text is no serial number.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("read serial number `{0}`: it must be 1 to 40 hexadecimal digits, and may begin with zeros")]
pub struct Malformed(String);

impl Serial {
    /// From the content of a DER INTEGER, big-endian in two's complement. `None`: it is negative, too long, or nothing.
    #[must_use]
    pub fn from_der(content: &[u8]) -> Option<Self> {
        content.first().filter(|&&first| first < 0x80).and_then(|_| Self::from_number(content))
    }

    /// Of a certificate. `None`: it cannot be read, or its serial number is none that an authority may give. A verified
    /// certificate has one.
    #[must_use]
    pub fn of(certificate: &CertificateDer<'_>) -> Option<Self> {
        let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
        Self::from_der(certificate.raw_serial())
    }

    /// As a big-endian number, padded with zeros.
    #[must_use]
    pub const fn octets(&self) -> [u8; OCTETS] {
        self.0
    }

    fn from_number(number: &[u8]) -> Option<Self> {
        let start = number.iter().take_while(|&&octet| octet == 0).count();
        let significant = &number[start..];
        let mut padded = [0; OCTETS];
        padded.get_mut(OCTETS.checked_sub(significant.len())?..)?.copy_from_slice(significant);
        Some(Self(padded))
    }
}

impl From<[u8; OCTETS]> for Serial {
    /// From what [`Self::octets`] gives.
    fn from(octets: [u8; OCTETS]) -> Self {
        Self(octets)
    }
}

impl FromStr for Serial {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Malformed> {
        let malformed = || Malformed(text.chars().take(64).collect());
        let digits = text.trim_start_matches('0');
        let is_number = !text.is_empty() && text.bytes().all(|digit| digit.is_ascii_hexdigit());
        if !is_number || digits.len() > 2 * OCTETS {
            return Err(malformed());
        }
        let padded = format!("{digits:0>width$}", width = 2 * OCTETS);
        let octet = |place: usize| u8::from_str_radix(&padded[2 * place..2 * place + 2], 16);
        let mut octets = [0; OCTETS];
        for (place, slot) in octets.iter_mut().enumerate() {
            *slot = octet(place).map_err(|_not_hexadecimal| malformed())?;
        }
        Ok(Self(octets))
    }
}

impl fmt::Display for Serial {
    /// What DER has: as few octets as are needed, and another zero before one that would make the number negative.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let zeros = self.0.iter().take_while(|&&octet| octet == 0).count();
        let significant = &self.0[zeros..];
        if significant.first().is_none_or(|&first| first >= 0x80) {
            f.write_str("00")?;
        }
        significant.iter().try_for_each(|octet| write!(f, "{octet:02x}"))
    }
}

impl fmt::Debug for Serial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Serial({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::verify::hexadecimal;

    #[test]
    fn the_text_is_what_der_has() {
        let longest = [&[0x7f][..], &[0xff; 19]].concat();
        let high = [&[0x00][..], &[0xff; 20]].concat();
        for content in [&[0x00][..], &[0x01], &[0x7f], &[0x00, 0x80], &[0x0a, 0x1b], &longest, &high] {
            let serial = Serial::from_der(content).unwrap();
            assert_eq!(serial.to_string(), hexadecimal(content));
            assert_eq!(serial.to_string().parse(), Ok(serial));
            assert_eq!(Serial::from(serial.octets()), serial);
        }
    }

    #[test]
    fn what_is_no_number_of_twenty_octets_is_refused() {
        for content in [&[][..], &[0x80], &[0xff, 0x01], &[0x01; 21], &[&[0x00][..], &[0x01; 21]].concat()] {
            assert_eq!(Serial::from_der(content), None, "{content:02x?}");
        }
        let long = "1".repeat(41);
        for text in ["", "-1", "0x1", "g", " 1", "1 ", "é", &long] {
            assert!(text.parse::<Serial>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_number_is_the_same_however_it_is_written() {
        let serial = Serial::from_der(&[0x0a, 0xbc]).unwrap();
        for text in ["abc", "0abc", "0ABC", &format!("{:0>60}", "abc")] {
            assert_eq!(text.parse(), Ok(serial), "{text}");
        }
        let mut octets = [0; OCTETS];
        octets[18..].copy_from_slice(&[0x0a, 0xbc]);
        assert_eq!(serial.octets(), octets);
        assert!(Serial::from_der(&[0x01]).unwrap() < serial);
    }
}
