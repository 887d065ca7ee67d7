//! The oracle: what an onlooker on the wire between the machines sees, captured by tcpdump on one of them.
//!
//! The marked payload is one marker, repeated (`suites::apps`): every segment that carries a piece of it in the clear
//! holds at least one whole marker, so no stream needs to be put together. The control experiments of the suites prove
//! that this oracle does see the marker when nothing hides it.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context, Result, ensure};
use etherparse::{LaxNetSlice, LaxSlicedPacket, TransportSlice};
use pcap_file::pcap::PcapReader;

use super::node::Node;

/// The device of the wire on both machines.
const DEVICE: &str = "eth1";
/// The last packet of every capture carries this.
const CLOSING: &str = "end-of-capture";
/// The type of a TLS handshake record, and the major version that every TLS has: what each direction begins with.
const HANDSHAKE: [u8; 2] = [22, 3];

/// A capture that goes on.
#[derive(Debug)]
pub(super) struct Capture<'world> {
    at: &'world Node<'world>,
    from: &'world Node<'world>,
}

/// A capture that has ended: the raw frames.
#[derive(Debug)]
pub(super) struct Recording(Vec<Vec<u8>>);

/// One TCP segment with payload.
struct Segment<'frame> {
    from: SocketAddr,
    to: SocketAddr,
    payload: &'frame [u8],
}

impl<'world> Capture<'world> {
    /// Starts to capture what reaches and leaves `at`, and returns when tcpdump really does.
    pub(super) fn start(at: &'world Node<'world>, from: &'world Node<'world>) -> Result<Self> {
        at.check(&format!(
            "rm -f /run/wire.pcap /run/wire.log
             systemd-run --quiet --collect --unit=wire --property=StandardError=file:/run/wire.log \
                 tcpdump -i {DEVICE} -n -s 0 -U --immediate-mode -B 16384 -Z root -w /run/wire.pcap"
        ))?;
        at.wait_until("tcpdump to listen", "grep -q 'listening on' /run/wire.log")?;
        Ok(Self { at, from })
    }

    /// Ends the capture once everything that was sent until now is in it.
    pub(super) fn stop(self) -> Result<Recording> {
        // A datagram to the discard port: behind everything else on the same wire.
        self.from.check(&format!("echo {CLOSING} | socat -u - UDP:{}:9", self.at.ipv4))?;
        self.at.wait_until("the closing packet in the capture", &format!("grep -qa {CLOSING} /run/wire.pcap"))?;
        self.at.check("systemctl stop wire")?;
        let log = self.at.check("cat /run/wire.log")?;
        let log = String::from_utf8_lossy(&log);
        ensure!(log.contains("\n0 packets dropped by kernel"), "the capture is incomplete: {log}");
        Recording::read(&self.at.check("cat /run/wire.pcap")?)
    }
}

impl Recording {
    fn read(file: &[u8]) -> Result<Self> {
        let mut reader = PcapReader::new(file).context("read the head of the capture")?;
        let mut frames = Vec::new();
        while let Some(packet) = reader.next_packet() {
            frames.push(packet.context("read a captured packet")?.data.into_owned());
        }
        Ok(Self(frames))
    }

    /// How many frames hold `marker`, in whatever protocol.
    pub(super) fn frames_with(&self, marker: &str) -> usize {
        self.0.iter().filter(|frame| frame.windows(marker.len()).any(|window| window == marker.as_bytes())).count()
    }

