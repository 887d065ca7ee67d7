//! The Debian packages that the virtual machines need on this machine.

use anyhow::{Context, Result};

use crate::process;

/// Each package with the reason for it.
const NEEDED: &[(&str, &str)] = &[
    ("vagrant", "describes and starts the two machines"),
    ("vagrant-libvirt", "lets Vagrant use QEMU through libvirt"),
    ("libvirt-daemon-system", "runs the machines and the networks between them"),
    ("libvirt-clients", "virsh tells when libvirt is ready"),
    ("qemu-system-x86", "emulates the processor, or uses KVM"),
    ("qemu-utils", "writes the disk image of the box"),
    ("dnsmasq-base", "gives the machines the address that Vagrant finds them at"),
    ("iptables", "libvirt fences its networks with it"),
    ("iproute2", "brings up the loopback device beside the machines"),
    ("mmdebstrap", "makes the box from Debian packages"),
    ("debian-archive-keyring", "verifies them"),
    ("e2fsprogs", "makes the file system of the box"),
    ("rsync", "copies the agent to the machines"),
    ("openssh-client", "runs commands on the machines"),
    ("util-linux", "makes and enters the namespaces around it all"),
];

/// Installs what is missing, and says what and why.
pub(super) fn install_missing() -> Result<()> {
    let missing: Vec<_> = NEEDED.iter().filter(|(package, _)| !installed(package)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    for (package, why) in &missing {
        eprintln!("installing {package}: {why}");
    }
    process::run(process::command("apt-get").arg("update")).context("fetch the package lists")?;
    let mut install = process::command("apt-get");
    install.args(["install", "--yes", "--no-install-recommends"]).args(missing.iter().map(|(package, _)| package));
    process::run(install.env("DEBIAN_FRONTEND", "noninteractive")).context("install what the machines need")
}

fn installed(package: &str) -> bool {
    let mut query = process::command("dpkg-query");
    query.args(["--show", "--showformat=${db:Status-Status}", package]).stderr(std::process::Stdio::null());
    query.output().is_ok_and(|output| output.stdout == b"installed")
}
