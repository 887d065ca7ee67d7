//! What this kernel, on this machine, can do for us. Each ability is found out by doing the thing and undoing it, not
//! by a version number: distributions build kernels differently, and containers take rights away.
//!
//! Probed once at start. The result says what follows; nothing here decides.

mod features;
mod ktls;

use std::error::Error;
use std::fs;

use aya::maps::MapType;
use aya::programs::ProgramType;
use aya::sys::{is_map_supported, is_program_supported};
use serde::Serialize;

pub use features::{Feature, Need};

use super::destroy;

/// The maps of the programs. Without socket storage, which every kernel has that has sk_lookup programs (Linux 5.2 and 5.9):
/// what comes of trying it waits for two grace periods of RCU, more than all others together take.
const MAPS: [(MapType, &str); 6] = [
    (MapType::Hash, "hash"),
    (MapType::LruHash, "LRU hash"),
    (MapType::RingBuf, "ring buffer"),
    (MapType::PerCpuArray, "per-CPU array"),
    (MapType::LpmTrie, "prefix trie"),
    (MapType::SockHash, "socket hash"),
];

// Numbers of include/uapi/linux/capability.h.
const CAP_NET_ADMIN: u32 = 12;
const CAP_SYS_PTRACE: u32 = 19;
const CAP_SYS_ADMIN: u32 = 21;
const CAP_BPF: u32 = 39;

/// What the kernel can do.
#[derive(Clone, Debug, Serialize)]
pub struct Abilities {
    /// The release, as in `uname -r`.
    pub release: String,
    /// One for each [`Feature`], in its order.
    pub abilities: Vec<Ability>,
}

/// One thing that the kernel can or cannot do.
#[derive(Clone, Debug, Serialize)]
pub struct Ability {
    /// What was tried.
    #[serde(skip)]
    pub feature: Feature,
    /// Its name, for people.
    pub name: &'static str,
    /// What needs it.
    pub need: Need,
    /// What came of it.
    #[serde(flatten)]
    pub outcome: Outcome,
    /// What follows.
    pub consequence: &'static str,
}

/// What came of a probe.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "outcome", rename_all = "lowercase")]
pub enum Outcome {
    /// It worked.
    Able,
    /// It did not.
    Unable {
        /// The kernel's answer.
        error: String,
    },
}

/// Probes every [`Feature`].
#[must_use]
pub fn probe() -> Abilities {
    Abilities {
        release: release(),
        abilities: Feature::ALL.iter().map(|&feature| Ability::new(feature, attempt(feature))).collect(),
    }
}

/// As in `uname -r`.
fn release() -> String {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease");
    release.map_or_else(|_unreadable| "unknown".to_owned(), |release| release.trim().to_owned())
}

/// Whether programs may set options of sockets with kernel TLS. Older kernels ask for plain TCP's own functions, newer
/// ones for the protocol; only an open connection of a workload would show which.
fn can_set_options_under_tls(release: &str) -> bool {
    const SINCE: (u32, u32) = (6, 3);
    let mut numbers = release.split(['.', '-']).map_while(|number| number.parse().ok());
    numbers.next().zip(numbers.next()).is_some_and(|version| version >= SINCE)
}

impl Abilities {
    /// The ability for one feature.
    ///
    /// # Errors
    ///
    /// The kernel's answer, if it is not there.
    pub fn of(&self, feature: Feature) -> Result<(), &str> {
        let ability = self.abilities.iter().find(|ability| ability.feature == feature);
        ability.map_or(Err("not probed"), Ability::result)
    }

    /// Whether any TLS 1.3 session of ours can go into the kernel, whichever cipher it agrees on.
    ///
    /// # Errors
    ///
    /// The kernel's answer to the first cipher that it does not take.
    pub fn ktls(&self) -> Result<(), &str> {
        Feature::CIPHERS.iter().try_for_each(|&cipher| self.of(cipher))
    }

