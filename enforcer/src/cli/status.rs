//! `enforcer status`: what the agent of this node does right now.

use std::fmt::{self, Write as _};
use std::net::SocketAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::Args as ClapArgs;
use serde::{Deserialize, Serialize};

use super::table::Table;
use super::{ExitCode, ask};
use crate::observe::report::{
    ConfigurationReport, ConnectionReport, KernelReport, LimitReport, MissedReport, PlaintextReport, StatusReport,
    WorkloadReport,
};

/// Why nobody is accepted any more.
const LISTS_ENDED: &str = "The revocation lists have ended, and control has told no newer ones: certificates that they \
                           are about are not accepted until it does.";

/// Show the node, its workloads with their certificates, and every open connection.
#[derive(Debug, ClapArgs)]
#[command(after_help = "\
A connection's path is direct or relay (mutual TLS), public (TLS of a client without an identity, who has called a \
public name), plain (in the clear, with the reason) or refused. Its records are made in \
the kernel, or in user space for the reason shown. A dash is something that is not there, or not yet. What programs of a workload want of TCP and a direct \
connection does not do is counted since the workload was enrolled.

Examples:
  enforcer status
  enforcer status --json | jq '.connections[] | select(.path == \"plain\")'")]
pub struct Args {
    /// Where the agent's admin socket listens.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:15000")]
    admin: SocketAddr,

    /// JSON instead of tables.
    #[arg(long)]
    json: bool,
}

/// Asks and prints.
///
/// # Errors
///
/// When standard output cannot be written.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let answer = match ask_for_all(args.admin) {
        Ok(answer) => answer,
        Err(error) => return Ok(ask::nobody(&error)),
    };
    let result = if args.json { serde_json::to_string_pretty(&answer)? + "\n" } else { show(&answer)? };
    super::print(&result)?;
    Ok(ExitCode::Ok)
}

#[derive(Debug, Serialize, Deserialize)]
struct Answer {
    status: StatusReport,
    connections: Vec<ConnectionReport>,
}

fn ask_for_all(admin: SocketAddr) -> anyhow::Result<Answer> {
    Ok(Answer { status: ask::status(admin)?, connections: ask::connections(admin)? })
}

fn show(answer: &Answer) -> anyhow::Result<String> {
    let Answer { status, connections } = answer;
    let mut text = format!("Node {}, enforcer {}, Linux {}\n", status.node, status.version, status.kernel.release);
    show_kernel(&mut text, &status.kernel)?;
    writeln!(text, "\n{}", workloads(&status.workloads))?;
    if let Some(ConfigurationReport { file, refused: Some(why), .. }) = &status.configuration {
        writeln!(text, "{file} is not in force as it is now; what was before it still is:\n{why}\n")?;
    }
    if status.revocation_lists.as_ref().is_some_and(|lists| lists.ended) {
        writeln!(text, "{LISTS_ENDED}\n")?;
    }
    let missed = missed(&status.workloads)?;
    if !missed.is_empty() {
        writeln!(text, "{missed}")?;
    }
    let limited = limited(&status.workloads)?;
    if !limited.is_empty() {
        writeln!(text, "{limited}")?;
    }
    if !status.off.is_empty() {
        writeln!(text, "Left alone (mode off): {}\n", status.off.join(", "))?;
    }
    if !status.plaintext.is_empty() {
        writeln!(text, "Without mutual TLS:\n\n{}", plaintext(&status.plaintext))?;
    }
    match connections.len() {
        0 => writeln!(text, "No open connections.")?,
        open => writeln!(text, "Open connections: {open}\n\n{}", table(connections))?,
    }
    Ok(text)
}

fn show_kernel(text: &mut String, kernel: &KernelReport) -> anyhow::Result<()> {
    match &kernel.kernel_tls_unable {
        None => writeln!(text, "Kernel TLS: usable")?,
        Some(why) => writeln!(text, "Kernel TLS: not usable ({why})")?,
    }
    if !kernel.missing.is_empty() {
        writeln!(text, "Kernel cannot: {}; see enforcer doctor", kernel.missing.join(", "))?;
    }
    Ok(())
}

fn workloads(workloads: &[WorkloadReport]) -> Table<7> {
    let mut table = Table::new(["WORKLOAD", "IDENTITY", "MODE", "PATH", "CERTIFICATE", "EXPIRES", "RELAYED RECORDS"]);
    for workload in workloads {
        let certificate = workload.certificate.as_ref();
        table.row([
            workload.name.clone(),
            workload.identity.clone(),
            workload.mode.clone(),
            workload.path.clone(),
            certificate.map_or("none".to_owned(), |certificate| certificate.serial.clone()),
            certificate.map_or("-".to_owned(), |certificate| remaining(certificate.expires)),
            format!("{}: {}", workload.offload, workload.offload_explanation),
        ]);
    }
    table
}

