//! Whether a bundle comes out the same when it is built again under other conditions, and if not, where and why.
//!
//! The first build is the usual one, in the usual folders: what was built before counts. The second one ([`second`]) begins with
//! nothing but what was fetched, and everything that must not matter is another: the checkout's path and the build folder's, the user,
//! the machine's name, the home, cargo's folder, the language, the time zone, the umask, the PATH, the number of jobs, and of course the time.
//! Then both archives are read member by member ([`compare`]), and the first differences are looked into ([`reason`]), in pieces where they are
//! large ([`pieces`]).
//!
//! Promises: the second build takes nothing that the first has made; it is removed at the end unless it is to be kept.

pub mod compare;
mod hints;
mod packed;
mod pieces;
mod reason;
pub mod second;

use crate::gate::Mark;

/// What is known of the two builds: what each would leave of its own places.
#[derive(Default)]
pub struct Sides {
    /// Of the first.
    pub one: Vec<Mark>,
    /// Of the second.
    pub other: Vec<Mark>,
    /// How many jobs each could run at once, where that is not the same.
    pub jobs: Option<(i64, i64)>,
    /// The number of each user, where that is not the same.
    pub users: Option<(i64, i64)>,
}