    /// Whether connections can be direct: everything that needs kernel TLS and programs at kernel functions.
    ///
    /// # Errors
    ///
    /// What is missing, and the kernel's answer.
    pub fn direct(&self) -> Result<(), String> {
        const NEEDED: [Feature; 6] = [
            Feature::CapSysPtrace,
            Feature::SocketDestruction,
            Feature::CgroupSkb,
            Feature::RingBuffer,
            Feature::Fentry,
            Feature::Btf,
        ];
        let missing = Feature::CIPHERS.iter().chain(&NEEDED).find_map(|&feature| {
            self.of(feature).err().map(|error| format!("{}: {error}", feature.description().name))
        });
        missing.map_or(Ok(()), Err)
    }

    /// Whether direct connections lose nothing, whatever the programs do.
    ///
    /// # Errors
    ///
    /// What is lost, and when.
    pub fn direct_loses_nothing(&self) -> Result<(), &str> {
        self.of(Feature::KtlsKeepsTheEnd)
    }

    /// What the relay needs and is not there; nothing when the relay works.
    pub fn missing_for_relay(&self) -> impl Iterator<Item = &Ability> {
        self.abilities.iter().filter(|ability| ability.need == Need::Relay && ability.result().is_err())
    }
}

impl Ability {
    fn new(feature: Feature, result: Result<(), String>) -> Self {
        let description = feature.description();
        let (outcome, consequence) = match result {
            Ok(()) => (Outcome::Able, description.able),
            Err(error) => (Outcome::Unable { error }, description.unable),
        };
        Self { feature, name: description.name, need: description.need, outcome, consequence }
    }

    /// The outcome as a result.
    ///
    /// # Errors
    ///
    /// The kernel's answer.
    pub fn result(&self) -> Result<(), &str> {
        match &self.outcome {
            Outcome::Able => Ok(()),
            Outcome::Unable { error } => Err(error),
        }
    }
}

fn attempt(feature: Feature) -> Result<(), String> {
    match feature {
        Feature::CapBpf => capability(CAP_BPF),
        Feature::CapNetAdmin => capability(CAP_NET_ADMIN),
        Feature::CapSysAdmin => capability(CAP_SYS_ADMIN),
        Feature::CapSysPtrace => capability(CAP_SYS_PTRACE),
        Feature::SocketDestruction => destroy::probe().map_err(|error| with_causes(&error)),
        Feature::Cgroup2 => mounted("cgroup2"),
        Feature::BpfFs => mounted("bpf"),
        Feature::CgroupSockAddr => program(ProgramType::CgroupSockAddr),
        Feature::SkLookup => program(ProgramType::SkLookup),
        Feature::Maps => MAPS.into_iter().try_for_each(|(kind, name)| map(kind, name)),
        Feature::KtlsAes128Gcm => ktls::cipher(ktls::aes_128_gcm),
        Feature::KtlsAes256Gcm => ktls::cipher(ktls::aes_256_gcm),
        Feature::KtlsChaCha20Poly1305 => ktls::cipher(ktls::chacha20_poly1305),
        Feature::KtlsNoPad => ktls::expect_no_pad(),
        Feature::KtlsKeepsTheEnd if can_set_options_under_tls(&release()) => Ok(()),
        Feature::KtlsKeepsTheEnd => ktls::keeps_the_end(),
        Feature::KtlsRekey => ktls::rekey(),
        Feature::SockOps => program(ProgramType::SockOps),
        Feature::CgroupSkb => program(ProgramType::CgroupSkb),
        Feature::RingBuffer => map(MapType::RingBuf, "ring buffer"),
        Feature::Fentry => program(ProgramType::Tracing),
        Feature::Btf => fs::metadata("/sys/kernel/btf/vmlinux").map(drop).map_err(|error| error.to_string()),
    }
}

