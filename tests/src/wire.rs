//! The oracle: what an onlooker on the wire between two nodes gets to see.
//!
//! `tcpdump` records every packet of a device. A recording ends with a packet that we send ourselves and wait
//! for in the file, so that "not captured" means "not sent". The judgement rests on reassembled streams and on
//! the raw packets; our own agent is not asked.

use std::fs::{self, File};
use std::io::BufRead;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result, bail, ensure};
use etherparse::{IpNumber, LaxNetSlice, LaxSlicedPacket, TransportSlice};
use nix::sys::signal::Signal;
use pcap_file::pcap::PcapReader;

use crate::place::Place;
use crate::process::Running;
use crate::records;
use crate::streams::{Segment, Stream, reassemble};
use crate::wait;

/// The discard port: nobody listens there, the packet need only cross the wire.
const DISCARD: u16 = 9;

/// A running capture on one device.
#[derive(Debug)]
pub struct Capture {
    tcpdump: Running,
    file: PathBuf,
    place: Place,
    /// An address at the other end of the wire, to send the closing packet to.
    far_end: IpAddr,
}

/// Everything that crossed the wire during a capture.
#[derive(Debug)]
pub struct Recording {
    packets: Vec<Vec<u8>>,
    streams: Vec<Stream>,
}

/// What hides packets of the nodes from an onlooker.
#[derive(Debug, Clone, Copy)]
pub enum Envelope {
    /// ESP (RFC 4303), directly in IP.
    Esp,
    /// Datagrams of WireGuard.
    Wireguard {
        /// On which both ends have them.
        port: u16,
    },
}

impl Capture {
    /// Starts to capture on `device`, and returns when `tcpdump` really does.
    pub fn start(place: &Place, device: &str, far_end: IpAddr) -> Result<Capture> {
        static CAPTURES: AtomicU32 = AtomicU32::new(0);
        let number = CAPTURES.fetch_add(1, Ordering::Relaxed);
        let file = place.directory.join(format!("wire-{number}.pcap"));
        let path = file.to_str().context("the path of the capture is not text")?;
        // `-Z root`: tcpdump would give up root before it opens the file in our private directory.
        // The ring has a place of the longest length for each packet: the more, the shorter; 64 KiB and the headers.
        let arguments =
            ["-i", device, "-U", "-n", "-s", "65600", "--immediate-mode", "-B", "65536", "-Z", "root", "-w", path];
        let mut tcpdump = place.start("tcpdump", &arguments)?;
        wait::until("tcpdump to listen", wait::patience(), || {
            tcpdump.check_alive()?;
            Ok(tcpdump.stderr()?.contains("listening on").then_some(()))
        })?;
        Ok(Capture { tcpdump, file, place: place.clone(), far_end })
    }

    /// Ends the capture once everything sent until now is in it.
    pub fn stop(mut self) -> Result<Recording> {
        let closing = format!("end of {}", self.file.display());
        let namespace = self.place.namespace.as_ref().context("captures run in namespaces")?;
        wait::until("the closing packet in the capture", wait::patience(), || {
            self.tcpdump.check_alive()?;
            namespace.run(|| send_datagram(self.far_end, closing.as_bytes()))?;
            let captured = fs::read(&self.file).context("read the capture")?;
            Ok(find(&captured, closing.as_bytes()).then_some(()))
        })?;
        self.tcpdump.signal(Signal::SIGINT)?;
        let ended = self.tcpdump.finish()?;
        ensure!(ended.stderr.contains("\n0 packets dropped by kernel"), "the capture is incomplete: {}", ended.stderr);
        Recording::read(&self.file)
    }
}

impl Recording {
    /// Reads a capture file.
    fn read(file: &Path) -> Result<Recording> {
        let file = File::open(file).context("open the capture")?;
        let mut reader = PcapReader::new(file).context("read the head of the capture")?;
        let mut packets = Vec::new();
        while let Some(packet) = reader.next_packet() {
            packets.push(packet.context("read a captured packet")?.data.into_owned());
        }
        Ok(Recording::of(packets))
    }

    /// Takes Ethernet frames in the order of capture.
    fn of(packets: Vec<Vec<u8>>) -> Recording {
        let streams = reassemble(packets.iter().filter_map(|packet| segment(packet)).collect());
        Recording { packets, streams }
    }

