//! What is wrong is said precisely, before anything is done.

use std::fs;

use cryptoki::mechanism::Mechanism;
use cryptoki::object::Attribute;
use cryptoki::session::UserType;
use cryptoki::types::AuthPin;
use enforcer::ca::keys::pkcs11::{Config, Error as TokenError};
use enforcer::ca::keys::{Algorithm, Error, Keys};

use super::ground::{self, PIN, TOKEN, alone, config, open, pin, session, wait};

/// Why a token is not opened.
fn refused(config: Config) -> TokenError {
    match open(config).map(drop) {
        Err(Error::Token(error)) => error,
        other => panic!("{other:?}"),
    }
}

#[test]
fn modules_that_are_none() {
    alone("refused::modules_that_are_none", |folder| {
        let nowhere = folder.join("nowhere.so");
        let text = folder.join("text.so");
        fs::write(&text, "no library").unwrap();
        let error = refused(Config { module: nowhere.clone(), ..config() });
        assert!(matches!(&error, TokenError::NoModule { module, .. } if *module == nowhere), "{error}");
        for module in [text, "/lib/x86_64-linux-gnu/libm.so.6".into()] {
            let error = refused(Config { module: module.clone(), ..config() });
            assert!(matches!(&error, TokenError::Module { module: named, .. } if *named == module), "{error}");
        }
    });
}

#[test]
fn tokens_that_are_missing_or_not_the_only_one() {
    alone("refused::tokens_that_are_missing_or_not_the_only_one", |folder| {
        let error = refused(Config { token: "nobody".to_owned(), ..config() });
        assert!(matches!(&error, TokenError::NoToken { token, .. } if token == "nobody"), "{error}");
        let text = error.to_string();
        assert!(text.contains("another") && text.contains(TOKEN) && text.contains(ground::MODULE), "{text}");

        let module = ground::module();
        let free = module.get_slots_with_token().unwrap();
        let free = free.into_iter().find(|slot| !module.get_token_info(*slot).unwrap().token_initialized()).unwrap();
        module.init_token(free, &AuthPin::new("5678".into()), TOKEN).unwrap();
        let error = refused(config());
        assert!(matches!(&error, TokenError::SeveralTokens { count: 2, .. }), "{error}");

        // A module that cannot read its configuration.
        module.finalize().unwrap();
        fs::remove_file(folder.join("softhsm2.conf")).unwrap();
        let error = refused(config());
        assert!(matches!(&error, TokenError::Initialize { .. }), "{error}");
    });
}

#[test]
fn wrong_pins() {
    alone("refused::wrong_pins", |_folder| {
        for wrong in ["4321", "1", "12345678901234567890"] {
            let error = refused(Config { pin: pin(wrong), ..config() });
            assert!(matches!(&error, TokenError::WrongPin { token } if token == TOKEN), "{wrong}: {error}");
            assert!(!format!("{error:?} {error}").contains(&format!("\"{wrong}\"")));
        }
        open(config()).map(drop).unwrap();
    });
}

#[test]
fn a_token_without_a_pin() {
    alone("refused::a_token_without_a_pin", |_folder| {
        open(config()).map(drop).unwrap();
        let module = ground::module();
        let slots = module.get_slots_with_token().unwrap();
        let free = slots.into_iter().find(|slot| !module.get_token_info(*slot).unwrap().token_initialized()).unwrap();
        module.init_token(free, &AuthPin::new("5678".into()), "new").unwrap();
        let error = refused(Config { token: "new".to_owned(), ..config() });
        assert!(matches!(error, TokenError::NoPin { .. }), "{error}");
    });
}

#[test]
fn a_pin_that_was_refused_is_not_tried_again() {
    alone("refused::a_pin_that_was_refused_is_not_tried_again", |_folder| {
        let keys = open(config()).unwrap();
        let _key = wait(keys.generate("root", Algorithm::EcdsaP256)).unwrap();
        let module = ground::module();
        let change = |old: &str, new: &str| {
            let session = module.open_rw_session(ground::slot(&module)).unwrap();
            session.login(UserType::User, Some(&AuthPin::new(old.into()))).unwrap();
            session.set_pin(&AuthPin::new(old.into()), &AuthPin::new(new.into())).unwrap();
            session.logout().unwrap();
        };
        // All sessions end, so that the next call logs in anew.
        session(&module).logout().unwrap();
        change(PIN, "4321");
        let is_refused = || {
            let refused = wait(keys.open("root"));
            assert!(matches!(refused, Err(Error::Token(TokenError::WrongPin { .. }))), "{refused:?}");
        };
        is_refused();
        // Now it would be the right one.
        change("4321", PIN);
        is_refused();
        let _key = wait(open(config()).unwrap().open("root")).unwrap();
    });
}

#[test]
fn keys_that_are_missing_or_of_another_kind() {
    alone("refused::keys_that_are_missing_or_of_another_kind", |_folder| {
        let keys = open(config()).unwrap();
        let session = session(&ground::module());
        let missing = wait(keys.open("root")).unwrap_err();
        assert!(matches!(&missing, Error::Missing { label, place } if label == "root" && place.contains(TOKEN)));

        let own =
            |label: &str, id: u8| [Attribute::Token(true), Attribute::Label(label.into()), Attribute::Id(vec![id])];
        let bits = [Attribute::ModulusBits(2048.into())];
        let rsa = [&own("rsa", 1)[..], &bits].concat();
        session.generate_key_pair(&Mechanism::RsaPkcsKeyPairGen, &rsa, &own("rsa", 1)).unwrap();
        // P-521 (RFC 5480 2.1.1.1).
        let curve = [Attribute::EcParams(vec![0x06, 0x05, 0x2b, 0x81, 0x04, 0x00, 0x23])];
        let p521 = [&own("p521", 2)[..], &curve].concat();
        session.generate_key_pair(&Mechanism::EccKeyPairGen, &p521, &own("p521", 2)).unwrap();
        let curve = [Attribute::EcParams(vec![0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07])];
        for id in [3, 4] {
            let twice = [&own("twice", id)[..], &curve].concat();
            session.generate_key_pair(&Mechanism::EccKeyPairGen, &twice, &own("twice", id)).unwrap();
        }
        // The public key of another.
        let public = [&own("mixed", 5)[..], &curve].concat();
        session.generate_key_pair(&Mechanism::EccKeyPairGen, &public, &own("mixed", 6)).unwrap();
        let public = [&own("other", 6)[..], &curve].concat();
        session.generate_key_pair(&Mechanism::EccKeyPairGen, &public, &own("other", 5)).unwrap();

        for (label, words) in [("rsa", "CKK_RSA"), ("p521", "curve"), ("mixed", "signature")] {
            let error = wait(keys.open(label)).unwrap_err();
            assert!(matches!(&error, Error::Token(TokenError::Unsupported { .. })), "{label}: {error}");
            assert!(error.to_string().contains(words), "{label}: {error}");
        }
        for error in [wait(keys.open("twice")).map(drop), wait(keys.destroy("twice"))] {
            assert!(matches!(error, Err(Error::Token(TokenError::SeveralKeys { count: 2, .. }))), "{error:?}");
        }
        assert!(matches!(wait(keys.generate("twice", Algorithm::Ed25519)), Err(Error::Exists { .. })));
        assert!(matches!(wait(keys.open("a b")), Err(Error::Label { .. })));
    });
}
