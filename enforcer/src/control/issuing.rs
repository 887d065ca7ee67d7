//! Loading the configuration of `enforcer control`: one `Control`, and a `Placement` for each node.
//!
//! The same format, the same promises and the same reading as the agent's file; only the objects are others.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use time::Duration;

use super::field::{Fields, choice, integer, read_each, text};
use super::file::{LoadError, read_text, refused};
use super::problem::{Located, Position, Problems};
use super::scalar::{api_version, identity, listening, name, path, trust_domain};
use super::yaml::{Tree, documents};
use crate::ca::keys::Algorithm;
use crate::identity::Identity;

/// Where control listens for agents, unless it is said otherwise.
pub const CONTROL_PORT: u16 = 15444;
/// A workload's certificate, in minutes: at least, at most, and usually.
const WORKLOAD_MINUTES: (u32, u32, u32) = (5, 24 * 60, 60);
/// A node's certificate, in hours.
const NODE_HOURS: (u32, u32, u32) = (1, 30 * 24, 7 * 24);
/// A revocation list, in minutes.
const LIST_MINUTES: (u32, u32, u32) = (10, 7 * 24 * 60, 24 * 60);

/// What is wanted of control.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Issuing {
    /// The trust domain that it answers for.
    pub trust_domain: String,
    /// Its store, its audit log and its socket; absolute.
    pub state_directory: PathBuf,
    /// Where agents come to.
    pub listen: SocketAddr,
    /// Where the keys of authorities are.
    pub keys: KeyPlace,
    /// Where everything else is.
    pub store: StorePlace,
    /// What authorities sign with.
    pub algorithm: Algorithm,
    /// How long a workload's certificate lives.
    pub workload_lifetime: Duration,
    /// How long a node's certificate lives.
    pub node_lifetime: Duration,
    /// How long a revocation list is in force.
    pub list_lifetime: Duration,
    /// Which node may ask for which identities.
    pub placements: BTreeMap<String, BTreeSet<Identity>>,
}

/// Where the keys of authorities are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeyPlace {
    /// Encrypted in the store.
    Sealed(Secret),
    /// In a token.
    Pkcs11 {
        /// The library that reaches it.
        module: PathBuf,
        /// Its label.
        token: String,
        /// What opens it.
        pin: Secret,
    },
}

/// Where a passphrase or a PIN is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Secret {
    /// In a file.
    File(PathBuf),
    /// In an environment variable.
    Environment(String),
    /// A systemd credential of this name.
    Credential(String),
}

/// Where what control must not forget is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StorePlace {
    /// In a file of the state directory.
    Embedded,
    /// In etcd, for several replicas.
    Etcd {
        /// URLs.
        endpoints: Vec<String>,
        /// What every key begins with.
        prefix: String,
        /// Authority, certificate and key, where etcd wants TLS.
        tls: Option<[PathBuf; 3]>,
    },
}

/// Reads and checks the file at `path`.
///
/// # Errors
///
/// The file cannot be read, or there is anything wrong in it: the error then has every problem.
pub fn load(path: &Path) -> Result<Issuing, LoadError> {
    parse(&read_text(path)?, path)
}

/// The file at `path` has these bytes.
pub(super) fn parse(bytes: &[u8], path: &Path) -> Result<Issuing, LoadError> {
    let mut problems = Problems::default();
    let wanted = super::file::text(bytes, &mut problems).and_then(|text| {
        let mut objects = Objects::default();
        let mut is_complete = true;
        for tree in documents(text, &mut problems)? {
            is_complete &= object(tree, &mut objects, &mut problems).is_some();
        }
        build(objects, is_complete, &mut problems)
    });
    wanted.filter(|_| problems.is_empty()).ok_or_else(|| refused(path, problems))
}

#[derive(Default)]
struct Objects {
    controls: Vec<(Position, Option<Issuing>)>,
    placements: Vec<(Located<String>, Vec<Located<Identity>>)>,
}

#[derive(Clone, Copy)]
enum Kind {
    Control,
    Placement,
}

fn object(tree: Tree, objects: &mut Objects, problems: &mut Problems) -> Option<()> {
    let mut object = Fields::open(tree, "an object", problems)?;
    object.optional("apiVersion", api_version, "");
    let kind = |tree: &Tree| choice(tree, &[("Control", Kind::Control), ("Placement", Kind::Placement)]);
    let kind = object.required("kind", kind)?.value;
    let metadata = match kind {
        Kind::Control => None,
        Kind::Placement => object.take_required("metadata"),
    };
    let spec = object.take_required("spec");
    object.close();
    match kind {
        Kind::Control => {
            let spec = spec?;
            objects.controls.push((spec.at, control(spec, problems)));
        }
        Kind::Placement => objects.placements.push(placement(metadata?, spec?, problems)?),
    }
    Some(())
}