/// What wanted to leave without mutual TLS.
fn plaintext(reports: &[PlaintextReport]) -> Table<7> {
    let mut table = Table::new(["WORKLOAD", "PROTOCOL", "DESTINATION", "OUTCOME", "REASON", "RULE", "TIMES"]);
    for report in reports {
        table.row([
            report.workload.clone(),
            report.protocol.clone(),
            report.destination.map_or("-".to_owned(), |destination| destination.to_string()),
            if report.passed { "passed" } else { "refused" }.to_owned(),
            report.reason.clone(),
            report.rule.clone().unwrap_or_else(|| "-".to_owned()),
            report.count.to_string(),
        ]);
    }
    table
}

/// What programs have missed on direct connections: a line for each workload and feature.
pub(super) fn missed(workloads: &[WorkloadReport]) -> Result<String, fmt::Error> {
    let mut text = String::new();
    for workload in workloads {
        for MissedReport { feature, count, advice } in &workload.missed {
            let times = if *count == 1 { "once".to_owned() } else { format!("{count} times") };
            writeln!(text, "Workload {} missed {feature} {times}: {advice}.", workload.name)?;
        }
    }
    Ok(text)
}

/// Limits that have refused somebody: a line for each.
fn limited(workloads: &[WorkloadReport]) -> Result<String, fmt::Error> {
    let mut text = String::new();
    for workload in workloads {
        for LimitReport { limit, most, taken, refused } in workload.limits.iter().filter(|limit| limit.refused > 0) {
            let name = &workload.name;
            writeln!(
                text,
                "Workload {name} was refused connections by its limit of {limit}, {refused} in all: it may have {most}, \
                 and has {taken}; `limits:` of the workload sets it."
            )?;
        }
    }
    Ok(text)
}

fn table(connections: &[ConnectionReport]) -> Table<13> {
    let mut table = Table::new([
        "ID",
        "DIRECTION",
        "LOCAL",
        "PEER",
        "SOURCE",
        "DESTINATION",
        "PATH",
        "REASON",
        "CIPHER",
        "GROUP",
        "RECORDS",
        "TO/FROM PEER",
        "AGE",
    ]);
    let dash = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
    for connection in connections {
        table.row([
            connection.id.to_string(),
            connection.direction.clone(),
            connection.local.clone(),
            dash(&connection.peer),
            connection.source.to_string(),
            connection.destination.to_string(),
            dash(&connection.path),
            dash(&connection.reason),
            dash(&connection.cipher),
            dash(&connection.group),
            dash(&connection.offload),
            format!("{}/{}", connection.to_peer, connection.from_peer),
            short(Duration::try_from_secs_f64(connection.age_seconds).unwrap_or_default()),
        ]);
    }
    table
}

/// From now until a time in seconds since 1970.
fn remaining(expires: i64) -> String {
    let expires = UNIX_EPOCH + Duration::from_secs(expires.try_into().unwrap_or(0));
    match expires.duration_since(SystemTime::now()) {
        Ok(left) => format!("in {}", short(left)),
        Err(_past) => "expired".to_owned(),
    }
}

