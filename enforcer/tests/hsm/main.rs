//! Keys in a token: `enforcer::ca::keys::Pkcs11` with SoftHSM (Debian package softhsm2).

#![expect(clippy::unwrap_used, reason = "what is not as it should be fails the test, in what a test calls, too")]

mod ground;
mod lost;
mod refused;

use std::thread;

use cryptoki::object::{Attribute, AttributeInfo, AttributeType, ObjectClass};
use enforcer::ca::keys::{Algorithm, Error, Key, Keys};
use ground::{alone, config, in_steps, open, session, wait};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PublicKeyData, SigningKey,
};
use rustls::pki_types::{CertificateDer, UnixTime};
use x509_parser::prelude::{FromDer, X509Certificate};

const ALGORITHMS: [Algorithm; 3] = [Algorithm::EcdsaP256, Algorithm::EcdsaP384, Algorithm::Ed25519];

#[test]
fn a_key_is_made_in_the_token_and_does_not_leave_it() {
    alone("a_key_is_made_in_the_token_and_does_not_leave_it", |_folder| {
        let keys = open(config()).unwrap();
        for (number, algorithm) in ALGORITHMS.into_iter().enumerate() {
            let label = format!("root/{number}");
            let _key = wait(keys.generate(&label, algorithm)).unwrap();
            let session = session(&ground::module());
            let by_label = [Attribute::Class(ObjectClass::PRIVATE_KEY), Attribute::Label(label.into())];
            let [private] = session.find_objects(&by_label).unwrap()[..] else { panic!("one private key") };
            let value = session.get_attribute_info(private, &[AttributeType::Value]).unwrap();
            assert!(matches!(value[..], [AttributeInfo::Sensitive]), "{algorithm}: {value:?}");
            assert!(session.get_attributes(private, &[AttributeType::Value]).unwrap().is_empty(), "{algorithm}");
            for wish in [Attribute::Extractable(true), Attribute::Sensitive(false)] {
                session.update_attributes(private, &[wish]).unwrap_err();
            }
        }
    });
}

#[test]
fn chains_that_the_token_signs_verify() {
    alone("chains_that_the_token_signs_verify", |_folder| {
        let keys = open(config()).unwrap();
        for (number, algorithm) in ALGORITHMS.into_iter().enumerate() {
            let root = wait(keys.generate(&format!("root/{number}"), algorithm)).unwrap();
            let intermediate = wait(keys.generate(&format!("intermediate/{number}"), algorithm)).unwrap();
            check_chain(&root, &intermediate);
        }
    });
}

/// Root, intermediate and leaf verify with two libraries.
fn check_chain(root_key: &Key, intermediate_key: &Key) {
    let root_params = authority("root");
    let root = root_params.self_signed(root_key).unwrap();
    let root_issuer = Issuer::new(root_params, root_key);
    let intermediate_params = authority("intermediate");
    let intermediate = intermediate_params.signed_by(intermediate_key, &root_issuer).unwrap();
    let mut leaf = CertificateParams::new(vec!["leaf.test".to_owned()]).unwrap();
    leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let leaf_key = KeyPair::generate().unwrap();
    let leaf = leaf.signed_by(&leaf_key, &Issuer::new(intermediate_params, intermediate_key)).unwrap();
    let [root, intermediate, leaf] = [root, intermediate, leaf].map(|certificate| certificate.der().clone());

    let anchor = webpki::anchor_from_trusted_cert(&root).unwrap();
    let end = webpki::EndEntityCert::try_from(&leaf).unwrap();
    let usage = webpki::KeyUsage::server_auth();
    let chain = [intermediate.clone()];
    end.verify_for_usage(webpki::ALL_VERIFICATION_ALGS, &[anchor], &chain, UnixTime::now(), usage, None, None).unwrap();
    for (certificate, issuer) in [(&root, &root), (&intermediate, &root), (&leaf, &intermediate)] {
        let issuer = read(issuer);
        read(certificate).verify_signature(Some(issuer.public_key())).unwrap();
    }
}

fn authority(name: &str) -> CertificateParams {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

fn read<'a>(certificate: &'a CertificateDer<'_>) -> X509Certificate<'a> {
    X509Certificate::from_der(certificate).unwrap().1
}

#[test]
fn another_process_finds_the_key_by_its_label() {
    in_steps("another_process_finds_the_key_by_its_label", 2, |step, folder| {
        let keys = open(config()).unwrap();
        for (number, algorithm) in ALGORITHMS.into_iter().enumerate() {
            let label = format!("root/{number}");
            let public = folder.join(number.to_string());
            if step == 0 {
                let key = wait(keys.generate(&label, algorithm)).unwrap();
                std::fs::write(&public, key.der_bytes()).unwrap();
                continue;
            }
            let key = wait(keys.open(&label)).unwrap();
            assert_eq!(key.der_bytes(), std::fs::read(&public).unwrap(), "{algorithm}");
            check_chain(&key, &key);
        }
    });
}

#[test]
fn labels_are_used_once_until_destroyed() {
    alone("labels_are_used_once_until_destroyed", |_folder| {
        let keys = open(config()).unwrap();
        let made = wait(keys.generate("root", Algorithm::EcdsaP256)).unwrap();
        let other = wait(keys.generate("other", Algorithm::EcdsaP256)).unwrap();
        for algorithm in ALGORITHMS {
            let refused = wait(keys.generate("root", algorithm));
            assert!(matches!(refused, Err(Error::Exists { .. })), "{refused:?}");
        }
        assert_eq!(wait(keys.open("root")).unwrap().der_bytes(), made.der_bytes());
        wait(keys.destroy("root")).unwrap();
        wait(keys.destroy("root")).unwrap();
        made.sign(b"message").unwrap_err();
        assert!(matches!(wait(keys.open("root")), Err(Error::Missing { .. })));
        let again = wait(keys.generate("root", Algorithm::EcdsaP256)).unwrap();
        assert_ne!(again.der_bytes(), made.der_bytes());
        made.sign(b"message").unwrap_err();
        check_chain(&again, &other);
    });
}

#[test]
fn eight_threads_sign_at_once() {
    alone("eight_threads_sign_at_once", |_folder| {
        let keys = open(config()).unwrap();
        let [one, other] = ["one", "other"].map(|label| wait(keys.generate(label, Algorithm::EcdsaP256)).unwrap());
        thread::scope(|scope| {
            for thread in 0..8 {
                let key = if thread % 2 == 0 { &one } else { &other };
                scope.spawn(move || {
                    for number in 0..25 {
                        check_signature(key, format!("{thread} {number}").as_bytes());
                    }
                });
            }
        });
    });
}

/// A signature of ECDSA P-256.
fn check_signature(key: &Key, message: &[u8]) {
    let signature = key.sign(message).unwrap();
    webpki::aws_lc_rs::ECDSA_P256_SHA256.verify_signature(key.der_bytes(), message, &signature).unwrap();
}

#[test]
fn a_token_is_opened_twice_in_one_process() {
    alone("a_token_is_opened_twice_in_one_process", |folder| {
        let link = folder.join("another name.so");
        std::os::unix::fs::symlink(ground::MODULE, &link).unwrap();
        let one = open(config()).unwrap();
        let other = open(enforcer::ca::keys::pkcs11::Config { module: link, ..config() }).unwrap();
        let key = wait(one.generate("root", Algorithm::EcdsaP256)).unwrap();
        check_chain(&key, &wait(other.open("root")).unwrap());
        drop((one, key));
        let key = wait(other.open("root")).unwrap();
        check_chain(&key, &key);
    });
}
