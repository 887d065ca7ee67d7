//! stand-in
/// x
#[derive(Debug, thiserror::Error)]
pub enum Error { /// x
#[error("x")] AlreadyTraced { /// x
tid: u32 } , /// x
 #[error("y")] Nix(#[from] nix::Error) }
/// x
/// # Errors
/// x
pub fn restart_call(tid: u32) -> Result<(), Error> {
    use nix::sys::{ptrace, wait}; use nix::unistd::Pid;
    let pid = Pid::from_raw(tid as i32);
    ptrace::seize(pid, ptrace::Options::empty())?;
    ptrace::interrupt(pid)?;
    wait::waitpid(pid, Some(wait::WaitPidFlag::__WALL))?;
    ptrace::detach(pid, None)?;
    Ok(())
}
