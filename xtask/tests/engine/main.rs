//! The engine of the real program: every change rebuilds exactly what it must, whatever is damaged is found and made again,
//! and a kill at any instant costs nothing but the step that ran.

#![allow(clippy::unwrap_used, reason = "to panic is how a test fails")]

mod changes;
#[path = "../common/mod.rs"]
mod common;
mod damage;
mod recipes;
mod stepped;
mod surroundings;
