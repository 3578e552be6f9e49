//! What work takes of a machine: what it may need beforehand, and what it has cost afterwards.

use std::time::Duration;

/// Cores and memory: of the machine, or what a task needs of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resources {
    /// Cores.
    pub cores: u32,
    /// Memory in MB.
    pub memory_mb: u64,
}

impl Resources {
    /// No more than there is.
    pub fn within(self, limit: Self) -> Self {
        Self { cores: self.cores.min(limit.cores), memory_mb: self.memory_mb.min(limit.memory_mb) }
    }

    /// Whether it can be had of what is free.
    pub fn fits(self, free: Self) -> bool {
        self.cores <= free.cores && self.memory_mb <= free.memory_mb
    }

    /// What is left when this is taken.
    pub fn without(self, taken: Self) -> Self {
        Self { cores: self.cores.saturating_sub(taken.cores), memory_mb: self.memory_mb.saturating_sub(taken.memory_mb) }
    }

    /// What is there when this is given back.
    pub fn with(self, given: Self) -> Self {
        Self { cores: self.cores.saturating_add(given.cores), memory_mb: self.memory_mb.saturating_add(given.memory_mb) }
    }
}

/// What a command cost.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cost {
    /// Time on the clock.
    pub wall: Duration,
    /// Processor time, user and system, of the command and all descendants that were waited for.
    pub cpu: Duration,
    /// The most memory that all its processes were seen to have at once, in bytes, and not less than the largest one had;
    /// that one alone where they cannot be looked at (macOS).
    pub peak: u64,
}

impl Cost {
    /// Both one after the other.
    pub fn then(self, other: Self) -> Self {
        Self { wall: self.wall + other.wall, cpu: self.cpu + other.cpu, peak: self.peak.max(other.peak) }
    }
}

/// Gives memory that was freed back to the system: glibc keeps most of what was had in small pieces, so that work in which thousands of
/// those come and go would count for all that comes after it.
pub fn give_memory_back() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    #[expect(unsafe_code, reason = "no crate that is here has a safe form of it; it touches free memory alone")]
    // SAFETY: malloc_trim has no preconditions and may be called from any thread.
    unsafe {
        libc::malloc_trim(0);
    }
}
