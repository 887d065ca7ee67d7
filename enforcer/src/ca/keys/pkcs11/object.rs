//! The keys in a token: two objects each, a private and a public one, with the same label and CKA_ID.
//!
//! PKCS#11 does not keep two keys from having the same label. So it is looked for before a key is made, and again after
//! it, because another process may have done the same meanwhile: then ours is removed.

use cryptoki::mechanism::{Mechanism, MechanismType};
use cryptoki::object::{Attribute, AttributeType, KeyType, ObjectClass, ObjectHandle};

use super::token::{Failure, Open, calling};
use super::{Algorithm, Error, KeysError};

/// Object identifiers of curves, DER (RFC 5480 2.1.1.1, RFC 8410 3).
const P256: &[u8] = &[0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];
const P384: &[u8] = &[0x06, 0x05, 0x2b, 0x81, 0x04, 0x00, 0x22];
const ED25519: &[u8] = &[0x06, 0x03, 0x2b, 0x65, 0x70];
/// The name that PKCS#11 3.0 has for the last (2.3.5), a PrintableString.
const ED25519_NAME: &[u8] = b"\x13\x0cedwards25519";

const ID_LEN: usize = 16;

/// What is known of a key outside the token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Public {
    pub(super) algorithm: Algorithm,
    /// CKA_ID, which the private key has too.
    pub(super) id: Vec<u8>,
    /// As in a certificate: an uncompressed point, or the 32 octets of RFC 8032.
    pub(super) point: Vec<u8>,
}

/// The key with this label.
pub(super) fn find(open: &mut Open, label: &str) -> Result<Public, Failure> {
    let private = match search(open, ObjectClass::PRIVATE_KEY, Attribute::Label(label.into()))?[..] {
        [private] => private,
        [] => return Err(missing(open, label).into()),
        ref several => return Err(several_keys(open, label, several.len()).into()),
    };
    let [Some(Attribute::Id(id))] = read(open, private, [AttributeType::Id])? else {
        return Err(Error::unsupported(&open.token, label, "it has no CKA_ID to find its public key by").into());
    };
    let [public] = search(open, ObjectClass::PUBLIC_KEY, Attribute::Id(id.clone()))?[..] else {
        let why = "there must be exactly one public key with its CKA_ID";
        return Err(Error::unsupported(&open.token, label, why).into());
    };
    public_key(open, label, public, id)
}

/// Makes a key.
pub(super) fn generate(open: &mut Open, label: &str, algorithm: Algorithm) -> Result<Public, Failure> {
    check_mechanisms(open, algorithm)?;
    for class in [ObjectClass::PRIVATE_KEY, ObjectClass::PUBLIC_KEY] {
        if !search(open, class, Attribute::Label(label.into()))?.is_empty() {
            return Err(exists(open, label).into());
        }
    }
    let mut id = vec![0; ID_LEN];
    aws_lc_rs::rand::fill(&mut id)
        .map_err(|_unspecified| Error::unsupported(&open.token, label, "there are no random numbers for its CKA_ID"))?;
    let (public, private) = make(open, label, &id, algorithm)?;
    let checked = check_made(open, label, private).and_then(|()| public_key(open, label, public, id));
    if checked.is_err() {
        // The check's own failure is what is told; what is left of the key is in the way of the next that is made.
        for object in [private, public] {
            if let Err(error) = open.session.destroy_object(object) {
                tracing::warn!(key = label, %error, "key that was refused cannot be removed");
            }
        }
    }
    checked
}

/// Removes the key with this label, if there is one.
pub(super) fn destroy(open: &mut Open, label: &str) -> Result<(), Failure> {
    let private = search(open, ObjectClass::PRIVATE_KEY, Attribute::Label(label.into()))?;
    if private.len() > 1 {
        return Err(several_keys(open, label, private.len()).into());
    }
    let public = search(open, ObjectClass::PUBLIC_KEY, Attribute::Label(label.into()))?;
    open.handles.clear();
    for object in private.into_iter().chain(public) {
        open.session.destroy_object(object).map_err(calling("destroy a key"))?;
    }
    Ok(())
}

