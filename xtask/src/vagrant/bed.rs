//! The bed: mount, network and process-id namespaces with a libvirt of their own, in which the machines live.
//!
//! Promises: this machine's libvirt, its configuration, networks, firewall and state are neither used nor changed, and
//! no systemd is needed. Ending the bed's first process ends every process, network and mount in it; its files are on a
//! tmpfs that goes with it. So nothing can be left behind, not even after SIGKILL.
//!
//! It does not isolate the machines from this user's files: QEMU runs as root.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::wait;
use nix::unistd::Pid;

use crate::process;

/// How long libvirt may take to answer, and the bed to end.
const PATIENCE: Duration = Duration::from_secs(60);

/// Where libvirt keeps things, each with its counterpart in the bed.
const PRIVATE: [(&str, &str); 5] = [
    ("/etc/libvirt", "etc"),
    ("/run/libvirt", "run"),
    ("/var/lib/libvirt", "lib"),
    ("/var/cache/libvirt", "cache"),
    ("/var/log/libvirt", "log"),
];

/// QEMU as root and unconfined: the bed has no users, no security module and no cgroups of its own.
const QEMU_CONF: &str = "\
user = \"root\"
group = \"root\"
security_driver = \"none\"
cgroup_controllers = []
namespaces = []
";

/// Who ends the bed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lifetime {
    /// It ends with this process, however that ends.
    OfThisProcess,
    /// It goes on until [`Bed::stop`], by this process or another.
    UntilStopped,
}

/// A running bed.
#[derive(Debug)]
pub(super) struct Bed {
    /// The process that waits for the bed's first process and is outside of its process-id namespace.
    holder: Pid,
    folder: PathBuf,
    /// Present in the process that started it: without a `wait` its end would not show.
    child: Option<Child>,
}

impl Bed {
    /// Starts a bed in `folder` and waits until its libvirt answers; fails when there is one already.
    pub(super) fn start(folder: &Path, lifetime: Lifetime) -> Result<Self> {
        if let Some(holder) = running(folder)? {
            bail!("machines are already up (process {holder}): cargo xtask vagrant destroy");
        }
        let files = folder.join("bed");
        fs::create_dir_all(&files).with_context(|| format!("create {}", files.display()))?;
        let log = fs::File::create(folder.join("libvirt.log")).context("create the log of libvirt")?;
        let child = holder_command(lifetime)?
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            // Ctrl-C is for us: the machines should go down in order when there is still someone to do it.
            .process_group(0)
            .spawn()
            .context("start the bed")?;
        let holder = Pid::from_raw(i32::try_from(child.id())?);
        fs::write(folder.join("holder"), holder.to_string()).context("note the bed's process")?;
        let mut bed = Self { holder, folder: folder.to_owned(), child: Some(child) };
        if let Err(error) = bed.wait_for_libvirt() {
            bed.stop()?;
            return Err(error);
        }
        Ok(bed)
    }

    /// Finds the bed that an earlier process started.
    pub(super) fn find(folder: &Path) -> Result<Self> {
        let holder = running(folder)?.context("no machines are up: cargo xtask vagrant up")?;
        Ok(Self { holder, folder: folder.to_owned(), child: None })
    }

    /// A command inside the bed. Its working folder is the root folder.
    pub(super) fn command(&self, program: &str) -> Command {
        let namespaces = format!("/proc/{}/ns", self.holder);
        let mut command = process::command("nsenter");
        command
            .arg(format!("--mount={namespaces}/mnt"))
            .arg(format!("--net={namespaces}/net"))
            .arg(format!("--pid={namespaces}/pid_for_children"))
            .args(["--", program]);
        command
    }

    /// Vagrant inside the bed, for the machines of the folder `vagrant/`, with all its state in the bed.
    pub(super) fn vagrant(&self) -> Command {
        let mut command = self.command("vagrant");
        command
            .env("VAGRANT_CWD", process::workspace().join("vagrant"))
            .env("VAGRANT_HOME", self.files().join("home"))
            .env("VAGRANT_DOTFILE_PATH", self.files().join("state"))
            .env("VAGRANT_DEFAULT_PROVIDER", "libvirt")
            // It would ask its maker's server for a newer version.
            .env("VAGRANT_CHECKPOINT_DISABLE", "1");
        command
    }

    /// A folder that only exists inside the bed.
    pub(super) fn files(&self) -> PathBuf {
        self.folder.join("bed")
    }

    /// Ends every process in the bed and waits until they are gone, and their networks and mounts with them.
    pub(super) fn stop(mut self) -> Result<()> {
        match kill(self.holder, Signal::SIGKILL) {
            Ok(()) | Err(Errno::ESRCH) => {}
            Err(error) => return Err(error).context("end the bed"),
        }
        match &mut self.child {
            Some(child) => child.wait().map(drop).context("wait for the end of the bed")?,
            None => until("the end of the bed", || Ok(running(&self.folder)?.is_none()))?,
        }
        fs::remove_file(self.folder.join("holder")).context("forget the bed's process")
    }

