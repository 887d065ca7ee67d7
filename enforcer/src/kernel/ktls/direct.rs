//! Kernel TLS under an application's own socket: whether it is untouched, its keys, its gate, and the record that an
//! application leaves open.
//!
//! All of it may block: the kernel holds a socket's lock while it copies from an application's memory, and a hostile
//! application can make that take as long as it likes (a page that comes from its own FUSE file system, or from
//! userfaultfd). So none of it belongs on a thread that others wait for.

use std::io;
use std::mem;
use std::os::fd::{AsFd, AsRawFd};

use ktls_core::{AeadKey, ConnectionTrafficSecrets, ProtocolVersion, TlsCryptoInfoRx, TlsCryptoInfoTx};
use rustls::CipherSuite;
use zeroize::Zeroizing;

use super::Error;

/// Octets of an AES-GCM nonce that `iv` begins with and that the kernel calls the salt.
const SALT: usize = 4;
/// `ContentType.application_data` of RFC 8446 5.1.
const APPLICATION_DATA: u8 = 23;

/// The key of one direction, for records that are counted from 0.
///
/// The caller erases what is borrowed here. `ktls-core` erases the key in both its structures when it drops them, but
/// not the IV and salt (no secrets without the key), nor what the compiler leaves on the stack when it moves these
/// structures by value: their `repr(C)` layout is private, so that they cannot be filled in place.
#[derive(Clone, Copy)]
pub struct Key<'a> {
    /// A TLS 1.3 suite.
    pub suite: CipherSuite,
    /// 16 octets for AES-128-GCM, 32 for AES-256-GCM and ChaCha20-Poly1305.
    pub key: &'a [u8],
    /// The `iv` of RFC 8446 7.3.
    pub iv: &'a [u8; 12],
}

impl Key<'_> {
    fn secrets(&self) -> Result<ConnectionTrafficSecrets, ktls_core::Error> {
        let unusable = || {
            let words = format!("{:?} with a key of {} octets", self.suite, self.key.len());
            ktls_core::Error::CryptoMaterial(io::Error::new(io::ErrorKind::InvalidInput, words))
        };
        let (salt, rest) = split(self.iv);
        match self.suite {
            CipherSuite::TLS13_AES_128_GCM_SHA256 => {
                let key = AeadKey::new(self.key.try_into().map_err(|_wrong_length| unusable())?);
                Ok(ConnectionTrafficSecrets::Aes128Gcm { key, iv: rest, salt })
            }
            CipherSuite::TLS13_AES_256_GCM_SHA384 => {
                let key = AeadKey::new(self.key.try_into().map_err(|_wrong_length| unusable())?);
                Ok(ConnectionTrafficSecrets::Aes256Gcm { key, iv: rest, salt })
            }
            CipherSuite::TLS13_CHACHA20_POLY1305_SHA256 => {
                let key = AeadKey::new(self.key.try_into().map_err(|_wrong_length| unusable())?);
                Ok(ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv: *self.iv, salt: [] })
            }
            _ => Err(unusable()),
        }
    }
}

/// From here on the kernel encrypts what the application sends. The socket is [`super::attach`]ed, and nothing was
/// sent before ([`unsent`]).
///
/// # Errors
///
/// [`Error`]: a suite that is not one of TLS 1.3, a key of the wrong length, or the kernel's.
pub fn send_with(socket: &impl AsFd, key: &Key<'_>) -> Result<(), Error> {
    let failed = |cause| Error { part: "sending keys", cause };
    let keys = key.secrets().map_err(failed)?;
    let info = TlsCryptoInfoTx::new(ProtocolVersion::TLSv1_3, keys, 0).map_err(failed)?;
    info.set(&socket.as_fd()).map_err(failed)
}

/// From here on the kernel decrypts what the application receives. The socket is [`super::attach`]ed, and nothing was
/// received before ([`unread`]).
///
/// # Errors
///
/// As with [`send_with`].
pub fn receive_with(socket: &impl AsFd, key: &Key<'_>) -> Result<(), Error> {
    let failed = |cause| Error { part: "receiving keys", cause };
    let keys = key.secrets().map_err(failed)?;
    let info = TlsCryptoInfoRx::new(ProtocolVersion::TLSv1_3, keys, 0).map_err(failed)?;
    info.set(&socket.as_fd()).map_err(failed)?;
    // Only saves a copy: without it (before Linux 6.0) everything works.
    let _set = expect_no_padding(socket);
    Ok(())
}

