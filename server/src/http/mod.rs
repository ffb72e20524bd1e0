//! HTTP without any resource: requests as [`Call`]s, answers as [`Reply`]s, errors, media types, and
//! what every answer has in common.

pub(crate) mod call;
pub(crate) mod errors;
pub(crate) mod filter_path;
mod indent;
pub(crate) mod listener;
pub(crate) mod media;
pub(crate) mod params;
pub(crate) mod reply;
pub(crate) mod shape;

pub(crate) use call::Call;
pub(crate) use params::Params;
pub(crate) use reply::Reply;
