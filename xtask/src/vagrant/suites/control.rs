//! The control experiments: without agents the oracle must see the marker. An oracle that cannot fail proves nothing.

use anyhow::{Result, ensure};

use super::World;
use super::apps::{self, MARKER, Program};
use crate::vagrant::capture::Capture;
use crate::vagrant::node::Family;

/// The payload arrives, and the capture shows it in more than one frame; the judgement "hidden" fails.
pub(super) fn shows(world: &World<'_>, family: Family) -> Result<()> {
    let capture = Capture::start(&world.b, &world.a)?;
    apps::fetch(world, Program::Http, family)?;
    let wire = capture.stop()?;
    // The request's header is one frame, the payload at least one more.
    let seen = wire.frames_with(MARKER);
    ensure!(seen >= 2, "{seen} frames show the marker that crossed in the clear");
    ensure!(wire.prove_hidden(MARKER, Program::Http.port(), 0).is_err(), "plaintext was judged to be hidden");
    Ok(())
}
