//! A connection belongs to no process: it goes on when another one takes it over, at once and without a word.

use anyhow::Result;
use enforcer_tests::program::Script;
use enforcer_tests::world::{Options, World};
use libtest_mimic::Trial;

use crate::stage::{Company, promises, script_talks};

pub(super) fn trials_in(options: Options, suffix: &str) -> Vec<Trial> {
    promises![in options, called suffix, Company::Others;
        a_client_may_become_another_program,
        a_client_may_fork_and_leave_the_connection_to_its_child,
        a_client_may_pass_its_connection_to_another_process,
        a_client_may_give_its_connection_another_number,
        one_of_five_hundred_threads_may_talk,
        a_server_may_become_another_program,
        a_server_may_fork_and_leave_the_connection_to_its_child,
        a_server_may_pass_its_connection_to_another_process,
    ]
}

fn a_client_may_become_another_program(world: &World) -> Result<()> {
    goes_on(world, "echo", "exec")
}

fn a_client_may_fork_and_leave_the_connection_to_its_child(world: &World) -> Result<()> {
    goes_on(world, "echo", "fork")
}

fn a_client_may_pass_its_connection_to_another_process(world: &World) -> Result<()> {
    goes_on(world, "echo", "pass")
}

fn a_client_may_give_its_connection_another_number(world: &World) -> Result<()> {
    goes_on(world, "echo", "dup")
}

fn one_of_five_hundred_threads_may_talk(world: &World) -> Result<()> {
    goes_on(world, "echo", "threads")
}

fn a_server_may_become_another_program(world: &World) -> Result<()> {
    goes_on(world, "exec", "talk")
}

fn a_server_may_fork_and_leave_the_connection_to_its_child(world: &World) -> Result<()> {
    goes_on(world, "fork", "talk")
}

fn a_server_may_pass_its_connection_to_another_process(world: &World) -> Result<()> {
    goes_on(world, "pass", "talk")
}

fn goes_on(world: &World, serve: &'static str, connect: &'static str) -> Result<()> {
    script_talks(world, Script { name: "descriptors", serve, connect })
}
