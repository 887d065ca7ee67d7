//! Any octets as what a Workload API answers.

use prost::Message;

use super::{Answer, X509svidResponse, check, crypto_provider_for, validity};
use crate::control::snapshot::Cipher;
use crate::fuzzing::{Input, key, signed};
use crate::identity::Identity;

/// A certificate that passes is whose it says, and can be read.
pub(crate) fn answer(data: &[u8]) {
    let mut input = Input(data);
    let is_signed = input.octet().unwrap_or_default() & 1 != 0;
    let Ok(mut response) = X509svidResponse::decode(input.0) else { return };
    if is_signed {
        for svid in &mut response.svids {
            svid.x509_svid = Input(&svid.x509_svid).parts().into_iter().flat_map(signed).collect();
            svid.bundle = Input(&svid.bundle).parts().into_iter().flat_map(signed).collect();
            if svid.x509_svid_key.is_empty() {
                svid.x509_svid_key = key().secret_pkcs8_der().to_vec();
            }
        }
        response.crl = response.crl.iter().map(|list| signed(list)).collect();
    }
    let Ok(Answer { svids, trust: Some(trust) }) = Answer::read(response, "example.org") else { return };
    let provider = crypto_provider_for(Cipher::Aes128Gcm);
    for svid in svids {
        let Ok(identity) = svid.name.parse::<Identity>() else { continue };
        let leaf = svid.chain.first().cloned();
        if check((svid.chain, &svid.key), &trust.anchors, &identity, &provider).is_ok() {
            assert!(leaf.is_some_and(|leaf| validity(&leaf).is_some()));
        }
    }
}
