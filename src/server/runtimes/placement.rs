//! Which thread a connection goes to.

/// How many more than another a thread may get so that a client's connections stay together. A browser opens six, and may not have closed the last ones.
const TOGETHER: usize = 8;
/// The same as a part of what the other has: one eighth.
const TOGETHER_PART: usize = 8;

/// How many more than a thread that is held up the others may get in its place; and the same as a part of what it has.
const PASSED_OVER: usize = 64;
const PASSED_OVER_PART: usize = 4;

/// How much a thread has to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Load {
    pub(super) open: usize,
    /// It is held up.
    pub(super) is_late: bool,
}

/// The thread for a connection. `preferred` is its client's; without one, `turn` chooses among equals.
pub(super) fn choose(loads: &[Load], preferred: Option<usize>, turn: usize) -> usize {
    let from = |n: usize| (turn + n) % loads.len().max(1);
    let fewest = (0..loads.len()).map(from).min_by_key(|at| loads[*at].open).unwrap_or(0);
    let most = loads.get(fewest).map_or(0, |load| load.open + PASSED_OVER.max(load.open / PASSED_OVER_PART));
    // A connection stays where it is: a thread that is held up for a moment must not end with much fewer than the others.
    let least = (0..loads.len()).map(from).filter(|at| !loads[*at].is_late && loads[*at].open <= most);
    let least = least.min_by_key(|at| loads[*at].open).unwrap_or(fewest);
    let fits = |at: &usize| {
        let (Some(this), Some(least)) = (loads.get(*at), loads.get(least)) else { return false };
        this.is_late == least.is_late && this.open < least.open + TOGETHER.max(least.open / TOGETHER_PART)
    };
    preferred.filter(fits).unwrap_or(least)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn loads<const N: usize>(open: [usize; N]) -> [Load; N] {
        open.map(|open| Load { open, is_late: false })
    }

    #[test]
    fn the_thread_with_the_fewest_is_chosen() {
        assert_eq!(choose(&loads([3, 1, 2]), None, 0), 1);
        let turns: Vec<usize> = (0..4).map(|turn| choose(&loads([1, 1, 5]), None, turn)).collect();
        assert_eq!(turns, [0, 1, 0, 0], "equals in turn");
        let mut busy = loads([9, 0, 5]);
        busy[1].is_late = true;
        assert_eq!(choose(&busy, None, 0), 2);
        assert_eq!(choose(&busy, Some(1), 0), 2);
        let all = busy.map(|load| Load { is_late: true, ..load });
        assert_eq!(choose(&all, None, 0), 1, "when all are late, as ever");
        assert_eq!(choose(&[], Some(0), 3), 0);
        busy[0].open = PASSED_OVER + 1;
        busy[2].open = PASSED_OVER + 2;
        assert_eq!(choose(&busy, None, 0), 1, "passed over for long enough");
    }

    #[test]
    fn a_clients_connections_stay_together_within_bounds() {
        let mut placed = [0, 0];
        for _ in 0..TOGETHER {
            placed[choose(&loads(placed), Some(1), 0)] += 1;
        }
        assert_eq!(placed, [0, TOGETHER]);
        // One address behind which everybody is.
        for _ in 0..1000 {
            placed[choose(&loads(placed), Some(1), 0)] += 1;
        }
        assert!(placed[1] - placed[0] <= placed[0] / TOGETHER_PART + 1, "{placed:?}");
    }
}