fn build(objects: Objects, is_complete: bool, problems: &mut Problems) -> Option<Issuing> {
    if objects.controls.is_empty() && is_complete {
        problems.add(Position::START, "there is no Control; it says what to be; add an object of kind Control");
    }
    for (at, _) in objects.controls.iter().skip(1) {
        problems.add(*at, "a second Control; a process is one; remove one");
    }
    let control = objects.controls.into_iter().next().and_then(|(_, control)| control)?;
    let mut placements = BTreeMap::new();
    for (node, identities) in objects.placements {
        for identity in &identities {
            check_identity(identity, &control.trust_domain, problems);
        }
        let identities: BTreeSet<Identity> = identities.into_iter().map(|identity| identity.value).collect();
        if placements.insert(node.value.clone(), identities).is_some() {
            let message =
                format!("a second Placement of node {:?}; one would be ignored; put both together", node.value);
            problems.add(node.at, message);
        }
    }
    Some(Issuing { placements, ..control })
}

fn check_identity(identity: &Located<Identity>, trust_domain: &str, problems: &mut Problems) {
    let Located { at, value } = identity;
    if value.trust_domain() != trust_domain {
        let how = format!("write spiffe://{trust_domain}/...");
        problems.add(*at, format!("identity {value} is outside the trust domain; it is never issued here; {how}"));
    }
    if value.path().starts_with(crate::ca::domain::RESERVED) {
        let why = "identities of control and of nodes are there";
        problems.add(*at, format!("identity {value} is below /enforcer/; {why}; choose another path"));
    }
}

fn control(spec: Tree, problems: &mut Problems) -> Option<Issuing> {
    let mut spec = Fields::open(spec, "Control spec", problems)?;
    let trust_domain = spec.required("trustDomain", trust_domain);
    let state_directory = spec.required("stateDirectory", path);
    let listen = spec.optional("listen", listening, SocketAddr::from((Ipv4Addr::UNSPECIFIED, CONTROL_PORT)));
    let algorithm = spec.optional("algorithm", algorithm, Algorithm::default());
    let workload = spec.optional("workloadLifetimeMinutes", |tree| within(tree, WORKLOAD_MINUTES), WORKLOAD_MINUTES.2);
    let node = spec.optional("nodeLifetimeHours", |tree| within(tree, NODE_HOURS), NODE_HOURS.2);
    let list = spec.optional("revocationListMinutes", |tree| within(tree, LIST_MINUTES), LIST_MINUTES.2);
    let (keys, store) = (spec.take_required("keys"), spec.take("store"));
    spec.close();
    let keys = keys.and_then(|tree| key_place(tree, problems));
    let store = store.map_or(Some(StorePlace::Embedded), |tree| store_place(tree, problems));
    Some(Issuing {
        trust_domain: trust_domain?.value,
        state_directory: state_directory?.value,
        listen: listen?.value,
        keys: keys?,
        store: store?,
        algorithm: algorithm?.value,
        workload_lifetime: Duration::minutes(workload?.value.into()),
        node_lifetime: Duration::hours(node?.value.into()),
        list_lifetime: Duration::minutes(list?.value.into()),
        placements: BTreeMap::new(),
    })
}

fn within(tree: &Tree, (least, most, _): (u32, u32, u32)) -> Result<u32, String> {
    integer(tree, least, most)
}

fn algorithm(tree: &Tree) -> Result<Algorithm, String> {
    let choices =
        [("ecdsa-p256", Algorithm::EcdsaP256), ("ecdsa-p384", Algorithm::EcdsaP384), ("ed25519", Algorithm::Ed25519)];
    choice(tree, &choices)
}

fn key_place(tree: Tree, problems: &mut Problems) -> Option<KeyPlace> {
    let mut keys = Fields::open(tree, "keys", problems)?;
    let (sealed, pkcs11) = (keys.take("passphrase"), keys.take("pkcs11"));
    match (&sealed, &pkcs11) {
        (None, None) => keys.missing("passphrase"),
        (Some(sealed), Some(_)) => {
            let message = "keys are either sealed with a passphrase or in a token; both cannot be; remove one";
            keys.problem(sealed.at, message);
        }
        _ => {}
    }
    keys.close();
    match (sealed, pkcs11) {
        (Some(tree), None) => Some(KeyPlace::Sealed(secret(tree, problems)?)),
        (None, Some(tree)) => {
            let mut token = Fields::open(tree, "pkcs11", problems)?;
            let (module, label) = (token.required("module", path), token.required("token", label));
            let pin = token.take_required("pin");
            token.close();
            let pin = secret(pin?, problems);
            Some(KeyPlace::Pkcs11 { module: module?.value, token: label?.value, pin: pin? })
        }
        _ => None,
    }
}

/// PKCS#11 gives a token's label 32 octets.
fn label(tree: &Tree) -> Result<String, String> {
    let label = text(tree)?;
    if (1..=32).contains(&label.len()) {
        return Ok(label.to_owned());
    }
    Err(format!("{:?} is no label of a token; they have 1 to 32 octets; see `softhsm2-util --show-slots`", label))
}

