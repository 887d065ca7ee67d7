//! Where a structure of the running kernel has a member, from the kernel's own description of its types (BTF, linux/btf.h).
//!
//! aya knows where functions are, and keeps members to itself.

use std::fs;

/// The kernel's description of its types.
const KERNEL: &str = "/sys/kernel/btf/vmlinux";
const MAGIC: u16 = 0xeb9f;

/// What the running kernel says of its types; nothing, where it does not.
pub(super) struct Description(Vec<u8>);

impl Description {
    pub(super) fn of_kernel() -> Self {
        Self(fs::read(KERNEL).unwrap_or_default())
    }

    /// Octets from the start of a structure to one of its own members. `None`: the kernel does not say.
    pub(super) fn offset(&self, structure: &str, member: &str) -> Option<u32> {
        offset(&self.0, structure, member)
    }
}

fn offset(btf: &[u8], structure: &str, member: &str) -> Option<u32> {
    let (mut types, strings) = sections(btf)?;
    while !types.is_empty() {
        let kind = Type::take(&mut types)?;
        let details = take(&mut types, kind.details()?)?;
        if kind.number == Type::STRUCT && name(strings, kind.name)? == structure {
            return kind.members(details).find_map(|(at, bits)| (name(strings, at)? == member).then_some(bits / 8));
        }
    }
    None
}

/// The types, and the names that they refer to.
fn sections(btf: &[u8]) -> Option<(&[u8], &[u8])> {
    let magic = u16::from_ne_bytes(*btf.first_chunk()?);
    if magic != MAGIC {
        return None;
    }
    let field = |number: usize| usize::try_from(word(btf, 4 + 4 * number)?).ok();
    let (header, types, length) = (field(0)?, field(1)?, field(2)?);
    let (strings, size) = (field(3)?, field(4)?);
    let section = |start: usize, length| btf.get(header.checked_add(start)?..)?.get(..length);
    Some((section(types, length)?, section(strings, size)?))
}

/// `struct btf_type`.
struct Type {
    name: u32,
    number: u32,
    elements: usize,
    /// The offsets of members share their words with the sizes of bit fields.
    has_bit_fields: bool,
}

impl Type {
    const STRUCT: u32 = 4;

    fn take(types: &mut &[u8]) -> Option<Self> {
        let words = take(types, 12)?;
        let info = word(words, 4)?;
        Some(Self {
            name: word(words, 0)?,
            number: (info >> 24) & 0x1f,
            elements: usize::try_from(info & 0xffff).ok()?,
            has_bit_fields: info >> 31 == 1,
        })
    }

    /// Octets that follow; `None` for a kind that this does not know, and so cannot step over.
    fn details(&self) -> Option<usize> {
        let each = match self.number {
            // Pointers, forward declarations, type definitions, qualifiers, functions, floats, tags of types.
            2 | 7..=12 | 16 | 18 => return Some(0),
            // Integers, variables, tags of declarations.
            1 | 14 | 17 => return Some(4),
            // Arrays.
            3 => return Some(12),
            // Structures, unions, sections, 64-bit enumerations.
            Self::STRUCT | 5 | 15 | 19 => 12,
            // Enumerations, parameters.
            6 | 13 => 8,
            _ => return None,
        };
        self.elements.checked_mul(each)
    }

    /// Where the name of each member is, and its offset in bits.
    fn members(&self, details: &[u8]) -> impl Iterator<Item = (u32, u32)> {
        let mask = if self.has_bit_fields { 0x00ff_ffff } else { u32::MAX };
        details.chunks_exact(12).filter_map(move |member| Some((word(member, 0)?, word(member, 8)? & mask)))
    }
}

fn name(strings: &[u8], at: u32) -> Option<&str> {
    let rest = strings.get(usize::try_from(at).ok()?..)?;
    std::str::from_utf8(rest.split(|&octet| octet == 0).next()?).ok()
}

fn take<'a>(bytes: &mut &'a [u8], count: usize) -> Option<&'a [u8]> {
    let (taken, rest) = bytes.split_at_checked(count)?;
    *bytes = rest;
    Some(taken)
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

#[cfg(test)]
mod tests {
    use super::{Description, offset};

    #[test]
    fn the_kernel_says_where_a_socket_is_in_a_socket_of_its_users() {
        assert_eq!(Description::of_kernel().offset("socket", "sk"), Some(24));
    }

    #[test]
    fn what_is_not_there_is_not_found() {
        let description = Description::of_kernel();
        assert_eq!(description.offset("socket", "no such member"), None);
        assert_eq!(description.offset("no such structure", "sk"), None);
    }

    #[test]
    fn every_beginning_of_a_description_is_refused_or_read_without_harm() {
        let whole = std::fs::read(super::KERNEL).expect("read the kernel's types");
        for end in (0..4_096).chain([whole.len() / 2, whole.len() - 1]) {
            assert_eq!(offset(&whole[..end], "socket", "sk"), None, "cut at {end}");
        }
    }
}
