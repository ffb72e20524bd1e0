//! Keys: what identifies one answer. A [`Key`] is the short name that the table, the log and a Redis
//! Cluster see; [`Canonical`] is the whole question behind it, kept beside the value and compared on
//! every read, so that a collision of hashes is a miss and never a wrong answer.
//!
//! ```text
//! egret:{<hash of the canonical request, 22>}:<index uuid, 22>:<generation, hex.hex>   one index
//! egret:{<hash of the canonical request, 22>}:m:<hash of the sorted versions, 22>      several or none
//! ```
//!
//! Hashes and UUIDs are base64url without padding. What a request means, and what belongs to its
//! scope, is the caller's business.

use std::fmt;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use uuid::Uuid;
use xxhash_rust::xxh3::{xxh3_64, xxh3_128, xxh3_128_with_secret};

use crate::slot::Slot;

/// No key is longer, whatever the request is.
pub const MAX_KEY_BYTES: usize = 100;

/// The name of one published state of an index, never used twice.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Generation {
    /// Rises with every open of the index.
    pub term: u64,
    /// Rises with every publication.
    pub number: u64,
}

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}.{:x}", self.term, self.number)
    }
}

/// An index at one generation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version {
    /// The index. One that is made again under the same name has a new UUID.
    pub index: Uuid,
    /// The published state that was searched.
    pub generation: Generation,
}

impl Version {
    /// Its length in bytes where it is written down.
    pub(crate) const BYTES: usize = 32;

    pub(crate) fn to_bytes(self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        bytes[..16].copy_from_slice(self.index.as_bytes());
        bytes[16..24].copy_from_slice(&self.generation.term.to_le_bytes());
        bytes[24..].copy_from_slice(&self.generation.number.to_le_bytes());
        bytes
    }
}

/// The versions that an answer was made from: sorted, each once.
pub(crate) fn sorted_versions(versions: impl IntoIterator<Item = Version>) -> Arc<[Version]> {
    let mut versions: Vec<_> = versions.into_iter().collect();
    versions.sort_unstable();
    versions.dedup();
    versions.into()
}

/// A request in the one form that all its equivalents share, with the scope that it was asked in
/// (tenant, role, filters, alias resolution, settings versions, locale, time zone).
///
/// Each part is written with the length of its name and value, so no text within a part can be
/// taken for another part.
///
/// ```
/// use egret_results::Canonical;
///
/// let one = Canonical::new([("tenant", b"a".as_slice()), ("query", b"b")]);
/// let other = Canonical::new([("tenant", b"ab".as_slice()), ("query", b"")]);
/// assert_ne!(one, other);
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Canonical(Bytes);

impl Canonical {
    /// From named parts, in an order that the caller always keeps.
    pub fn new<'part>(parts: impl IntoIterator<Item = (&'part str, &'part [u8])>) -> Self {
        let mut bytes = Vec::new();
        for (name, value) in parts {
            for part in [name.as_bytes(), value] {
                bytes.extend_from_slice(&(part.len() as u64).to_le_bytes());
                bytes.extend_from_slice(part);
            }
        }
        Self(bytes.into())
    }

    /// Everything, as it is hashed, stored and compared.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// The secret that requests are hashed with, so that nobody outside can make keys collide or
/// foresee a slot. It lies in the data folder; a new one makes every stored answer unreachable.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret([u8; Self::BYTES]);

impl Secret {
    /// Its length in bytes: XXH3's own.
    pub const BYTES: usize = 192;

    /// One that nobody knows.
    pub fn random() -> Self {
        let mut bytes = [0; Self::BYTES];
        for chunk in bytes.chunks_exact_mut(16) {
            chunk.copy_from_slice(Uuid::new_v4().as_bytes());
        }
        Self(bytes)
    }

    /// One that was kept.
    pub fn from_bytes(bytes: [u8; Self::BYTES]) -> Self {
        Self(bytes)
    }

    /// To keep it.
    pub fn as_bytes(&self) -> &[u8; Self::BYTES] {
        &self.0
    }