    /// Whether an onlooker sees `marker`, in a packet or across the borders of packets.
    pub fn contains(&self, marker: &str) -> bool {
        let marker = marker.as_bytes();
        let chunks = self.streams.iter().flat_map(|stream| &stream.chunks);
        self.packets.iter().any(|packet| find(packet, marker))
            || chunks.into_iter().any(|chunk| find(&chunk.bytes, marker))
    }

    /// Fails if an onlooker sees `marker`.
    pub fn prove_absent(&self, marker: &str) -> Result<()> {
        ensure!(!self.contains(marker), "`{marker}` crossed the wire in the clear");
        Ok(())
    }

    /// Fails unless both directions of every connection to `port` are TLS from the first byte to the last, and
    /// at least one connection was relayed, which begins with a handshake both ways, or direct, which begins with
    /// application data.
    pub fn prove_only_tls(&self, port: u16) -> Result<()> {
        let streams: Vec<&Stream> = self.streams_of(port).collect();
        for stream in &streams {
            let bytes =
                stream.whole().with_context(|| format!("{} -> {}: a gap in the capture", stream.from, stream.to))?;
            records::check(bytes).with_context(|| format!("{} -> {}", stream.from, stream.to))?;
        }
        let opening = |opens: fn(&[u8]) -> bool| {
            streams.iter().filter_map(|stream| stream.whole()).filter(|bytes| opens(bytes)).count()
        };
        if opening(records::opens_with_handshake) < 2 && opening(records::opens_with_data) == 0 {
            bail!("no TLS connection to port {port} on the wire, of {} streams in all", self.streams.len());
        }
        Ok(())
    }

    /// Fails unless the server's end of every connection to `port` chose TLS 1.3, and there was one.
    pub fn prove_tls_1_3(&self, port: u16) -> Result<()> {
        let mut answers = self.streams_of(port).filter(|stream| stream.from.port() == port).peekable();
        ensure!(answers.peek().is_some(), "nothing came from port {port}");
        answers.try_for_each(|stream| {
            let version = stream.whole().and_then(records::chosen_version);
            ensure!(version == Some(records::TLS_1_3), "{} -> {} chose {version:x?}", stream.from, stream.to);
            Ok(())
        })
    }

    /// Fails unless every IPv4 packet between these two is in such an envelope, and both have sent some.
    pub fn prove_wrapped(&self, ends: [IpAddr; 2], envelope: Envelope) -> Result<()> {
        let mut seen = [0; 2];
        for packet in &self.packets {
            let Ok(LaxSlicedPacket { net: Some(LaxNetSlice::Ipv4(ip)), transport, .. }) =
                LaxSlicedPacket::from_ethernet(packet)
            else {
                continue;
            };
            let way: [IpAddr; 2] = [ip.header().source_addr().into(), ip.header().destination_addr().into()];
            let [there, back] = [ends, [ends[1], ends[0]]];
            match way {
                _ if way == there => seen[0] += 1,
                _ if way == back => seen[1] += 1,
                _ => continue,
            }
            let is_wrapped = match envelope {
                Envelope::Esp => ip.header().protocol() == IpNumber::ENCAPSULATING_SECURITY_PAYLOAD,
                Envelope::Wireguard { port } => is_wireguard(transport.as_ref(), port),
            };
            ensure!(is_wrapped, "{way:?}: a packet without {envelope:?}: {}", packet.escape_ascii());
        }
        ensure!(!seen.contains(&0), "of the packets between {ends:?}, so many were seen: {seen:?}");
        Ok(())
    }

    /// Fails if a connection to `port` carried a single byte of payload.
    pub fn prove_silent(&self, port: u16) -> Result<()> {
        match self.streams_of(port).find(|stream| !stream.chunks.is_empty()) {
            Some(stream) => bail!("{} -> {} carried bytes", stream.from, stream.to),
            None => Ok(()),
        }
    }

    /// How many packets went to `port`, of TCP and UDP.
    pub fn packets_to(&self, port: u16) -> usize {
        self.packets.iter().filter(|packet| destination_port(packet) == Some(port)).count()
    }

    /// Whether bytes went from one address and port to the other.
    pub fn has_stream(&self, from: SocketAddr, to: SocketAddr) -> bool {
        self.streams.iter().any(|stream| stream.from == from && stream.to == to && !stream.chunks.is_empty())
    }

