//! Stands for the shared cache in a program that was compiled without it: there is never one, so nothing is ever asked of it.

use super::{Mode, Name, Uploads};
use std::io::{Read, Write};
use std::time::Duration;

/// A place for a shared cache; there is none.
#[derive(Debug)]
pub enum Place {}

impl Place {
    /// Never called: [`super::Choice::make`] has said before what is missing.
    pub fn parse(_: &str, from: &str) -> anyhow::Result<Self> {
        anyhow::bail!("{from} asks for what this program was compiled without")
    }

    /// Whether asking it needs the network.
    pub fn is_remote(&self) -> bool {
        match *self {}
    }
}

/// A result that was found; there is none.
#[derive(Clone, Debug)]
pub enum Found {}

impl Found {
    /// Bytes that taking it would bring over the line.
    pub fn size(&self) -> u64 {
        match *self {}
    }

    /// Bytes of its stream.
    pub fn bytes(&self) -> u64 {
        match *self {}
    }
}

/// A shared cache; there is none.
pub enum Share {}

impl Share {
    /// None.
    pub fn open(place: &Place, _: Mode, _: impl Fn(&str) + Send + Sync + 'static) -> Option<Self> {
        match *place {}
    }

    /// The place.
    pub fn place(&self) -> &str {
        match *self {}
    }

    /// Whether results are put there.
    pub fn writes(&self) -> bool {
        match *self {}
    }

    /// Those that are there.
    pub fn find(&self, _: &[Name]) -> Vec<Option<Found>> {
        match *self {}
    }

    /// Takes a result.
    pub fn get<T>(&self, found: &Found, _: impl FnOnce(&mut dyn Read) -> anyhow::Result<T>) -> Option<T> {
        match *found {}
    }

    /// Puts a result there.
    pub fn put(&self, _: Name, _: impl FnOnce(&mut dyn Write) -> anyhow::Result<()> + Send + 'static) {
        match *self {}
    }

    /// Waits for the uploads.
    pub fn finish(&self, _: Duration, _: impl FnMut(Uploads) -> bool) -> Uploads {
        match *self {}
    }
}