/// Decrypts right into the reader's buffer, in the expectation that the peer pads no record (`TLS_RX_EXPECT_NO_PAD`,
/// Linux 6.0). Padded records still work; each costs a second decryption.
pub(in crate::kernel) fn expect_no_padding(socket: &impl AsFd) -> io::Result<()> {
    set_option(socket, (libc::SOL_TLS, libc::TLS_RX_EXPECT_NO_PAD), 1)
}

/// Octets that the application has written and the peer has not acknowledged (SIOCOUTQ); a FIN counts as one. The
/// queue of a gated socket must be empty before keys go in.
///
/// # Errors
///
/// The operating system's; `EINVAL` for a listening socket.
pub fn unsent(socket: &impl AsFd) -> io::Result<u32> {
    // SIOCOUTQ has the number of TIOCOUTQ, which is how libc knows it.
    queued(socket, libc::TIOCOUTQ)
}

/// Octets that have arrived and the application has not read (FIONREAD).
///
/// # Errors
///
/// The operating system's; `EINVAL` for a listening socket.
pub fn unread(socket: &impl AsFd) -> io::Result<u32> {
    queued(socket, libc::FIONREAD)
}

fn queued(socket: &impl AsFd, request: libc::c_ulong) -> io::Result<u32> {
    let mut octets: libc::c_int = 0;
    // SAFETY: the descriptor is open while `socket` is borrowed; both requests write one int, to a live one.
    let result = unsafe { libc::ioctl(socket.as_fd().as_raw_fd(), request, &raw mut octets) };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    u32::try_from(octets).map_err(io::Error::other)
}

/// Sets `TCP_NOTSENT_LOWAT`. [`u32::MAX`] opens the gate, and the kernel wakes those who wait to write. 0 leaves it to
/// the namespace (`Namespace::set_notsent_lowat`): the gate is shut only where that is 0 too. Any other number is
/// an open gate, also when the application itself has set it.
///
/// # Errors
///
/// The operating system's.
pub fn set_write_gate(socket: &impl AsFd, lowat: u32) -> io::Result<()> {
    // The option is an unsigned number that travels as an int.
    set_option(socket, (libc::IPPROTO_TCP, libc::TCP_NOTSENT_LOWAT), lowat.cast_signed())
}

/// Makes the send buffer so large that it is never full in the middle of a record: kernel TLS would drop the rest of that
/// record when the socket is closed. What may wait in it is limited by [`set_write_gate`].
///
/// # Errors
///
/// The operating system's; `EPERM` without CAP_NET_ADMIN in the first user namespace.
pub fn enlarge_send_buffer(socket: &impl AsFd) -> io::Result<()> {
    /// Half of it in octets, as SO_SNDBUF is given; all of it is what TCP grows to by itself (`net.ipv4.tcp_wmem`).
    const HALF: libc::c_int = 2 << 20;
    set_option(socket, (libc::SOL_SOCKET, libc::SO_SNDBUFFORCE), HALF)
}

/// The key of one direction, as the kernel has it.
pub struct Installed {
    /// What it is for.
    pub suite: CipherSuite,
    /// Key, then `iv`, both as in [`Key`].
    pub octets: Zeroizing<Vec<u8>>,
}

/// The keys of a socket that has some.
pub struct InstalledKeys {
    /// What it sends with.
    pub send: Installed,
    /// What it receives with.
    pub receive: Installed,
}

/// Asks the kernel for the keys of a socket (Linux 5.14 for the receiving one).
///
/// # Errors
///
/// The operating system's; `EBUSY` when there are no keys.
pub fn keys(socket: &impl AsFd) -> io::Result<InstalledKeys> {
    let installed = |option| Info::of(socket, option)?.key();
    Ok(InstalledKeys { send: installed(libc::TLS_TX)?, receive: installed(libc::TLS_RX)? })
}

/// How many records the socket has sent with its key: the number of the next one.
///
/// # Errors
///
/// As with [`keys`].
pub fn records_sent(socket: &impl AsFd) -> io::Result<u64> {
    Info::of(socket, libc::TLS_TX).map(|info| info.number())
}

/// One of the structures `tls12_crypto_info_*` of linux/tls.h: version and cipher, `iv`, key, salt, number of the next
/// record. The parts without the first two are 8, 16, 4, 8 octets for AES-128-GCM, 8, 32, 4, 8 for AES-256-GCM, and
/// 12, 32, 0, 8 for ChaCha20-Poly1305.
struct Info {
    octets: Zeroizing<[u8; 56]>,
    length: usize,
}

impl Info {
    /// The lengths of the structures.
    const LENGTHS: [usize; 2] = [40, 56];
    /// Of version and cipher.
    const HEAD: usize = 4;
    /// Of the number of the next record.
    const NUMBER: usize = 8;

