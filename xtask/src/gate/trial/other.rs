//! Where there are no namespaces a trial runs like any other program of this user.

use super::{Container, How, Line, Order, Part, Surroundings, telling};

/// Nobody becomes somebody else here.
pub fn can_be_stranger() -> bool {
    false
}

/// Parts this process from nothing, and says so.
pub fn part(order: &Order) -> anyhow::Result<Part> {
    let mut lacks =
        vec!["this system has no namespaces: same user, the build folder is visible, and the network is open".to_owned()];
    if let How::Package(package) = &order.how {
        lacks.push(format!("it was not installed by {}, but laid out; its scripts were not run", package.tool()));
    }
    let (place, bundle) = (order.place.clone(), order.place.join(&order.bundle));
    Ok(Part::Inside(Surroundings { place, bundle, fresh: Vec::new(), alone: false, lacks }))
}

/// No image runs here.
pub fn contain(_: &Order, _: &Container) -> anyhow::Result<i32> {
    telling::tell(&Line::Lacks("this system has no namespaces: the image was not run".to_owned()));
    Ok(0)
}
