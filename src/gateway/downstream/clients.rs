//! What clients have, by their addresses, and who was turned away for it.

use crate::gateway::metrics::counters::{ClientRefusal, ClientRefusals};
use crate::gateway::places::{Held, Place, Places, is_fair};
use crate::gateway::request::rate::{Rate, Rates};
use std::net::IpAddr;
use std::sync::Arc;

#[derive(Debug)]
pub(in crate::gateway) struct ClientAccounts {
    /// Of open connections.
    places: Arc<Places>,
    rates: Rates,
    refusals: Arc<ClientRefusals>,
}

impl ClientAccounts {
    pub(super) fn new() -> ClientAccounts {
        ClientAccounts { places: Places::new(), rates: Rates::new(), refusals: Arc::default() }
    }

    pub(in crate::gateway) fn refusals(&self) -> &Arc<ClientRefusals> {
        &self.refusals
    }

    pub(in crate::gateway) fn refuse(&self, rule: ClientRefusal) {
        self.refusals.note(rule);
    }

    /// Counts a connection of an address, which may have up to `most`, and its share of what is left: `free`.
    pub(in crate::gateway) fn take(&self, ip: IpAddr, most: Option<usize>, free: usize) -> Option<Place> {
        let mut rule = ClientRefusal::Share;
        let place = self.places.take(ip, |held| {
            if most.is_some_and(|most| held.places >= most) {
                rule = ClientRefusal::Connections;
                return false;
            }
            is_fair(ip, held.all, free)
        });
        if place.is_none() {
            self.refuse(rule);
        }
        place
    }

    /// The same, whatever the address has: for a connection that another process has had open.
    pub(in crate::gateway) fn take_anyway(&self, ip: IpAddr) -> Option<Place> {
        self.places.take(ip, |_: Held| true)
    }

    /// Counts a request of an address.
    ///
    /// # Errors
    /// One too many; when it may come again, in seconds.
    pub(in crate::gateway) fn request(&self, rate: &Rate, ip: IpAddr) -> Result<(), u32> {
        let taken = self.rates.take(rate, ip);
        if taken.is_err() {
            self.refuse(ClientRefusal::Requests);
        }
        taken
    }
}
