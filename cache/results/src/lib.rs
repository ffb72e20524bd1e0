//! The result cache: opaque answers under keys that name the request and the generation of every
//! index that was searched.

mod key;
mod slot;

pub use key::{Canonical, Generation, Key, MAX_KEY_BYTES, Secret, Version};
pub use slot::{SLOT_COUNT, Slot};
