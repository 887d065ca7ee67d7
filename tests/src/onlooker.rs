//! An onlooker for a long time: judges what crosses wires as it comes, and keeps none of it.
//!
//! `wire` records everything and judges at the end; here `tcpdump` writes into a pipe, and each packet is judged once. What
//! counts as plaintext: payload of TCP that is no TLS record, from the first octet of a connection to its last; datagrams;
//! protocols that nobody enforces; and a marker anywhere, also across the borders of packets. ARP and ICMP are the wire's own.
//! A connection may move from one wire to another, as its addresses do. Memory is bounded by what is on its way.

mod judge;

use std::fs::File;
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::Command;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

use anyhow::{Context, Result, anyhow, ensure};
use nix::sys::signal::Signal;
use pcap_file::pcap::PcapReader;

use self::judge::Judge;
use crate::place::Place;
use crate::process::{self, Running};
use crate::wait;
use crate::wire::send_datagram;

/// What was seen until now.
#[derive(Debug, Clone, Default)]
pub struct Seen {
    /// How many packets.
    pub packets: u64,
    /// How many octets, with all headers.
    pub octets: u64,
    /// How many of the packets had something in the clear, or could not be judged.
    pub plaintext: u64,
    /// What was in the first of them.
    pub evidence: Vec<String>,
}

/// Wires that are watched until [`Onlooker::stop`].
#[derive(Debug)]
pub struct Onlooker {
    wires: Vec<Wire>,
    view: Arc<View>,
    place: Place,
}

/// One of them.
#[derive(Debug)]
struct Wire {
    tcpdump: Running,
    reading: JoinHandle<Result<()>>,
    /// An address at the other end, to send the closing packet to.
    far_end: IpAddr,
    closing: String,
}

/// What the wires have in common.
#[derive(Debug)]
struct View(Mutex<(Judge, Seen)>);

impl Onlooker {
    /// Watches devices, each with an address at its other end, and returns when `tcpdump` really does. `markers` are what
    /// nobody may see.
    pub fn start(place: &Place, devices: &[(&str, IpAddr)], markers: &[&str]) -> Result<Onlooker> {
        let view = Arc::new(View(Mutex::new((Judge::new(markers, CLOSING), Seen::default()))));
        let wires = devices.iter().map(|wire| Wire::start(place, *wire, &view)).collect::<Result<_>>()?;
        Ok(Onlooker { wires, view, place: place.clone() })
    }

    /// What was seen until now.
    pub fn seen(&self) -> Seen {
        self.view.look().1.clone()
    }

    /// Ends once everything sent until now was judged. Fails if a packet was missed.
    pub fn stop(self) -> Result<Seen> {
        let namespace = self.place.network()?;
        for Wire { mut tcpdump, reading, far_end, closing } in self.wires {
            wait::until(&closing, wait::patience(), || {
                tcpdump.check_alive()?;
                namespace.run(|| send_datagram(far_end, closing.as_bytes()))?;
                Ok(self.view.look().0.has_closed(&closing).then_some(()))
            })?;
            tcpdump.signal(Signal::SIGINT)?;
            let ended = tcpdump.finish()?;
            ensure!(ended.stderr.contains("\n0 packets dropped by kernel"), "packets were missed: {}", ended.stderr);
            reading.join().map_err(|_panicked| anyhow!("the onlooker panicked"))??;
        }
        let seen = self.view.look().1.clone();
        Ok(seen)
    }
}

/// What closing packets begin with.
const CLOSING: &str = "the end of the wire ";

impl Wire {
    fn start(place: &Place, (device, far_end): (&str, IpAddr), view: &Arc<View>) -> Result<Wire> {
        let pipe = place.directory.join(format!("onlooker-{device}"));
        process::run(Command::new("mkfifo").arg(&pipe))?;
        let path = pipe.to_str().context("the path of the pipe is not text")?;
        // As `wire` does it.
        let arguments =
            ["-i", device, "-U", "-n", "-s", "65600", "--immediate-mode", "-B", "65536", "-Z", "root", "-w", path];
        let mut tcpdump = place.start("tcpdump", &arguments)?;
        let reading = {
            let (pipe, view) = (pipe.clone(), Arc::clone(view));
            thread::spawn(move || view.read(&pipe))
        };
        wait::until("tcpdump to listen", wait::patience(), || {
            tcpdump.check_alive()?;
            Ok(tcpdump.stderr()?.contains("listening on").then_some(()))
        })?;
        Ok(Wire { tcpdump, reading, far_end, closing: format!("{CLOSING}{device}") })
    }
}

impl View {
    fn look(&self) -> MutexGuard<'_, (Judge, Seen)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Judges what `tcpdump` writes, until it ends.
    fn read(&self, pipe: &PathBuf) -> Result<()> {
        let file = File::open(pipe).with_context(|| format!("open {}", pipe.display()))?;
        let mut reader = PcapReader::new(file).context("read the head of the capture")?;
        while let Some(packet) = reader.next_packet() {
            let packet = packet.context("read a captured packet")?;
            let mut view = self.look();
            let (judge, seen) = &mut *view;
            seen.packets += 1;
            seen.octets += packet.data.len() as u64;
            if let Err(why) = judge.see(&packet.data) {
                seen.note(format!("{}.{:03} {why:#}", packet.timestamp.as_secs(), packet.timestamp.subsec_millis()));
            }
        }
        Ok(())
    }
}

impl Seen {
    fn note(&mut self, what: String) {
        const SHOWN: usize = 20;
        self.plaintext += 1;
        if self.evidence.len() < SHOWN {
            self.evidence.push(what);
        }
    }
}
