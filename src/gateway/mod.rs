//! (to come)

mod http1;
mod socketio;
mod tunnel;
