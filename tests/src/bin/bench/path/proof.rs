//! That connections took the path that is measured. Our agents are asked, in their metrics; of the others an onlooker on
//! the wire sees one exchange, in which a page is fetched that nobody but the two ends may read.

use anyhow::{Context, Result, ensure};
use enforcer_tests::ground::{A, B};
use enforcer_tests::program::openssl_page;
use enforcer_tests::wait;
use enforcer_tests::wire::{Envelope, Recording};

use super::application::{Application, MARKER, fresh_directory};
use super::credentials::Authority;
use super::sidecar::{SIDECARS, Sidecars};
use super::site::Stage;
use super::tunnel::WIREGUARD;
use super::{Path, Site};

impl Site {
    /// Fails when a connection has taken another path than the one that is measured, as far as its agents know.
    pub(crate) fn prove_path(&self) -> Result<()> {
        match self.path {
            Path::Direct => self.prove_counted("path=\"direct\""),
            Path::Relay | Path::RelayKernel => self.prove_counted("path=\"relay\""),
            _ => Ok(()),
        }
    }

    /// Fetches the page, as the first thing on a path without agents: proxies keep connections, and how one begins is seen
    /// once. Fails when it looks different on the wire than it should.
    pub(super) fn prove_on_wire(&self) -> Result<()> {
        match (self.path, &self.stage) {
            // The others would prove nothing if the onlooker did not see the page here.
            (Path::Plain, _) => {
                ensure!(self.watch_page()?.contains(MARKER), "{}: the page was not seen on the wire", self.path);
                Ok(())
            }
            (Path::Ipsec, _) => self.prove_wrapped(Envelope::Esp),
            (Path::Wireguard, _) => self.prove_wrapped(Envelope::Wireguard { port: WIREGUARD }),
            (_, Stage::Sidecars(sidecars, _)) => self.prove_mutual_tls(sidecars),
            _ => Ok(()),
        }
    }

    fn prove_counted(&self, label: &str) -> Result<()> {
        for agent in self.agents() {
            let metrics = wait::until("connections to be counted", wait::patience(), || {
                let metrics = agent.metrics()?;
                let counted = ended(&metrics).count() > 0;
                Ok(counted.then_some(metrics))
            })?;
            let strays: Vec<_> = ended(&metrics).filter(|line| !line.contains(label)).collect();
            ensure!(strays.is_empty(), "{}: some connections took another path: {strays:#?}", self.path);
        }
        Ok(())
    }

    fn prove_wrapped(&self, envelope: Envelope) -> Result<()> {
        let seen = self.watch_page()?;
        seen.prove_absent(MARKER)?;
        seen.prove_wrapped([A[0], B[0]], envelope).with_context(|| self.path.to_string())
    }

    /// TLS 1.3 on the wire, and no connection for clients that the authority does not know.
    fn prove_mutual_tls(&self, sidecars: &Sidecars) -> Result<()> {
        let seen = self.watch_page()?;
        seen.prove_absent(MARKER)?;
        seen.prove_only_tls(SIDECARS.port())?;
        seen.prove_tls_1_3(SIDECARS.port())?;

        let _server = Application::web(self)?;
        let client = &sidecars.client;
        let foreign = Authority::create()?.issue("client", &fresh_directory(&client.place, "foreign")?)?;
        for (who, credentials, is_served) in [
            ("a client with its certificate", Some(&client.credentials), true),
            ("a client without a certificate", None, false),
            ("a client with a certificate of somebody else", Some(&foreign), false),
        ] {
            let said = openssl_page(&client.place, SIDECARS, &client.credentials.bundle, credentials)?;
            ensure!(said.stdout.contains(MARKER) == is_served, "{}: {who} got: {said:?}", self.path);
        }
        Ok(())
    }

    /// What was on the wire between the nodes while the page was fetched.
    fn watch_page(&self) -> Result<Recording> {
        let capture = self.ground().watch_mesh_openly()?;
        self.get_page()?;
        capture.stop()
    }
}

/// The metrics of connections that have ended.
fn ended(metrics: &str) -> impl Iterator<Item = &str> {
    metrics.lines().filter(|line| line.starts_with("enforcer_connections_total{"))
}