    fn hash(&self, canonical: &[u8]) -> u128 {
        xxh3_128_with_secret(canonical, &self.0)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// The name of one answer: at most [`MAX_KEY_BYTES`] of printable ASCII.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Key(Arc<str>);

impl Key {
    /// The key of a request over these versions, which are sorted.
    pub(crate) fn new(secret: &Secret, canonical: &[u8], versions: &[Version]) -> Self {
        let request = base64(secret.hash(canonical).to_be_bytes());
        let text = if let [Version { index, generation }] = versions {
            format!("egret:{{{request}}}:{}:{generation}", base64(*index.as_bytes()))
        } else {
            let bytes: Vec<u8> = versions.iter().flat_map(|version| version.to_bytes()).collect();
            format!("egret:{{{request}}}:m:{}", base64(xxh3_128(&bytes).to_be_bytes()))
        };
        debug_assert!(text.len() <= MAX_KEY_BYTES, "key [{text}] is too long");
        Self(text.into())
    }

    /// Its text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Its slot in a Redis Cluster.
    pub fn slot(&self) -> Slot {
        Slot::of(self.0.as_bytes())
    }

    /// What the table of a shard looks it up by.
    pub(crate) fn hash(&self) -> u64 {
        xxh3_64(self.0.as_bytes())
    }

    /// Names the request at any generation, so that one which was popular is known again.
    pub(crate) fn request_hash(&self) -> u64 {
        const TAG_END: usize = "egret:{".len() + 22;
        xxh3_64(self.0.as_bytes().get(..TAG_END).unwrap_or_default())
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({})", self.0)
    }
}

fn base64(bytes: [u8; 16]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn secret() -> Secret {
        Secret::from_bytes([7; Secret::BYTES])
    }

    fn version(index: u128, term: u64, number: u64) -> Version {
        Version { index: Uuid::from_u128(index), generation: Generation { term, number } }
    }

    fn key(canonical: &[u8], versions: &[Version]) -> Key {
        Key::new(&secret(), canonical, &sorted_versions(versions.iter().copied()))
    }

    #[test]
    fn a_key_is_readable_and_names_index_and_generation() {
        let text = key(b"request", &[version(1, 0x1f, 0x2a)]).to_string();
        assert!(text.starts_with("egret:{"), "{text}");
        assert!(text.ends_with("}:AAAAAAAAAAAAAAAAAAAAAQ:1f.2a"), "{text}");
    }

    #[test]
    fn the_order_of_indexes_does_not_matter_but_their_generations_do() {
        let (a, b) = (version(1, 1, 1), version(2, 1, 1));
        assert_eq!(key(b"r", &[a, b]), key(b"r", &[b, a, b]));
        assert_ne!(key(b"r", &[a, b]), key(b"r", &[a, version(2, 1, 2)]));
        assert_ne!(key(b"r", &[a, b]), key(b"r", &[a]));
        assert_ne!(key(b"r", &[]), key(b"r", &[a]));
        assert!(key(b"r", &[a, b]).as_str().contains("}:m:"));
    }

    #[test]
    fn generations_of_one_request_share_a_slot_and_requests_of_one_index_do_not() {
        let at = |canonical: &[u8], number| key(canonical, &[version(1, 1, number)]);
        assert_eq!(at(b"r", 1).slot(), at(b"r", 2).slot());
        assert_eq!(at(b"r", 1).request_hash(), at(b"r", 2).request_hash());
        let slots: std::collections::HashSet<_> =
            (0..100_u8).map(|byte| at(&[byte], 1).slot()).collect();
        assert!(slots.len() > 90, "{} slots for 100 requests", slots.len());
    }

    #[test]
    fn another_secret_gives_another_key() {
        let versions = [version(1, 1, 1)];
        let other = Key::new(&Secret::random(), b"r", &versions);
        assert_ne!(other, Key::new(&secret(), b"r", &versions));
    }

    /// Parts made of what separates parts: lengths, quotes, braces, nothing.
    fn part() -> impl Strategy<Value = String> {
        let atom = prop::sample::select(vec![
            "",
            "a",
            "b",
            ":",
            "{",
            "}",
            "\0",
            "|",
            "=",
            "&",
            "\"",
            "\u{1}\0\0\0\0\0\0\0",
            ",",
            " ",
        ]);
        prop::collection::vec(atom, 0..4).prop_map(|atoms| atoms.concat())
    }

    fn parts() -> impl Strategy<Value = Vec<(String, String)>> {
        prop::collection::vec((part(), part()), 0..4)
    }

    fn canonical(parts: &[(String, String)]) -> Canonical {
        Canonical::new(parts.iter().map(|(name, value)| (name.as_str(), value.as_bytes())))
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4096))]

        #[test]
        fn different_parts_never_share_a_canonical_form(one in parts(), other in parts()) {
            prop_assert_eq!(one == other, canonical(&one) == canonical(&other));
        }

        #[test]
        fn a_key_is_short_printable_and_has_one_hash_tag(
            canonical: Vec<u8>,
            versions in prop::collection::vec((any::<u128>(), any::<u64>(), any::<u64>()), 0..5),
        ) {
            let versions: Vec<_> =
                versions.into_iter().map(|(index, term, number)| version(index, term, number)).collect();
            let key = key(&canonical, &versions);
            prop_assert!(key.as_str().len() <= MAX_KEY_BYTES);
            prop_assert!(key.as_str().bytes().all(|byte| byte.is_ascii_graphic()));
            prop_assert_eq!(key.slot(), Slot::of(&key.as_str().as_bytes()["egret:{".len()..][..22]));
        }
    }

    #[test]
    fn the_largest_numbers_fit() {
        let key = key(b"", &[version(u128::MAX, u64::MAX, u64::MAX)]);
        assert_eq!(key.as_str().len(), 87);
    }
}