    fn wait_for_libvirt(&mut self) -> Result<()> {
        let log = self.folder.join("libvirt.log");
        // The last file that `hold` writes before it starts libvirt. Until then `virsh` would reach the host's own.
        let laid_out = format!("/proc/{}/root{}/etc/libvirtd.conf", self.holder, self.files().display());
        until("libvirt to answer", || {
            if let Some(child) = &mut self.child
                && let Some(status) = child.try_wait()?
            {
                bail!("the bed ended with {status}: see {}", log.display());
            }
            if !Path::new(&laid_out).exists() {
                return Ok(false);
            }
            let mut virsh = self.command("virsh");
            virsh.args(["--connect", "qemu:///system", "version"]).stdout(Stdio::null()).stderr(Stdio::null());
            Ok(virsh.status()?.success())
        })
        .with_context(|| format!("libvirt's log is {}", log.display()))
    }
}

/// The first process in the bed: lays out the file systems, starts libvirt, and reaps until libvirt has ended.
pub(super) fn hold(folder: &Path) -> Result<ExitCode> {
    ensure!(std::process::id() == 1, "this step is for the bed's first process only");
    let files = folder.join("bed");
    mount_new("tmpfs", &files)?;
    // The host's /sys shows the host's devices: libvirt could not see its own bridges.
    mount_new("sysfs", Path::new("/sys"))?;
    for (public, private) in PRIVATE {
        let private = files.join(private);
        fs::create_dir_all(&private).with_context(|| format!("create {}", private.display()))?;
        fs::create_dir_all(public).with_context(|| format!("create {public}"))?;
        mount(Some(&private), public, None::<&str>, MsFlags::MS_BIND, None::<&str>)
            .with_context(|| format!("mount {public}"))?;
    }
    fs::write("/etc/libvirt/qemu.conf", QEMU_CONF).context("configure QEMU")?;
    fs::write("/etc/libvirt/libvirtd.conf", "auth_unix_rw = \"none\"\n").context("configure libvirt")?;
    process::run(Command::new("ip").args(["link", "set", "lo", "up"]))?;

    // Their own pid files, or they would take a libvirt outside of the bed for themselves.
    let start = |daemon: &str| {
        let pid_file = format!("/run/libvirt/{daemon}.pid");
        Command::new(daemon).args(["--pid-file", &pid_file]).spawn().with_context(|| format!("start {daemon}"))
    };
    let _virtlogd = start("virtlogd")?;
    let libvirtd = Pid::from_raw(i32::try_from(start("libvirtd")?.id())?);
    // QEMU and dnsmasq leave libvirtd and become our children; unreaped, libvirt would take them for alive.
    while wait().context("wait for a process of the bed")?.pid() != Some(libvirtd) {}
    bail!("libvirtd ended")
}

/// The command that makes the namespaces and runs [`hold`] in them; SIGKILL for it is SIGKILL for all of them.
fn holder_command(lifetime: Lifetime) -> Result<Command> {
    let mut command = match lifetime {
        Lifetime::UntilStopped => Command::new("unshare"),
        Lifetime::OfThisProcess => {
            let mut command = Command::new("setpriv");
            command.args(["--pdeathsig", "KILL", "--", "unshare"]);
            command
        }
    };
    command
        .args(["--mount", "--net", "--pid", "--fork", "--kill-child=KILL", "--mount-proc", "--"])
        .arg(std::env::current_exe().context("find the running executable")?)
        .args(["vagrant", "hold"]);
    Ok(command)
}

/// The noted holder, if it still runs. A process that only has its number is told by its command line.
fn running(folder: &Path) -> Result<Option<Pid>> {
    let noted = match fs::read_to_string(folder.join("holder")) {
        Ok(noted) => noted,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).context("read the bed's process"),
    };
    let ours = fs::read(format!("/proc/{noted}/cmdline")).is_ok_and(|line| line.ends_with(b"\0vagrant\0hold\0"));
    Ok(ours.then_some(Pid::from_raw(noted.parse().context("read the bed's process")?)))
}

fn mount_new(kind: &str, target: &Path) -> Result<()> {
    mount(Some(kind), target, Some(kind), MsFlags::empty(), None::<&str>)
        .with_context(|| format!("mount {kind} on {}", target.display()))
}

/// Looks until `look` says yes.
fn until(what: &str, mut look: impl FnMut() -> Result<bool>) -> Result<()> {
    let start = Instant::now();
    while !look()? {
        ensure!(start.elapsed() < PATIENCE, "waited {PATIENCE:?} in vain for {what}");
        pause();
    }
    Ok(())
}

/// Between two looks: long enough to leave the processor to what is waited for.
#[expect(clippy::disallowed_methods, reason = "the pause between two looks at a state")]
fn pause() {
    std::thread::sleep(Duration::from_millis(50));
}
