//! Keys: made here, hashed here, stored nowhere else but as their hash.

use sha2::{Digest, Sha256};

use crate::clock::random_bytes;

const ALPHABET: &[u8; 36] = b"abcdefghijklmnopqrstuvwxyz0123456789";
/// Characters of each group of a key.
const GROUPS: [usize; 5] = [10, 4, 4, 4, 12];

/// A new key, in the one form that every client accepts: `lf` and 8 characters, then 4-4-4-12. Its 32 random
/// characters hold 165 bits.
#[must_use]
pub fn new_key() -> String {
    let mut key = String::with_capacity(38);
    for (index, length) in GROUPS.into_iter().enumerate() {
        if index > 0 {
            key.push('-');
        }
        let random = if index == 0 {
            key.push_str("lf");
            length - 2
        } else {
            length
        };
        for _ in 0..random {
            key.push(random_character());
        }
    }
    key
}

fn random_character() -> char {
    loop {
        // 252 = 7 · 36: larger bytes are thrown away, so that no character is likelier than another.
        let [byte] = random_bytes::<1>();
        if byte < 252
            && let Some(character) = ALPHABET.get(usize::from(byte) % ALPHABET.len())
        {
            return char::from(*character);
        }
    }
}

/// What is stored of a key. A key has more entropy than a guess can spend, so one SHA-256 is enough.
#[must_use]
pub fn hash_key(key: &str) -> [u8; 32] {
    Sha256::digest(key.as_bytes()).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_have_the_form_and_differ() {
        let mut seen = std::collections::HashSet::new();
        let mut characters = std::collections::HashSet::new();
        for _ in 0..200 {
            let key = new_key();
            let groups: Vec<&str> = key.split('-').collect();
            assert_eq!(groups.iter().map(|group| group.len()).collect::<Vec<_>>(), GROUPS);
            assert!(key.starts_with("lf"), "{key}");
            assert!(groups.concat().bytes().all(|b| ALPHABET.contains(&b)), "{key}");
            characters.extend(groups.concat().bytes());
            assert!(seen.insert(key));
        }
        assert_eq!(characters.len(), ALPHABET.len());
    }

    #[test]
    fn a_hash_is_the_same_every_time() {
        assert_eq!(hex::encode(hash_key("abc")), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    }
}
