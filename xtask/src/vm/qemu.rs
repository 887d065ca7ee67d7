//! Running QEMU: its arguments, its output and its end.
//!
//! The guest has two channels: port `output` is QEMU's standard output and carries the command's output, nothing else;
//! QEMU's standard error carries the console, and at the end the port `status` with the exit code. No file is shared
//! with a running machine but read-only ones, so nothing is left behind when it is killed.

use std::collections::VecDeque;
use std::fmt;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::Instant;

use anyhow::{Context, Result, bail};

use super::kernel::Bootable;
use super::{Clock, Emulator, Vm};
use crate::{cache, process};

/// Console lines that are shown when a run fails.
const CONSOLE_TAIL: usize = 40;
/// What `run.sh` sends before the command.
const START_MARK: &str = "enforcer-vm start";
/// How the kernel dies of a breakpoint that it has not set, or has taken away on all processors: it changes its own code
/// with one each time that a program is put at a function, and QEMU's emulation of several processors now and then
/// executes what was there before.
const STRAY_BREAKPOINT: &str = "int3: 0000";
/// What `run.sh` sends last; the exit code follows.
const STATUS_MARK: &str = "enforcer-vm exit ";
/// `no_timer_check`: on a loaded machine the emulated timer fails the kernel's test of it, which is a panic.
const BOOT: &str = "console=ttyS0 quiet loglevel=4 panic=-1 oops=panic no_timer_check";
const BOOT_ICOUNT: &str = "tsc=reliable clocksource=tsc nokaslr mitigations=off";
/// What takes an emulated processor long and is nothing that the suites are about: each return through a thunk, each
/// page and object filled with zeros before it is used.
const BOOT_TCG: &str = "mitigations=off init_on_alloc=0";

/// A kernel that panics reboots, and that ends QEMU.
const MACHINE: [&str; 7] = ["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-machine", "q35"];
/// A working KVM needs about one.
const KVM_PATIENCE_SECS: &str = "5";
const KVM_WORKS: &str = "works";

/// Everything that is emulated but what makes a kernel slow in an emulator: string instructions that go octet by octet
/// (erms, fsrm, fsrs), page tables of five levels, and rights to pages that are changed with each copy (smap) and each
/// switch (pku).
const TCG_CPU: &str = "max,-erms,-fsrm,-fsrs,-la57,-smap,-pku";

/// Who executes the guest's instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Accelerator {
    /// The processor.
    Kvm,
    /// QEMU's emulation, one host thread for each virtual processor.
    Tcg,
    /// QEMU's emulation with one instruction a nanosecond.
    Icount,
}

impl Accelerator {
    /// The fastest that works on this machine for `clock`.
    pub(crate) fn choose(clock: Clock, (emulator, boot): (&Emulator, &Bootable)) -> Result<Self> {
        match clock {
            Clock::Instructions => Ok(Self::Icount),
            Clock::Real if kvm_works(emulator, boot)? => Ok(Self::Kvm),
            Clock::Real => Ok(Self::Tcg),
        }
    }

    fn arguments(self) -> &'static [&'static str] {
        match self {
            Self::Kvm => &["-accel", "kvm", "-cpu", "host"],
            Self::Tcg => &["-accel", "tcg,thread=multi", "-cpu", TCG_CPU],
            // Without erms and fsrm: every iteration of a `rep` counts as an instruction.
            Self::Icount => &["-accel", "tcg,thread=single", "-icount", "shift=0,sleep=off", "-cpu", "max,-erms,-fsrm"],
        }
    }
}

impl fmt::Display for Accelerator {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Kvm => "accelerated by KVM",
            Self::Tcg => "emulated (TCG)",
            Self::Icount => "emulated (TCG), one instruction is one nanosecond",
        })
    }
}

