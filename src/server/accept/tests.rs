use super::*;
use std::net::{TcpListener, TcpStream as Client};
use std::os::unix::net::UnixListener;
use tokio::sync::mpsc;
use tokio::time::timeout;

const LONG: Duration = Duration::from_secs(20);

fn begin(address: String, socket: OwnedFd) -> (watch::Sender<bool>, mpsc::UnboundedReceiver<Accepted>) {
    let (stop, stopped) = watch::channel(false);
    let (place, placed) = mpsc::unbounded_channel();
    tokio::spawn(accept(address, socket, stopped, move |accepted| {
        let _ = place.send(accepted);
    }));
    (stop, placed)
}

fn listener() -> (SocketAddr, OwnedFd) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    (listener.local_addr().unwrap(), listener.into())
}

#[tokio::test]
async fn clients_that_vanish_will_be_noticed() {
    let (address, socket) = listener();
    // It comes before anything is set.
    let early = Client::connect(address).unwrap();
    let (_stop, mut placed) = begin(address.to_string(), socket);
    let mut accepted = vec![timeout(LONG, placed.recv()).await.unwrap().unwrap()];
    let late = Client::connect(address).unwrap();
    accepted.push(timeout(LONG, placed.recv()).await.unwrap().unwrap());
    for (accepted, client) in accepted.into_iter().zip([early, late]) {
        let fd = &accepted.fd;
        assert!(sockopt::tcp_nodelay(fd).unwrap() && sockopt::socket_keepalive(fd).unwrap());
        assert_eq!(sockopt::tcp_keepidle(fd).unwrap(), KEEPALIVE_IDLE);
        assert_eq!(sockopt::tcp_keepintvl(fd).unwrap(), KEEPALIVE_INTERVAL);
        assert_eq!(sockopt::tcp_keepcnt(fd).unwrap(), KEEPALIVE_PROBES);
        let here = client.local_addr().unwrap();
        assert_eq!(accepted.peer(), Some(here.ip()));
        let stream = accepted.into_stream().unwrap();
        let digest = stream.get_socket_digest().unwrap();
        assert_eq!(digest.peer_addr().and_then(|peer| peer.as_inet()), Some(&here));
    }
}

#[tokio::test]
async fn it_stops_and_who_comes_later_waits() {
    let (address, socket) = listener();
    let again = socket.try_clone().unwrap();
    let (stop, mut placed) = begin(address.to_string(), socket);
    let _first = Client::connect(address).unwrap();
    timeout(LONG, placed.recv()).await.unwrap().unwrap();
    stop.send_replace(true);
    assert!(timeout(LONG, placed.recv()).await.unwrap().is_none());
    let _waits = Client::connect(address).unwrap();
    let (_stop, mut placed) = begin(address.to_string(), again);
    timeout(LONG, placed.recv()).await.unwrap().unwrap();
}

#[tokio::test]
async fn unix_sockets_are_accepted_on_too() {
    let path = std::env::temp_dir().join(format!("accept-{}.sock", std::process::id()));
    let listener = UnixListener::bind(&path).unwrap();
    listener.set_nonblocking(true).unwrap();
    let (_stop, mut placed) = begin(path.to_str().unwrap().to_owned(), listener.into());
    let _client = std::os::unix::net::UnixStream::connect(&path).unwrap();
    let accepted = timeout(LONG, placed.recv()).await.unwrap().unwrap();
    assert_eq!(accepted.peer(), None);
    accepted.into_stream().unwrap();
    std::fs::remove_file(&path).unwrap();
}

#[test]
fn one_bad_connection_does_not_hold_up_others() {
    assert!(is_of_one_connection(Errno::CONNABORTED));
    // These last, and asking again at once would only cost.
    for error in [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM, Errno::AGAIN, Errno::INVAL, Errno::PERM] {
        assert!(!is_of_one_connection(error), "{error}");
    }
}
