//! Tags of the living workers.

use crate::worker::Tag;
use std::collections::HashSet;

/// Gives every living worker a tag of its own, over all apps.
#[derive(Debug)]
pub(super) struct Tags {
    next: u32,
    used: HashSet<Tag>,
}

impl Tags {
    /// Two proxies should not begin with the same tags: sids outlive a proxy.
    pub(super) fn new(random: u32) -> Tags {
        Tags { next: random % Tag::COUNT, used: HashSet::new() }
    }

    /// `None` when all are taken, which takes as many workers at once.
    pub(super) fn take(&mut self) -> Option<Tag> {
        for _ in 0..Tag::COUNT {
            let tag = Tag::nth(self.next);
            self.next = (self.next + 1) % Tag::COUNT;
            if self.used.insert(tag) {
                return Some(tag);
            }
        }
        None
    }

    /// The number of the next one to try.
    pub(super) fn next(&self) -> u32 {
        self.next
    }

    /// A living worker has it; false when another has.
    pub(super) fn reserve(&mut self, tag: Tag) -> bool {
        self.used.insert(tag)
    }

    pub(super) fn give_back(&mut self, tag: Tag) {
        self.used.remove(&tag);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn living_workers_never_share_a_tag() {
        let mut tags = Tags::new(Tag::COUNT - 2);
        let taken: Vec<Tag> = (0..Tag::COUNT).filter_map(|_| tags.take()).collect();
        assert_eq!(taken.iter().collect::<HashSet<_>>().len(), Tag::COUNT as usize);
        assert_eq!(tags.take(), None);
        tags.give_back(taken[7]);
        assert_eq!(tags.take(), Some(taken[7]));
    }
}
