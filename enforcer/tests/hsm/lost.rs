//! Sessions, logins and tokens that go away, and come back.

use std::fs;

use enforcer::ca::keys::pkcs11::Error as TokenError;
use enforcer::ca::keys::{Algorithm, Error, Keys};
use rcgen::SigningKey;

use super::ground::{self, alone, config, open, session, tokens, wait};

#[test]
fn a_login_that_is_lost_is_not_noticed() {
    alone("lost::a_login_that_is_lost_is_not_noticed", |_folder| {
        let keys = open(config()).unwrap();
        let key = wait(keys.generate("root", Algorithm::EcdsaP256)).unwrap();
        let somebody = session(&ground::module());
        for _again in 0..3 {
            somebody.logout().unwrap();
            super::check_signature(&key, b"message");
            somebody.logout().unwrap();
            super::check_signature(&wait(keys.open("root")).unwrap(), b"message");
            somebody.logout().unwrap();
            let _key = wait(keys.generate("another", Algorithm::Ed25519)).unwrap();
            somebody.logout().unwrap();
            wait(keys.destroy("another")).unwrap();
        }
    });
}

#[test]
fn a_module_that_is_reset_is_not_noticed() {
    alone("lost::a_module_that_is_reset_is_not_noticed", |_folder| {
        let keys = open(config()).unwrap();
        let key = wait(keys.generate("root", Algorithm::EcdsaP256)).unwrap();
        for _again in 0..3 {
            ground::module().finalize().unwrap();
            super::check_signature(&key, b"message");
        }
    });
}

#[test]
fn a_token_that_is_taken_away_is_used_again_when_it_is_back() {
    alone("lost::a_token_that_is_taken_away_is_used_again_when_it_is_back", |folder| {
        let keys = open(config()).unwrap();
        let key = wait(keys.generate("root", Algorithm::EcdsaP256)).unwrap();
        let away = folder.join("away");
        fs::rename(tokens(folder), &away).unwrap();
        fs::create_dir(tokens(folder)).unwrap();
        // SoftHSM looks for tokens when it begins.
        ground::module().finalize().unwrap();
        for _again in 0..2 {
            key.sign(b"message").unwrap_err();
            let lost = wait(keys.open("root"));
            assert!(matches!(lost, Err(Error::Token(TokenError::NoToken { .. }))), "{lost:?}");
        }
        fs::remove_dir_all(tokens(folder)).unwrap();
        fs::rename(&away, tokens(folder)).unwrap();
        ground::module().finalize().unwrap();
        super::check_signature(&key, b"message");
    });
}