    /// Both directions of every connection to `port`.
    fn streams_of(&self, port: u16) -> impl Iterator<Item = &Stream> {
        self.streams.iter().filter(move |stream| stream.from.port() == port || stream.to.port() == port)
    }
}

/// The TCP segment in an Ethernet frame, if there is one.
///
/// The lax parser also takes what segmentation offload leaves behind: packets whose length field is 0.
pub fn segment(frame: &[u8]) -> Option<Segment> {
    let packet = LaxSlicedPacket::from_ethernet(frame).ok()?;
    let (from, to): (IpAddr, IpAddr) = match packet.net? {
        LaxNetSlice::Ipv4(ip) => (ip.header().source_addr().into(), ip.header().destination_addr().into()),
        LaxNetSlice::Ipv6(ip) => (ip.header().source_addr().into(), ip.header().destination_addr().into()),
        LaxNetSlice::Arp(_) => return None,
    };
    let TransportSlice::Tcp(tcp) = packet.transport? else { return None };
    Some(Segment {
        from: SocketAddr::new(from, tcp.source_port()),
        to: SocketAddr::new(to, tcp.destination_port()),
        sequence: tcp.sequence_number(),
        syn: tcp.syn(),
        payload: tcp.payload().to_vec(),
    })
}

/// A message of WireGuard begins with its type, in four bytes of which the last three are 0.
fn is_wireguard(transport: Option<&TransportSlice<'_>>, port: u16) -> bool {
    let Some(TransportSlice::Udp(udp)) = transport else { return false };
    [udp.source_port(), udp.destination_port()] == [port; 2] && matches!(udp.payload(), [1..=4, 0, 0, 0, ..])
}

fn destination_port(frame: &[u8]) -> Option<u16> {
    match LaxSlicedPacket::from_ethernet(frame).ok()?.transport? {
        TransportSlice::Tcp(tcp) => Some(tcp.destination_port()),
        TransportSlice::Udp(udp) => Some(udp.destination_port()),
        _ => None,
    }
}

pub(crate) fn send_datagram(to: IpAddr, payload: &[u8]) -> Result<()> {
    let any: IpAddr = if to.is_ipv4() { [0; 4].into() } else { [0u16; 8].into() };
    let socket = UdpSocket::bind((any, 0)).context("open a datagram socket")?;
    // The far end answers "port unreachable", which a second send on the same socket would report.
    socket.send_to(payload, (to, DISCARD)).with_context(|| format!("send a datagram to {to}")).map(drop)
}