/// True when a kernel reaches its first process under KVM. Asked once after every boot of this machine.
///
/// /dev/kvm proves nothing: on nested hosts it may be there and emulate so little that a kernel hangs while it unpacks
/// itself. Without a disk our first process fails, and the kernel's message about that is what we wait for.
fn kvm_works(emulator: &Emulator, boot: &Bootable) -> Result<bool> {
    let boot_id = fs::read_to_string("/proc/sys/kernel/random/boot_id").context("read this machine's boot id")?;
    let answer = cache::entry("kvm", &[boot_id.trim()], |path| {
        let qemu = emulator.command();
        let mut command = process::command("timeout");
        command.arg(KVM_PATIENCE_SECS).arg(qemu.get_program()).args(qemu.get_args());
        command.args(MACHINE).args(Accelerator::Kvm.arguments());
        command.args(["-m", "512", "-serial", "stdio", "-append", BOOT]);
        command.arg("-kernel").arg(&boot.image).arg("-initrd").arg(&boot.initramfs);
        let output = command.stdin(Stdio::null()).output().context("try KVM")?;
        let works = String::from_utf8_lossy(&output.stdout).contains("Attempted to kill init");
        fs::write(path, if works { KVM_WORKS } else { "fails" }).context("note whether KVM works")
    })?;
    Ok(fs::read_to_string(&answer).with_context(|| format!("read {}", answer.display()))? == KVM_WORKS)
}

/// All that QEMU needs to know.
pub(crate) struct Machine<'a> {
    pub(crate) vm: &'a Vm,
    pub(crate) emulator: &'a Emulator,
    pub(crate) boot: &'a Bootable,
    pub(crate) root: &'a Path,
    pub(crate) accelerator: Accelerator,
}

/// How a machine ended.
pub(crate) enum End {
    /// The command ended, with this exit code.
    Command(i32),
    /// By itself, before the command began; the end of its console.
    Boot(String),
    /// Later, of a known mistake of the emulator; the end of its console.
    Emulator(String),
}

/// Boots, passes the command's output to `sink` as it comes, and returns how it ended.
pub(crate) fn run(machine: &Machine<'_>, payload: File, sink: &mut dyn Write) -> Result<End> {
    let mut command = machine.command();
    command.stdin(payload).stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = command.spawn().context("start QEMU")?;
    watch(child, Instant::now() + machine.vm.timeout, sink)
}

impl Machine<'_> {
    fn command(&self) -> Command {
        let (cpus, boot_line) = match self.accelerator {
            Accelerator::Icount => (1, format!("{BOOT} {BOOT_ICOUNT}")),
            Accelerator::Tcg => (self.vm.cpus, format!("{BOOT} {BOOT_TCG}")),
            Accelerator::Kvm => (self.vm.cpus, BOOT.to_owned()),
        };
        let mut command = self.emulator.command();
        command.args(MACHINE).args(self.accelerator.arguments());
        command.args(["-smp", &cpus.to_string(), "-m", &self.vm.memory_mib.to_string()]);
        command.arg("-kernel").arg(&self.boot.image).arg("-initrd").arg(&self.boot.initramfs);
        command.args(["-append", &boot_line]);
        let disks = [("root", self.root), ("modules", &self.boot.modules), ("payload", Path::new("/dev/stdin"))];
        for (name, file) in disks {
            let file = file.display().to_string().replace(',', ",,"); // QEMU's way to say a comma.
            command.args(["-drive", &format!("id={name},file={file},format=raw,if=none,readonly=on")]);
            command.args(["-device", &format!("virtio-blk-pci,drive={name},serial={name}")]);
        }
        command.args(["-device", "virtio-serial-pci"]);
        for (name, file) in [("output", "/dev/stdout"), ("status", "/dev/stderr")] {
            command.args(["-chardev", &format!("file,id={name},path={file}")]);
            command.args(["-device", &format!("virtserialport,chardev={name},name={name}")]);
        }
        command.args(["-chardev", "file,id=console,path=/dev/stderr", "-serial", "chardev:console"]);
        command
    }
}