/// A duration in its largest whole unit.
pub(super) fn short(duration: Duration) -> String {
    match duration.as_secs() {
        seconds @ 0..60 => format!("{seconds}s"),
        seconds @ 60..3_600 => format!("{}m", seconds / 60),
        seconds @ 3_600..86_400 => format!("{}h", seconds / 3_600),
        seconds => format!("{}d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;
    use std::thread;

    use socket2::{Domain, Socket, Type};

    use super::*;
    use crate::observe::report::{CertificateReport, ListsReport};

    fn answer() -> Answer {
        let status = StatusReport {
            node: "node-a".into(),
            version: "1.2.3".into(),
            kernel: KernelReport {
                release: "6.12".into(),
                kernel_tls_unable: Some("no module".into()),
                missing: vec!["eBPF sk_lookup".into()],
            },
            workloads: vec![WorkloadReport {
                name: "web".into(),
                identity: "spiffe://example.org/ns/default/sa/web".into(),
                mode: "strict".into(),
                path: "kernel-unable".into(),
                offload: "relay-cheaper".into(),
                offload_explanation: "it costs less".into(),
                certificate: Some(CertificateReport {
                    serial: "0a1b".into(),
                    expires: 0,
                    signed_by: String::new(),
                    renewal: None,
                }),
                missed: vec![MissedReport {
                    feature: "msg-zerocopy".into(),
                    count: 3,
                    advice: "set `path: relay`".into(),
                }],
                public: Vec::new(),
                limits: vec![
                    LimitReport { limit: "held".into(), most: 4096, taken: 7, refused: 0 },
                    LimitReport { limit: "connections".into(), most: 3, taken: 2, refused: 5 },
                ],
            }],
            revocation_lists: None,
            configuration: None,
            plaintext: Vec::new(),
            off: Vec::new(),
        };
        let connection = ConnectionReport {
            id: 7,
            direction: "inbound".into(),
            workload: "web".into(),
            local: "spiffe://example.org/ns/default/sa/web".into(),
            peer: Some("spiffe://example.org/ns/default/sa/db".into()),
            source: "10.0.0.2:40000".parse().unwrap(),
            application: None,
            destination: "10.0.0.1:80".parse().unwrap(),
            path: Some("relay".into()),
            reason: Some("peer-enrolled".into()),
            cipher: Some("TLS13_AES_128_GCM_SHA256".into()),
            group: None,
            local_serial: None,
            peer_serial: None,
            offload: Some("kernel".into()),
            rule: None,
            audited: false,
            to_peer: 5,
            from_peer: 6,
            age_seconds: 61.5,
        };
        Answer { status, connections: vec![connection] }
    }

    /// Answers `bodies` to as many requests, each on a connection of its own.
    fn serve(bodies: Vec<String>) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        thread::spawn(move || {
            for body in bodies {
                let (mut client, _) = listener.accept().unwrap();
                let mut request = [0; 4096];
                assert_ne!(client.read(&mut request).unwrap(), 0);
                let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
                client.write_all((head + &body).as_bytes()).unwrap();
            }
        });
        address
    }

    #[test]
    fn asks_the_agent() {
        let Answer { status, connections } = answer();
        let bodies = vec![serde_json::to_string(&status).unwrap(), serde_json::to_string(&connections).unwrap()];
        let answer = ask_for_all(serve(bodies)).unwrap();
        assert_eq!((answer.status.node.as_str(), answer.connections.len()), ("node-a", 1));
    }

    #[test]
    fn what_is_no_agent_is_named() {
        // Bound and not listening: refuses, and nobody else gets the port meanwhile.
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
        let closed = socket.local_addr().unwrap().as_socket().unwrap();
        let error = format!("{:#}", ask_for_all(closed).unwrap_err());
        assert!(error.contains(&format!("ask agent at http://{closed}/status")), "{error}");
        let args = Args { admin: closed, json: false };
        assert_eq!(run(&args).unwrap(), ExitCode::Unreachable);

        let error = format!("{:#}", ask_for_all(serve(vec!["<html>".into()])).unwrap_err());
        assert!(error.contains("does not answer as an agent"), "{error}");
    }

    #[test]
    fn shows_both_ends_of_each_connection() {
        let text = show(&answer()).unwrap();
        for part in [
            "Node node-a, enforcer 1.2.3, Linux 6.12\nKernel TLS: not usable (no module)\n",
            "Kernel cannot: eBPF sk_lookup; see enforcer doctor\n",
            "0a1b         expired  relay-cheaper: it costs less\n",
            "\nWorkload web missed msg-zerocopy 3 times: set `path: relay`.\n\nWorkload web was refused connections by its limit of \
             connections, 5 in all: it may have 3, and has 2; `limits:` of the workload sets it.\n\nOpen connections: 1\n",
            "spiffe://example.org/ns/default/sa/web  spiffe://example.org/ns/default/sa/db  10.0.0.2:40000",
            "relay  peer-enrolled  TLS13_AES_128_GCM_SHA256  -      kernel   5/6           1m\n",
        ] {
            assert!(text.contains(part), "{part} not in:\n{text}");
        }
        let nothing = Answer { connections: Vec::new(), ..answer() };
        assert!(show(&nothing).unwrap().ends_with("No open connections.\n"));
    }

    #[test]
    fn says_that_the_file_is_not_in_force() {
        let mut answer = answer();
        let refused = Some("agent.yaml:3:9: \"Node\" is no name".to_owned());
        for (refused, is_said) in [(None, false), (refused, true)] {
            let file = "/etc/agent.yaml".to_owned();
            answer.status.configuration = Some(ConfigurationReport { file, since: 0, refused });
            assert_eq!(show(&answer).unwrap().contains("not in force"), is_said);
        }
    }

    #[test]
    fn says_why_nobody_is_accepted_when_lists_have_ended() {
        let mut answer = answer();
        for (ended, is_said) in [(false, false), (true, true)] {
            answer.status.revocation_lists = Some(ListsReport { until: 0, ended });
            assert_eq!(show(&answer).unwrap().contains("revocation lists have ended"), is_said);
        }
    }

    #[test]
    fn durations_are_short() {
        let shown = |seconds| short(Duration::from_secs(seconds));
        assert_eq!([shown(59), shown(60), shown(7_199), shown(86_400)], ["59s", "1m", "1h", "1d"]);
    }
}