    /// Fails unless both directions of every TCP connection to `port` begin with a TLS handshake record, carry at
    /// least `least` bytes of payload in all, and show no `marker`.
    pub(super) fn prove_hidden(&self, marker: &str, port: u16, least: usize) -> Result<()> {
        ensure!(self.frames_with(marker) == 0, "`{marker}` crossed the wire in the clear");
        let mut begun: Vec<(SocketAddr, SocketAddr)> = Vec::new();
        let mut carried = 0;
        for segment in self.segments_of(port) {
            carried += segment.payload.len();
            let direction = (segment.from, segment.to);
            if !begun.contains(&direction) {
                let (from, to) = direction;
                ensure!(segment.payload.starts_with(&HANDSHAKE), "{from} -> {to} does not begin with a TLS handshake");
                begun.push(direction);
            }
        }
        ensure!(begun.len() >= 2, "no connection to port {port} on the wire");
        ensure!(carried >= least, "only {carried} bytes to and from port {port} on the wire");
        Ok(())
    }

    /// The segments with payload of the connections to `port`, in the order of capture.
    fn segments_of(&self, port: u16) -> impl Iterator<Item = Segment<'_>> {
        let segments = self.0.iter().filter_map(|frame| segment(frame));
        segments.filter(move |segment| segment.from.port() == port || segment.to.port() == port)
    }
}

/// The TCP payload in an Ethernet frame, if there is any.
///
/// The lax parser also takes frames whose length field segmentation offload left at 0.
fn segment(frame: &[u8]) -> Option<Segment<'_>> {
    let packet = LaxSlicedPacket::from_ethernet(frame).ok()?;
    let (from, to): (IpAddr, IpAddr) = match packet.net? {
        LaxNetSlice::Ipv4(ip) => (ip.header().source_addr().into(), ip.header().destination_addr().into()),
        LaxNetSlice::Ipv6(ip) => (ip.header().source_addr().into(), ip.header().destination_addr().into()),
        LaxNetSlice::Arp(_) => return None,
    };
    let TransportSlice::Tcp(tcp) = packet.transport? else { return None };
    let payload = tcp.payload();
    let (from, to) = (SocketAddr::new(from, tcp.source_port()), SocketAddr::new(to, tcp.destination_port()));
    (!payload.is_empty()).then_some(Segment { from, to, payload })
}

#[cfg(test)]
mod tests {
    use super::*;
    use etherparse::PacketBuilder;

    fn frame(ports: (u16, u16), payload: &[u8]) -> Vec<u8> {
        let builder = PacketBuilder::ethernet2([2; 6], [4; 6]).ipv4([10, 0, 0, 1], [10, 0, 0, 1], 64);
        let mut bytes = Vec::new();
        builder.tcp(ports.0, ports.1, 1, 1000).write(&mut bytes, payload).unwrap();
        bytes
    }

    fn request(payload: &[u8]) -> Vec<u8> {
        frame((40000, 80), payload)
    }

    fn answer(payload: &[u8]) -> Vec<u8> {
        frame((80, 40000), payload)
    }

    const HELLO: &[u8] = &[22, 3, 1, 0, 2, 1, 0];
    const DATA: &[u8] = &[23, 3, 3, 0, 3, 9, 9, 9];

    #[test]
    fn takes_two_handshakes_and_data_for_hidden() {
        let frames = vec![request(b""), request(HELLO), answer(HELLO), request(DATA), answer(DATA)];
        Recording(frames).prove_hidden("secret", 80, 16).unwrap();
    }

    #[test]
    fn sees_a_marker_in_any_frame() {
        let recording = Recording(vec![request(HELLO), answer(HELLO), frame((1, 2), b"a secret")]);
        assert_eq!(recording.frames_with("secret"), 1);
        recording.prove_hidden("secret", 80, 0).unwrap_err();
    }

    #[test]
    fn does_not_take_other_bytes_for_a_handshake() {
        Recording(vec![request(HELLO), answer(b"HTTP/1.1 200 OK")]).prove_hidden("secret", 80, 0).unwrap_err();
    }

    #[test]
    fn does_not_take_silence_or_too_little_for_hidden() {
        Recording(vec![request(b""), answer(b"")]).prove_hidden("secret", 80, 0).unwrap_err();
        Recording(vec![request(HELLO), answer(HELLO)]).prove_hidden("secret", 80, 15).unwrap_err();
    }
}
