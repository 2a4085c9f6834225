//! What the proxy answers itself by its routes: files, fixed answers, redirects. A carrier gives such an answer as it gives
//! a worker's: `exchange::local` for the own ones, `carrier::pingora` for Pingora's.

pub(super) mod answer;
pub(super) mod decide;
mod files;
