//! Certificates on files: judged as those of a peer in a handshake would be, with the exit codes that are promised.

use std::fs;

use anyhow::{Result, ensure};
use enforcer_tests::authority::{self, Credentials};
use enforcer_tests::world::{Options, World};
use libtest_mimic::Trial;

use crate::stage::promises;

pub(crate) fn trials() -> Vec<Trial> {
    promises![in Options::STRICT; a_check_of_certificates_says_what_a_handshake_would]
}

fn a_check_of_certificates_says_what_a_handshake_would(world: &World) -> Result<()> {
    let state = &world.a.config.state;
    let directory = |purpose: &str| world.ground.directory(&format!("checked-{purpose}"));
    let issued = authority::issue(state, "partner", &directory("issued"))?;
    let expired = authority::forge_expired(state, "partner", &directory("expired"))?;
    let other = directory("other-ca");
    authority::init(&other)?;
    let stranger = authority::issue(&other, "partner", &directory("stranger"))?;
    let stranger = Credentials { bundle: issued.bundle.clone(), ..stranger };
    let torn = directory("torn");
    fs::create_dir_all(&torn)?;
    let torn = Credentials { certificate: torn.join("chain.pem"), ..issued.clone() };
    fs::write(&torn.certificate, "-----BEGIN CERTIFICATE-----\n")?;
    let cases = [
        (&issued, "partner", 0, "accept"),
        (&issued, "someone-else", 1, "identity-other"),
        (&expired, "partner", 1, "workload-expired"),
        (&stranger, "partner", 1, "reject"),
        (&torn, "partner", 2, "chain.pem holds PEM that cannot be read"),
    ];
    for (credentials, account, code, said) in cases {
        let finished = authority::check(credentials, account)?;
        let text = format!("{}{}", finished.stdout, finished.stderr);
        ensure!(finished.status.code() == Some(code) && text.contains(said), "not {code} with `{said}`: {finished:?}");
    }
    Ok(())
}