fn program(kind: ProgramType) -> Result<(), String> {
    match is_program_supported(kind) {
        Ok(true) => Ok(()),
        Ok(false) => Err("this kernel does not know this type of program, or cannot attach it".to_owned()),
        Err(error) => Err(with_causes(&error)),
    }
}

fn map(kind: MapType, name: &str) -> Result<(), String> {
    match is_map_supported(kind) {
        Ok(true) => Ok(()),
        Ok(false) => Err(format!("{name}: this kernel does not know this type of map")),
        Err(error) => Err(format!("{name}: {}", with_causes(&error))),
    }
}

fn with_causes(error: &(dyn Error + 'static)) -> String {
    let causes = std::iter::successors(Some(error), |&error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

fn mounted(kind: &str) -> Result<(), String> {
    let mounts = fs::read_to_string("/proc/self/mounts").map_err(|error| format!("read /proc/self/mounts: {error}"))?;
    let found = mounts.lines().any(|mount| mount.split(' ').nth(2) == Some(kind));
    if found { Ok(()) } else { Err(format!("no file system of type {kind} is mounted")) }
}

/// Whether this process may use a right now. Using it would change the machine, so this alone is looked up.
fn capability(number: u32) -> Result<(), String> {
    let status = fs::read_to_string("/proc/self/status").map_err(|error| format!("read /proc/self/status: {error}"))?;
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let effective = effective.and_then(|digits| u64::from_str_radix(digits.trim(), 16).ok());
    match effective {
        Some(rights) if rights & (1 << number) != 0 => Ok(()),
        Some(_) => Err("not among this process's effective capabilities; run as root".to_owned()),
        None => Err("no CapEff in /proc/self/status".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_feature_has_an_outcome() {
        let abilities = probe();
        assert_eq!(abilities.abilities.len(), Feature::ALL.len());
        assert_ne!(abilities.release, "unknown");
        for ability in &abilities.abilities {
            if let Outcome::Unable { error } = &ability.outcome {
                assert!(!error.is_empty(), "{}", ability.name);
            }
        }
    }

    #[test]
    fn json_says_able_or_why_not() {
        let unable = Ability::new(Feature::SkLookup, Err("no".to_owned()));
        let json = serde_json::to_value(&unable).unwrap();
        assert_eq!((&json["outcome"], &json["error"]), (&"unable".into(), &"no".into()));
        assert_eq!(json["need"], "relay");
        let able = serde_json::to_value(Ability::new(Feature::SkLookup, Ok(()))).unwrap();
        assert_eq!(able["outcome"], "able");
    }

    #[test]
    fn options_under_tls_can_be_set_since_6_3() {
        let able = ["6.3.0", "6.12.94+deb13-amd64", "7.2-rc1", "10.0"].map(can_set_options_under_tls);
        assert_eq!(able, [true; 4]);
        let unable = ["6.1.0-42-amd64", "6.2", "5.15.0", "6", "unknown", ""].map(can_set_options_under_tls);
        assert_eq!(unable, [false; 6]);
    }

    #[test]
    fn one_missing_cipher_means_no_kernel_tls() {
        let all = |unable: Option<Feature>| Abilities {
            release: "6.12".to_owned(),
            abilities: Feature::ALL
                .iter()
                .map(|&feature| {
                    let result = if unable == Some(feature) { Err("no".to_owned()) } else { Ok(()) };
                    Ability::new(feature, result)
                })
                .collect(),
        };
        assert_eq!(all(None).ktls(), Ok(()));
        assert_eq!(all(Some(Feature::KtlsRekey)).ktls(), Ok(()));
        assert_eq!(all(Some(Feature::KtlsChaCha20Poly1305)).ktls(), Err("no"));
        assert_eq!(all(Some(Feature::KtlsAes256Gcm)).missing_for_relay().count(), 0);
        assert_eq!(all(Some(Feature::SkLookup)).missing_for_relay().count(), 1);
    }
}
