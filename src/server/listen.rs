//! Where clients, Prometheus and commands come in.

use super::gate::{Gate, Gated};
use super::sockets::{Purpose, Sockets};
use crate::config::Config;
use crate::gateway::Front;
use pingora_core::apps::ServerApp;
use pingora_core::listeners::ListenerConfig;
use pingora_core::protocols::l4::stream::L4BufferSettings;
use std::net::SocketAddr;
use std::sync::Arc;

/// The sockets and the gates before them.
#[derive(Clone)]
pub(super) struct Doors {
    pub(super) sockets: Arc<Sockets>,
    /// Before the clients' listeners.
    pub(super) traffic: Gate,
    /// Before commands and whatever watches the proxy: open as long as it runs.
    pub(super) own: Gate,
}

impl Doors {
    /// Those of an heir open when everything is its own.
    pub(super) fn new(open: bool) -> Doors {
        Doors { sockets: Arc::default(), traffic: Gate::new(open), own: Gate::new(open) }
    }

    /// Listens on every address of the configuration, which then has the real ones.
    ///
    /// # Errors
    /// The first that cannot be listened on, and why.
    pub(super) fn bind(&self, config: &mut Config) -> Result<(), String> {
        let mut addresses: Vec<(Purpose, &mut SocketAddr)> = Vec::new();
        addresses.extend(config.listeners.iter_mut().map(|listener| (Purpose::Listeners, &mut listener.address)));
        addresses.extend(config.metrics.iter_mut().map(|address| (Purpose::Metrics, address)));
        addresses.extend(config.health.iter_mut().map(|address| (Purpose::Health, address)));
        // What is written goes first: a free port may not take what another key names.
        addresses.sort_by_key(|(_, address)| address.port() == 0);
        for (purpose, address) in addresses {
            *address = self.sockets.tcp(purpose, *address)?;
        }
        // The directory of this one is furnished later.
        let later = config.admin.as_deref().and_then(|path| path.to_str());
        self.sockets.close_unclaimed(later.as_slice());
        Ok(())
    }

    /// The services of the clients' listeners. Those with HTTP/2 without TLS are apart: the listeners of one
    /// service share one application.
    pub(super) fn traffic(&self, config: &Config, front: Front) -> Vec<Gated<Front>> {
        let with_h2c = front.with_h2c();
        let mut services = Vec::new();
        for (name, h2c, app) in [("front", false, front), ("front-h2c", true, with_h2c)] {
            let listeners = config.listeners.iter().filter(|listener| listener.h2c == h2c);
            let addresses: Vec<String> = listeners.map(|listener| listener.address.to_string()).collect();
            addresses.iter().for_each(|address| log::info!("listening on http://{address}"));
            if addresses.is_empty() {
                continue;
            }
            let endpoints = addresses.clone();
            services.push(self.traffic.service(name, app, addresses, &self.sockets, move |service| {
                for address in &endpoints {
                    // The front buffers what it needs: Pingora's buffers would cost every idle connection 10 KiB
                    // and more.
                    let tcp = ListenerConfig::tcp(address.clone()).l4_buffer(L4BufferSettings::unbuffered());
                    service.add_listener(tcp);
                }
            }));
        }
        services
    }

    /// A small service of our own on one address.
    pub(super) fn tcp<A>(&self, name: &str, app: A, address: SocketAddr) -> Gated<A>
    where
        A: ServerApp + Send + Sync + 'static,
    {
        let address = address.to_string();
        let endpoint = address.clone();
        let add = move |service: &mut super::gate::Listening<A>| service.add_tcp(&endpoint);
        self.own.service(name, app, vec![address], &self.sockets, add).threads(1)
    }
}