    /// As `TLS_TX` or `TLS_RX` of getsockopt tells. The kernel wants the length of the very cipher.
    fn of(socket: &impl AsFd, option: libc::c_int) -> io::Result<Self> {
        let mut wrong = io::Error::from(io::ErrorKind::Unsupported);
        for length in Self::LENGTHS {
            let mut octets = Zeroizing::new([0_u8; 56]);
            let mut written = libc::socklen_t::try_from(length).map_err(io::Error::other)?;
            let (descriptor, at) = (socket.as_fd().as_raw_fd(), octets.as_mut_ptr().cast());
            // SAFETY: the buffer lives, and has at least as many octets as the kernel is told.
            match unsafe { libc::getsockopt(descriptor, libc::SOL_TLS, option, at, &raw mut written) } {
                0 => return Ok(Self { octets, length }),
                _ => wrong = io::Error::last_os_error(),
            }
        }
        Err(wrong)
    }

    fn number(&self) -> u64 {
        self.octets[..self.length].last_chunk().map_or(0, |number| u64::from_be_bytes(*number))
    }

    fn key(&self) -> io::Result<Installed> {
        let [_, _, cipher @ ..] = self.octets.first_chunk::<{ Self::HEAD }>().copied().unwrap_or_default();
        let (suite, iv, salt) = match u16::from_ne_bytes(cipher) {
            libc::TLS_CIPHER_AES_GCM_128 => (CipherSuite::TLS13_AES_128_GCM_SHA256, 8, SALT),
            libc::TLS_CIPHER_AES_GCM_256 => (CipherSuite::TLS13_AES_256_GCM_SHA384, 8, SALT),
            libc::TLS_CIPHER_CHACHA20_POLY1305 => (CipherSuite::TLS13_CHACHA20_POLY1305_SHA256, 12, 0),
            _ => return Err(io::ErrorKind::Unsupported.into()),
        };
        let (iv, rest) = self.octets[Self::HEAD..self.length - Self::NUMBER].split_at(iv);
        let (key, salt) = rest.split_at(rest.len() - salt);
        Ok(Installed { suite, octets: Zeroizing::new([key, salt, iv].concat()) })
    }
}

/// Makes the kernel send the record that the application's MSG_MORE left open, and which it would lose when the socket
/// is closed. Does nothing when there is none: announcing the type of a record ends the one before it, and a message
/// without payload begins no new one.
///
/// Waits as long as another thread is inside a send on this socket.
///
/// # Errors
///
/// The operating system's; `WouldBlock` when the send buffer is full, `EINVAL` or so when the socket has no sending keys.
pub fn flush_open_record(socket: &impl AsFd) -> io::Result<()> {
    let mut control = RecordType::application_data();
    // SAFETY: a msghdr of zeros is a valid message without address, payload and control data.
    let mut message: libc::msghdr = unsafe { mem::zeroed() };
    message.msg_control = (&raw mut control).cast();
    message.msg_controllen = size_of::<RecordType>();
    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    // SAFETY: the message and the control data that it points to live until the call returns.
    match unsafe { libc::sendmsg(socket.as_fd().as_raw_fd(), &raw const message, flags) } {
        0.. => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// A control message of one octet, `TLS_SET_RECORD_TYPE`.
#[repr(C)]
struct RecordType {
    header: libc::cmsghdr,
    kind: u8,
    padding: [u8; 7],
}

const _: () = assert!(size_of::<RecordType>() == 24);

impl RecordType {
    fn application_data() -> Self {
        let header = libc::cmsghdr {
            cmsg_len: mem::offset_of!(Self, padding),
            cmsg_level: libc::SOL_TLS,
            cmsg_type: libc::TLS_SET_RECORD_TYPE,
        };
        Self { header, kind: APPLICATION_DATA, padding: [0; 7] }
    }
}

fn set_option(socket: &impl AsFd, (level, option): (libc::c_int, libc::c_int), value: libc::c_int) -> io::Result<()> {
    /// Of an int.
    const LENGTH: libc::socklen_t = 4;
    let descriptor = socket.as_fd().as_raw_fd();
    // SAFETY: the descriptor is open while `socket` is borrowed; the kernel reads LENGTH octets of a live int.
    match unsafe { libc::setsockopt(descriptor, level, option, (&raw const value).cast(), LENGTH) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

fn split(&[a, b, c, d, ref rest @ ..]: &[u8; 12]) -> ([u8; SALT], [u8; 8]) {
    ([a, b, c, d], *rest)
}

#[cfg(test)]
mod tests;
