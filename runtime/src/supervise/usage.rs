//! What the processes of each service use: one look at the system for all of them.

use std::collections::BTreeMap;

use crate::control::Usage;
use crate::os::{self, ProcessUse};

/// What the families of these first processes use, in their order. To a family belong the process's group and all descendants,
/// wherever they went.
#[must_use]
pub fn of_families(leaders: &[Option<i32>]) -> Vec<Usage> {
    sum(&os::processes_in_use(), leaders)
}

/// The same, from a look at the system.
pub(super) fn sum(all: &[ProcessUse], leaders: &[Option<i32>]) -> Vec<Usage> {
    let by_pid: BTreeMap<i32, &ProcessUse> = all.iter().map(|process| (process.pid, process)).collect();
    let places: BTreeMap<i32, usize> = leaders.iter().enumerate().filter_map(|(at, leader)| Some(((*leader)?, at))).collect();
    let mut out = vec![Usage::default(); leaders.len()];
    for process in all {
        let mut next = Some(process);
        // More steps than this are a circle, which a list that was not taken at one instant may have.
        for _ in 0..64 {
            let Some(at) = next else { break };
            if let Some(&place) = places.get(&at.pid).or_else(|| places.get(&at.group)) {
                out[place].processes += 1;
                out[place].cpu_ms += process.cpu_ms;
                out[place].rss += process.rss;
                break;
            }
            next = by_pid.get(&at.parent).copied();
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_are_summed() {
        let one = |pid, parent, group| ProcessUse { pid, parent, group, cpu_ms: 10, rss: 1 };
        // 10 leads 11 and 12; 12 has left the group; 13 is an orphan of the group; 20 leads nobody; 30 is a stranger, 40 and 41 a circle.
        let all = [
            one(10, 1, 10),
            one(11, 10, 10),
            one(12, 11, 12),
            one(13, 1, 10),
            one(20, 1, 20),
            one(30, 1, 30),
            one(40, 41, 40),
            one(41, 40, 41),
        ];
        let usage = sum(&all, &[Some(10), None, Some(20)]);
        assert_eq!(usage[0], Usage { processes: 4, cpu_ms: 40, rss: 4 });
        assert_eq!(usage[1], Usage::default());
        assert_eq!(usage[2].processes, 1);
    }

    #[test]
    fn our_own_process_uses_something() {
        let usage = of_families(&[i32::try_from(std::process::id()).ok()]);
        assert!(usage[0].processes >= 1 && usage[0].rss > 100_000, "{usage:?}");
    }
}