/// The standard library's own search for an octet is fast in every build, unlike a loop of ours.
pub(crate) fn find(haystack: &[u8], needle: &[u8]) -> bool {
    let Some(&first) = needle.first() else { return true };
    let mut rest = haystack;
    // Reading from memory does not fail.
    while let Ok(skipped) = rest.skip_until(first)
        && skipped > 0
    {
        let place = haystack.len() - rest.len() - 1;
        if haystack[place..].starts_with(needle) {
            return true;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    use etherparse::{IpHeaders, PacketBuilder, PacketBuilderStep};

    /// A frame from port 40000 to port 80, or back; the stream begins at sequence number 1.
    fn frame(ports: (u16, u16), sequence: u32, payload: &[u8]) -> Vec<u8> {
        let builder = PacketBuilder::ethernet2([2; 6], [4; 6]).ipv4([10, 0, 0, 1], [10, 0, 0, 1], 64);
        let tcp = builder.tcp(ports.0, ports.1, sequence, 1000);
        let tcp = if payload.is_empty() { tcp.syn() } else { tcp };
        let mut bytes = Vec::new();
        tcp.write(&mut bytes, payload).unwrap();
        bytes
    }

    fn request(sequence: u32, payload: &[u8]) -> Vec<u8> {
        frame((40000, 80), sequence, payload)
    }

    fn answer(sequence: u32, payload: &[u8]) -> Vec<u8> {
        frame((80, 40000), sequence, payload)
    }

    const HELLO: &[u8] = &[22, 3, 1, 0, 2, 1, 0];
    const DATA: &[u8] = &[23, 3, 3, 0, 3, 9, 9, 9];

    #[test]
    fn sees_a_marker_inside_one_packet() {
        let recording = Recording::of(vec![request(0, b""), request(1, b"GET /secret")]);
        assert!(recording.contains("secret"));
        recording.prove_absent("secret").unwrap_err();
        recording.prove_absent("public").unwrap();
    }

    #[test]
    fn sees_a_marker_across_packets_out_of_order() {
        let recording = Recording::of(vec![request(0, b""), request(8, b"cret"), request(1, b"GET /se")]);
        assert!(recording.contains("secret"));
    }

    #[test]
    fn sees_a_marker_behind_a_gap() {
        assert!(Recording::of(vec![request(0, b""), request(500, b"sec"), request(503, b"ret")]).contains("secret"));
    }

    #[test]
    fn takes_records_in_both_directions_for_tls() {
        let frames = vec![request(0, b""), request(1, HELLO), answer(0, b""), answer(1, HELLO), answer(8, DATA)];
        Recording::of(frames).prove_only_tls(80).unwrap();
    }

    #[test]
    fn finds_plaintext_behind_records() {
        let frames = vec![request(0, b""), request(1, HELLO), answer(0, b""), answer(1, HELLO), answer(8, b"hello")];
        Recording::of(frames).prove_only_tls(80).unwrap_err();
    }

    #[test]
    fn does_not_take_a_capture_with_a_gap_for_tls() {
        let frames = vec![request(0, b""), request(1, HELLO), answer(0, b""), answer(1, HELLO), answer(20, DATA)];
        Recording::of(frames).prove_only_tls(80).unwrap_err();
    }

    #[test]
    fn does_not_take_silence_for_tls() {
        Recording::of(vec![request(0, b""), answer(0, b"")]).prove_only_tls(80).unwrap_err();
        Recording::of(vec![]).prove_only_tls(80).unwrap_err();
    }

    #[test]
    fn knows_silence_from_a_single_byte() {
        Recording::of(vec![request(0, b""), answer(0, b"")]).prove_silent(80).unwrap();
        Recording::of(vec![request(0, b""), request(1, b"x")]).prove_silent(80).unwrap_err();
    }

    const ENDS: [IpAddr; 2] = [IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1)), IpAddr::V4(Ipv4Addr::new(10, 0, 0, 2))];

    /// A frame from one of them to the other, made by `write`.
    fn between(from: u8, to: u8, write: impl FnOnce(PacketBuilderStep<IpHeaders>, &mut Vec<u8>)) -> Vec<u8> {
        let mut bytes = Vec::new();
        let ip = PacketBuilder::ethernet2([2; 6], [4; 6]).ipv4([10, 0, 0, from], [10, 0, 0, to], 64);
        write(ip, &mut bytes);
        bytes
    }

    #[test]
    fn takes_packets_in_envelopes_and_no_others() {
        let esp = |from, to| between(from, to, |ip, out| ip.write(out, IpNumber(50), b"xxxxxxxx").unwrap());
        let datagram = |from, to, first| {
            between(from, to, |ip, out| ip.udp(51820, 51820).write(out, &[first, 0, 0, 0, 9, 9]).unwrap())
        };
        let wireguard = Envelope::Wireguard { port: 51820 };
        let prove = |frames, envelope| Recording::of(frames).prove_wrapped(ENDS, envelope);
        prove(vec![esp(1, 2), esp(2, 1)], Envelope::Esp).unwrap();
        prove(vec![datagram(1, 2, 1), datagram(2, 1, 4)], wireguard).unwrap();
        // Others may talk as they like.
        prove(vec![esp(1, 2), datagram(1, 3, 9), esp(2, 1)], Envelope::Esp).unwrap();

        prove(vec![esp(1, 2)], Envelope::Esp).unwrap_err();
        prove(vec![esp(1, 2), esp(2, 1), datagram(2, 1, 4)], Envelope::Esp).unwrap_err();
        prove(vec![datagram(1, 2, 4), datagram(2, 1, 9)], wireguard).unwrap_err();
        prove(vec![datagram(1, 2, 4), datagram(2, 1, 4), esp(1, 2)], wireguard).unwrap_err();
    }

    #[test]
    fn silence_is_no_tls_1_3_and_neither_is_a_handshake_without_a_version() {
        Recording::of(vec![]).prove_tls_1_3(80).unwrap_err();
        Recording::of(vec![request(0, b""), request(1, HELLO), answer(0, b""), answer(1, HELLO)])
            .prove_tls_1_3(80)
            .unwrap_err();
    }
}
