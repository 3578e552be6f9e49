//! What the builder and the launcher of dkumonitor agree on: data formats of the bundle, and the launcher's commands and flags.
//!
//! - [`service`]: how a component is started, probed and stopped;
//! - [`manifest`]: what a bundle consists of, `manifest.json`;
//! - [`integrity`]: whether a bundle is what its manifest says, and that what was signed;
//! - [`text`]: what others have written, made harmless for terminals;
//! - [`cli`]: the commands and flags, which the manual is made from too.
//!
//! It is apart from the launcher's library so that the builder, which is compiled before anything else can be, does not compile
//! what it never runs: nothing here starts, supervises or installs anything, and what only the launcher needs has no place here.

pub mod cli;
pub mod clock;
pub mod integrity;
pub mod manifest;
pub mod service;
pub mod stamp;
pub mod text;
