//! The things that are probed: what each is called, what needs it, and what follows if it is there or not.

use serde::Serialize;

/// What needs a feature.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Need {
    /// The relay: without it the agent cannot work here.
    Relay,
    /// `offload: on`: without it TLS records are made in user space.
    Offload,
    /// The direct path: without it there is the relay.
    Direct,
}

impl Need {
    /// The label, as in JSON.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Relay => "relay",
            Self::Offload => "offload",
            Self::Direct => "direct",
        }
    }
}

/// A feature in words.
pub(super) struct Description {
    pub(super) name: &'static str,
    pub(super) need: Need,
    pub(super) able: &'static str,
    pub(super) unable: &'static str,
}

macro_rules! features {
    ($($feature:ident: $need:ident, $name:literal, able: $able:literal, unable: $unable:literal;)+) => {
        /// Something that a kernel may or may not do.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Feature {
            $(#[doc = $name] $feature,)+
        }

        impl Feature {
            /// Every feature, in the order in which they are shown.
            pub const ALL: &'static [Self] = &[$(Self::$feature,)+];

            pub(super) const fn description(self) -> Description {
                match self {
                    $(Self::$feature => Description {
                        name: $name,
                        need: Need::$need,
                        able: $able,
                        unable: $unable,
                    },)+
                }
            }
        }
    };
}

features! {
    CapBpf: Relay, "CAP_BPF",
        able: "eBPF programs can be loaded", unable: "no eBPF program can be loaded";
    CapNetAdmin: Relay, "CAP_NET_ADMIN",
        able: "programs can be attached, and sockets be transparent", unable: "no program can be attached";
    CapSysAdmin: Relay, "CAP_SYS_ADMIN",
        able: "namespaces of workloads can be entered", unable: "namespaces of workloads cannot be entered";
    Cgroup2: Relay, "cgroup2",
        able: "workloads are told apart by their cgroup", unable: "workloads cannot be told apart: mount cgroup2";
    BpfFs: Relay, "bpf file system",
        able: "programs stay in force without an agent",
        unable: "programs cannot be pinned: mount -t bpf bpf /sys/fs/bpf";
    CgroupSockAddr: Relay, "eBPF cgroup_sock_addr",
        able: "outbound connections are taken", unable: "outbound connections cannot be taken";
    SockOps: Relay, "eBPF sock_ops",
        able: "the agent learns where they were meant to go",
        unable: "the agent cannot learn where they were meant to go";
    SkLookup: Relay, "eBPF sk_lookup",
        able: "inbound connections are taken", unable: "inbound connections cannot be taken";
    Maps: Relay, "eBPF maps",
        able: "programs and agent can share what they know", unable: "programs cannot be told anything";
    KtlsAes128Gcm: Offload, "kernel TLS AES-128-GCM",
        able: "offload: on works with it", unable: "offload: on makes records in user space";
    KtlsAes256Gcm: Offload, "kernel TLS AES-256-GCM",
        able: "offload: on works with it", unable: "offload: on makes records in user space";
    KtlsChaCha20Poly1305: Offload, "kernel TLS ChaCha20-Poly1305",
        able: "offload: on works with it", unable: "offload: on makes records in user space";
    KtlsNoPad: Direct, "kernel TLS without padding",
        able: "the kernel decrypts without a copy", unable: "decryption costs one more copy";
    KtlsKeepsTheEnd: Direct, "kernel TLS keeps the end",
        able: "path: auto makes connections direct",
        unable: "path: auto relays: a program that closes while its send buffer is full would lose what it wrote last";
    KtlsRekey: Direct, "kernel TLS rekey",
        able: "keys can change while a connection is open",
        unable: "a connection whose keys must change is closed instead";
    CapSysPtrace: Direct, "CAP_SYS_PTRACE",
        able: "sockets of applications can be given keys", unable: "no direct path";
    SocketDestruction: Direct, "socket destruction",
        able: "connections can be ended whoever has them", unable: "no direct path: nothing could end a connection";
    CgroupSkb: Direct, "eBPF cgroup_skb",
        able: "payload of held connections is dropped", unable: "no direct path";
    RingBuffer: Direct, "eBPF ring buffer",
        able: "programs can tell the agent of connections", unable: "no direct path";
    Fentry: Direct, "eBPF fentry",
        able: "the owners of held connections are known", unable: "no direct path";
    Btf: Direct, "BTF of the kernel",
        able: "functions of the kernel can be found", unable: "no direct path";
}

impl Feature {
    /// The ciphers that a TLS 1.3 session of ours may agree on.
    pub(super) const CIPHERS: &'static [Self] = &[Self::KtlsAes128Gcm, Self::KtlsAes256Gcm, Self::KtlsChaCha20Poly1305];
}