fn secret(tree: Tree, problems: &mut Problems) -> Option<Secret> {
    let at = tree.at;
    let mut place = Fields::open(tree, "a secret", problems)?;
    let file = place.take("file");
    let environment = place.take("environment");
    let credential = place.take("credential");
    place.close();
    let read = |tree: Option<Tree>, as_secret: fn(&Tree) -> Result<Secret, String>| tree.map(|tree| as_secret(&tree));
    let given = [
        read(file, |tree| path(tree).map(Secret::File)),
        read(environment, |tree| Ok(Secret::Environment(text(tree)?.to_owned()))),
        read(credential, |tree| Ok(Secret::Credential(text(tree)?.to_owned()))),
    ];
    let mut given = given.into_iter().flatten();
    match (given.next(), given.next()) {
        (Some(Ok(secret)), None) => Some(secret),
        (Some(Err(message)), None) => {
            problems.add(at, message);
            None
        }
        _ => {
            problems
                .add(at, "a secret is in one place; say which; write one of `file:`, `environment:`, `credential:`");
            None
        }
    }
}

fn store_place(tree: Tree, problems: &mut Problems) -> Option<StorePlace> {
    let mut store = Fields::open(tree, "store", problems)?;
    let etcd = store.take_required("etcd");
    store.close();
    let mut etcd = Fields::open(etcd?, "etcd", problems)?;
    let endpoints = etcd.take_required("endpoints");
    let prefix = etcd.optional("prefix", |tree| text(tree).map(str::to_owned), "enforcer/".to_owned());
    let tls = etcd.take("tls");
    etcd.close();
    let endpoints = endpoints.map(|tree| read_each(tree, endpoint, problems));
    let tls = match tls {
        Some(tree) => Some(etcd_tls(tree, problems)?),
        None => None,
    };
    let endpoints = endpoints?.into_iter().map(|endpoint| endpoint.value).collect();
    Some(StorePlace::Etcd { endpoints, prefix: prefix?.value, tls })
}

fn endpoint(tree: &Tree) -> Result<String, String> {
    let url = text(tree)?;
    if url.starts_with("http://") || url.starts_with("https://") {
        return Ok(url.to_owned());
    }
    Err(format!("{url:?} is no URL of etcd; it says whether there is TLS; write it like https://192.0.2.3:2379"))
}

fn etcd_tls(tree: Tree, problems: &mut Problems) -> Option<[PathBuf; 3]> {
    let mut tls = Fields::open(tree, "etcd tls", problems)?;
    let files = [tls.required("ca", path), tls.required("certificate", path), tls.required("key", path)];
    tls.close();
    let [ca, certificate, key] = files;
    Some([ca?.value, certificate?.value, key?.value])
}

fn placement(metadata: Tree, spec: Tree, problems: &mut Problems) -> Option<(Located<String>, Vec<Located<Identity>>)> {
    let mut metadata = Fields::open(metadata, "Placement metadata", problems)?;
    let node = metadata.required("name", name);
    metadata.close();
    let mut spec = Fields::open(spec, "Placement spec", problems)?;
    let identities = spec.take_required("identities");
    spec.close();
    let identities = read_each(identities?, identity, problems);
    Some((node?, identities))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn loaded(text: &str) -> Result<Issuing, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("control.yaml");
        fs::write(&path, text).unwrap();
        load(&path).map_err(|error| error.to_string())
    }

    #[test]
    fn the_example_is_read() {
        let wanted = loaded(include_str!("../../examples/control.yaml")).unwrap();
        assert_eq!((wanted.trust_domain.as_str(), wanted.listen.port()), ("example.org", CONTROL_PORT));
        assert_eq!(wanted.workload_lifetime, Duration::HOUR);
        assert_eq!(wanted.placements["node-a"].len(), 2);
        assert_eq!(wanted.keys, KeyPlace::Sealed(Secret::File("/etc/enforcer/passphrase".into())));
    }

    #[test]
    fn every_mistake_is_named() {
        let control =
            "kind: Control\nspec: {trustDomain: example.org, stateDirectory: /s, keys: {passphrase: {file: /p}}}\n";
        let cases = [
            ("", "there is no Control"),
            (&format!("{control}---\n{control}")[..], "a second Control"),
            (&control.replace("{passphrase: {file: /p}}", "{}"), "add `passphrase:`"),
            (&control.replace("{file: /p}", "{file: /p, environment: P}"), "a secret is in one place"),
            (&control.replace("{file: /p}", "{file: p}"), "no absolute path"),
            (&control.replace("stateDirectory", "workloadLifetimeMinutes: 4, stateDirectory"), "out of range"),
            (&control.replace("stateDirectory", "algorithm: rsa, stateDirectory"), "not a choice"),
            (&control.replace("stateDirectory", "store: {etcd: {endpoints: [a]}}, stateDirectory"), "no URL of etcd"),
            (
                &format!(
                    "{control}---\nkind: Placement\nmetadata: {{name: a}}\nspec: {{identities: [spiffe://b/a]}}\n"
                ),
                "outside the trust domain",
            ),
            (
                &format!(
                    "{control}---\nkind: Placement\nmetadata: {{name: a}}\n\
                     spec: {{identities: [spiffe://example.org/enforcer/control]}}\n"
                ),
                "below /enforcer/",
            ),
        ];
        for (text, expected) in cases {
            let error = loaded(text).unwrap_err();
            assert!(error.contains(expected), "{text}\n{error}");
        }
    }
}
