//! Why an exchange with a worker did not come to its end.

use super::client::{ClientFault, ResponseFault};
use crate::gateway::request::retry::WorkerFault;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    Worker(WorkerFault),
    /// The worker's answer cannot be understood.
    Malformed(&'static str),
    Client(ClientFault),
    /// The client stopped sending its body, or sends it too slowly.
    BodyTimeout,
    /// The client does not take the answer.
    ClientStalled,
    /// The answer ended in its middle; the client must see that.
    Truncated,
}

impl From<WorkerFault> for Fault {
    fn from(fault: WorkerFault) -> Fault {
        Fault::Worker(fault)
    }
}

impl From<ClientFault> for Fault {
    fn from(fault: ClientFault) -> Fault {
        Fault::Client(fault)
    }
}

impl From<ResponseFault> for Fault {
    fn from(fault: ResponseFault) -> Fault {
        match fault {
            ResponseFault::ClientGone => Fault::Client(ClientFault::Gone),
            ResponseFault::Malformed => Fault::Truncated,
        }
    }
}