/// Waits for the machine's end and reads its two channels meanwhile.
fn watch(mut child: Child, deadline: Instant, sink: &mut dyn Write) -> Result<End> {
    let (output, console) = child.stdout.take().zip(child.stderr.take()).context("qemu has no output")?;
    let (sender, chunks) = channel();
    thread::spawn(move || {
        let mut output = output;
        let mut buffer = [0; 64 * 1024];
        while let Ok(count @ 1..) = output.read(&mut buffer) {
            if sender.send(buffer[..count].to_vec()).is_err() {
                break;
            }
        }
    });
    let console = thread::spawn(move || read_console(console));
    let ended = forward(&chunks, deadline, sink);
    drop(chunks);
    if ended.is_err() {
        child.kill().context("stop qemu")?;
    }
    child.wait().context("wait for qemu")?;
    let console = console.join().unwrap_or_default(); // Without a status, which fails below.
    match (ended, console.status) {
        (Ok(()), Some(status)) => Ok(End::Command(status)),
        (Ok(()), None) if !console.started => Ok(End::Boot(console.text())),
        (Ok(()), None) if console.has_stray_breakpoint => Ok(End::Emulator(console.text())),
        (Ok(()), None) => bail!("the machine ended without an exit code; its console ended with\n{}", console.text()),
        (Err(error), _) => bail!("{error:#}; the console ended with\n{}", console.text()),
    }
}

/// Writes what comes to `sink` until the machine's end; fails when it does not come before `deadline`.
fn forward(chunks: &Receiver<Vec<u8>>, deadline: Instant, sink: &mut dyn Write) -> Result<()> {
    loop {
        match chunks.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(chunk) => sink.write_all(&chunk).and_then(|()| sink.flush()).context("pass the output on")?,
            Err(RecvTimeoutError::Disconnected) => return Ok(()),
            Err(RecvTimeoutError::Timeout) => bail!("the machine did not end in time (--timeout)"),
        }
    }
}

/// What the console and the status port said.
#[derive(Default)]
struct Console {
    tail: VecDeque<String>,
    started: bool,
    has_stray_breakpoint: bool,
    status: Option<i32>,
}

impl Console {
    fn text(&self) -> String {
        self.tail.iter().fold(String::new(), |text, line| text + "  " + line + "\n")
    }
}

fn read_console(stream: impl Read) -> Console {
    let mut console = Console::default();
    // A machine that is killed may stop in the middle of a character: lines are bytes.
    for line in BufReader::new(stream).split(b'\n').map_while(Result::ok) {
        let line = String::from_utf8_lossy(&line).trim_end().to_owned();
        console.started |= line.contains(START_MARK);
        console.has_stray_breakpoint |= line.contains(STRAY_BREAKPOINT);
        if let Some((_, code)) = line.split_once(STATUS_MARK) {
            console.status = code.parse().ok();
        }
        if console.tail.len() == CONSOLE_TAIL {
            console.tail.pop_front();
        }
        console.tail.push_back(line);
    }
    console
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_is_found_behind_kernel_messages() {
        let console = read_console(&b"[    1.0] something\r\nno newlineenforcer-vm exit 42\n"[..]);
        assert_eq!(console.status, Some(42));
        assert!(console.text().contains("something\n"));
    }

    #[test]
    fn a_breakpoint_that_nobody_knows_is_the_emulator_s() {
        let died = |oops: &str| read_console(format!("enforcer-vm start\n[ 788.6] {oops} [#1] SMP\n").as_bytes());
        assert!(died("Oops: int3: 0000").has_stray_breakpoint && died("int3: 0000").has_stray_breakpoint);
        assert!(!died("Oops: general protection fault: 0000").has_stray_breakpoint);
    }

    #[test]
    fn a_machine_that_dies_has_no_status() {
        let console = read_console(&b"Kernel panic\n"[..]);
        assert_eq!((console.started, console.status), (false, None));
        let console = read_console(&b"[ 1.0] somethingenforcer-vm start\nKernel panic\n"[..]);
        assert_eq!((console.started, console.status), (true, None));
    }
}