/// The handle of a private key.
pub(super) fn private(open: &mut Open, label: &str, id: &[u8]) -> Result<ObjectHandle, Failure> {
    if let Some(handle) = open.handles.get(id) {
        return Ok(*handle);
    }
    let template = [
        Attribute::Class(ObjectClass::PRIVATE_KEY),
        Attribute::Label(label.into()),
        Attribute::Id(id.to_vec()),
        Attribute::Token(true),
    ];
    match open.session.find_objects(&template).map_err(calling("find a key"))?[..] {
        [handle] => {
            open.handles.insert(id.to_vec(), handle);
            Ok(handle)
        }
        [] => Err(missing(open, label).into()),
        ref several => Err(several_keys(open, label, several.len()).into()),
    }
}

fn search(open: &Open, class: ObjectClass, by: Attribute) -> Result<Vec<ObjectHandle>, Failure> {
    let template = [Attribute::Class(class), Attribute::Token(true), by];
    open.session.find_objects(&template).map_err(calling("find a key"))
}

/// Attributes in the order in which they are asked for; `None` where the token does not say.
fn read<const N: usize>(
    open: &Open,
    object: ObjectHandle,
    types: [AttributeType; N],
) -> Result<[Option<Attribute>; N], Failure> {
    let found = open.session.get_attributes(object, &types).map_err(calling("read a key's attributes"))?;
    Ok(types.map(|wanted| found.iter().find(|attribute| attribute.attribute_type() == wanted).cloned()))
}

fn check_mechanisms(open: &Open, algorithm: Algorithm) -> Result<(), Failure> {
    let wanted = match algorithm {
        Algorithm::EcdsaP256 | Algorithm::EcdsaP384 => {
            [(MechanismType::ECC_KEY_PAIR_GEN, "CKM_EC_KEY_PAIR_GEN"), (MechanismType::ECDSA, "CKM_ECDSA")]
        }
        Algorithm::Ed25519 => [
            (MechanismType::ECC_EDWARDS_KEY_PAIR_GEN, "CKM_EC_EDWARDS_KEY_PAIR_GEN"),
            (MechanismType::EDDSA, "CKM_EDDSA"),
        ],
    };
    let has = open.context.get_mechanism_list(open.slot).map_err(calling("list mechanisms"))?;
    match wanted.into_iter().find(|(mechanism, _)| !has.contains(mechanism)) {
        None => Ok(()),
        Some((_, mechanism)) => Err(Error::Algorithm { token: open.token.clone(), algorithm, mechanism }.into()),
    }
}

/// Makes the two objects: the public one, the private one.
fn make(open: &Open, label: &str, id: &[u8], algorithm: Algorithm) -> Result<(ObjectHandle, ObjectHandle), Failure> {
    let (mechanism, curve) = match algorithm {
        Algorithm::EcdsaP256 => (Mechanism::EccKeyPairGen, P256),
        Algorithm::EcdsaP384 => (Mechanism::EccKeyPairGen, P384),
        Algorithm::Ed25519 => (Mechanism::EccEdwardsKeyPairGen, ED25519),
    };
    let common = [Attribute::Token(true), Attribute::Label(label.into()), Attribute::Id(id.to_vec())];
    let public = [Attribute::Private(false), Attribute::Verify(true), Attribute::EcParams(curve.to_vec())];
    let private =
        [Attribute::Private(true), Attribute::Sensitive(true), Attribute::Extractable(false), Attribute::Sign(true)];
    let (public, private) = ([&common[..], &public].concat(), [&common[..], &private].concat());
    open.session.generate_key_pair(&mechanism, &public, &private).map_err(calling("make a key"))
}

/// It is the only one with its label, and it cannot leave the token.
fn check_made(open: &Open, label: &str, private: ObjectHandle) -> Result<(), Failure> {
    let same = search(open, ObjectClass::PRIVATE_KEY, Attribute::Label(label.into()))?;
    if same.len() != 1 {
        return Err(exists(open, label).into());
    }
    let wanted = [
        (Attribute::Token(true), "CKA_TOKEN is not true"),
        (Attribute::Private(true), "CKA_PRIVATE is not true"),
        (Attribute::Sensitive(true), "CKA_SENSITIVE is not true"),
        (Attribute::AlwaysSensitive(true), "CKA_ALWAYS_SENSITIVE is not true"),
        (Attribute::Extractable(false), "CKA_EXTRACTABLE is not false"),
        (Attribute::NeverExtractable(true), "CKA_NEVER_EXTRACTABLE is not true"),
    ];
    let has = read(open, private, wanted.each_ref().map(|(attribute, _)| attribute.attribute_type()))?;
    for ((wanted, attribute), has) in wanted.into_iter().zip(has) {
        if has.as_ref() != Some(&wanted) {
            return Err(Error::Exposed { token: open.token.clone(), label: label.to_owned(), attribute }.into());
        }
    }
    Ok(())
}

