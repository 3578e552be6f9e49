//! Where there are no namespaces a trial runs like any other program of this user.

use super::{Order, Part, Surroundings};

/// Nobody becomes somebody else here.
pub fn can_be_stranger() -> bool {
    false
}

/// Parts this process from nothing, and says so.
pub fn part(order: &Order) -> anyhow::Result<Part> {
    anyhow::ensure!(order.root.is_none(), "--root needs Linux");
    let lacks =
        vec!["this system has no namespaces: same user, the build folder is visible, and the network is open".to_owned()];
    Ok(Part::Inside(Surroundings { place: order.place.clone(), fresh: Vec::new(), alone: false, lacks }))
}