fn public_key(open: &Open, label: &str, public: ObjectHandle, id: Vec<u8>) -> Result<Public, Failure> {
    let unsupported = |why: String| Failure::from(Error::unsupported(&open.token, label, why));
    let types = [AttributeType::KeyType, AttributeType::EcParams, AttributeType::EcPoint];
    let [kind, curve, point] = read(open, public, types)?;
    match kind {
        Some(Attribute::KeyType(KeyType::EC | KeyType::EC_EDWARDS)) => {}
        Some(Attribute::KeyType(other)) => {
            return Err(unsupported(format!("its type is {other}, not CKK_EC or CKK_EC_EDWARDS")));
        }
        _ => return Err(unsupported("its type is unknown".to_owned())),
    }
    let (Some(Attribute::EcParams(curve)), Some(Attribute::EcPoint(point))) = (curve, point) else {
        return Err(unsupported("its public key has no CKA_EC_PARAMS or no CKA_EC_POINT".to_owned()));
    };
    let algorithm =
        algorithm(&curve).ok_or_else(|| unsupported("its curve is not P-256, P-384 or Ed25519".to_owned()))?;
    let point = unwrap_point(algorithm, &point)
        .ok_or_else(|| unsupported("its CKA_EC_POINT is no uncompressed point of its curve".to_owned()))?;
    Ok(Public { algorithm, id, point })
}

fn algorithm(curve: &[u8]) -> Option<Algorithm> {
    match curve {
        P256 => Some(Algorithm::EcdsaP256),
        P384 => Some(Algorithm::EcdsaP384),
        ED25519 | ED25519_NAME => Some(Algorithm::Ed25519),
        _ => None,
    }
}

/// PKCS#11 wants an OCTET STRING around the point (2.3.3), and wanted none for Ed25519 in version 3.0; there are tokens
/// that never have one. The lengths tell.
fn unwrap_point(algorithm: Algorithm, point: &[u8]) -> Option<Vec<u8>> {
    const OCTET_STRING: u8 = 0x04;
    const UNCOMPRESSED: u8 = 0x04;
    let (length, form) = match algorithm {
        Algorithm::EcdsaP256 => (65, Some(UNCOMPRESSED)),
        Algorithm::EcdsaP384 => (97, Some(UNCOMPRESSED)),
        Algorithm::Ed25519 => (32, None),
    };
    let inner = match point {
        [OCTET_STRING, wrapped, inner @ ..] if usize::from(*wrapped) == length && inner.len() == length => inner,
        bare if bare.len() == length => bare,
        _ => return None,
    };
    form.is_none_or(|form| inner[0] == form).then(|| inner.to_vec())
}

fn place(open: &Open) -> String {
    format!("token {}", open.token)
}

fn missing(open: &Open, label: &str) -> KeysError {
    KeysError::Missing { label: label.to_owned(), place: place(open) }
}

fn exists(open: &Open, label: &str) -> KeysError {
    KeysError::Exists { label: label.to_owned(), place: place(open) }
}

fn several_keys(open: &Open, label: &str, count: usize) -> Error {
    Error::SeveralKeys { token: open.token.clone(), label: label.to_owned(), count }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_are_taken_with_and_without_a_wrapper() {
        for (algorithm, length) in [(Algorithm::EcdsaP256, 65), (Algorithm::EcdsaP384, 97), (Algorithm::Ed25519, 32)] {
            let mut point = vec![7; length];
            point[0] = 4;
            let wrapped = [&[4, u8::try_from(length).unwrap()], &point[..]].concat();
            assert_eq!(unwrap_point(algorithm, &point).unwrap(), point);
            assert_eq!(unwrap_point(algorithm, &wrapped).unwrap(), point);
            for changed in [&[][..], &point[1..], &wrapped[..length + 1], &[&wrapped[..], &[0]].concat()] {
                assert_eq!(unwrap_point(algorithm, changed), None, "{algorithm} {}", changed.len());
            }
            let mut other = wrapped.clone();
            other[0] = 5;
            assert_eq!(unwrap_point(algorithm, &other), None);
        }
        let mut compressed = vec![7; 65];
        compressed[0] = 2;
        assert_eq!(unwrap_point(Algorithm::EcdsaP256, &compressed), None);
    }
}
