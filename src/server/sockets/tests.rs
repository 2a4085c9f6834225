use super::*;
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsFd;

fn local() -> SocketAddr {
    "127.0.0.1:0".parse().unwrap()
}

#[test]
fn a_port_is_ours_until_it_is_closed() {
    let sockets = Sockets::default();
    let address = sockets.tcp(Purpose::Listeners, local()).unwrap();
    assert_ne!(address.port(), 0);
    let addresses = sockets.addresses(Purpose::Listeners);
    assert_eq!(addresses, [address.to_string()]);
    assert!(!sockets.pending(&addresses));
    let _client = TcpStream::connect(address).unwrap();
    assert!(sockets.pending(&addresses));
    let again = Sockets::default().tcp(Purpose::Metrics, address).unwrap_err();
    assert!(again.contains("another program") && again.contains("`metrics`"), "{again}");
    sockets.close(Purpose::Metrics);
    assert!(TcpStream::connect(address).is_ok());
    sockets.close(Purpose::Listeners);
    assert!(TcpStream::connect(address).is_err());
    assert!(sockets.lend(&addresses[0]).is_err());
}

#[test]
fn what_is_exported_is_inherited() {
    let old = Sockets::default();
    let listener = old.tcp(Purpose::Listeners, local()).unwrap();
    let metrics = old.tcp(Purpose::Metrics, local()).unwrap();
    let give = |old: &Sockets| {
        let copy = |(name, fd): (String, Arc<OwnedFd>)| (name, fd.as_fd().try_clone_to_owned().unwrap());
        old.export().into_iter().map(copy).collect::<Vec<_>>()
    };
    let new = Sockets::default();
    new.inherit(give(&old));
    // By purpose where the port was left open, by address where it was written.
    assert_eq!(new.tcp(Purpose::Metrics, local()).unwrap(), metrics);
    assert_eq!(new.tcp(Purpose::Listeners, listener).unwrap(), listener);
    assert_ne!(new.tcp(Purpose::Health, local()).unwrap().port(), 0);
    old.release();
    assert!(TcpStream::connect(listener).is_ok());
    let third = Sockets::default();
    third.inherit(give(&new));
    new.release();
    third.close_unclaimed(&[&metrics.to_string()]);
    assert!(TcpStream::connect(listener).is_err(), "no key names it");
    assert!(TcpStream::connect(metrics).is_ok(), "claimed later");
}

#[test]
fn a_narrow_socket_has_room_for_one_and_is_wide_again_for_others() {
    let sockets = Sockets::default();
    let address = sockets.tcp(Purpose::Listeners, local()).unwrap();
    let others = lock(&sockets.bound)[0].fd.clone();
    sockets.narrow(Purpose::Listeners);
    let connect = || TcpStream::connect_timeout(&address, std::time::Duration::from_millis(300));
    let _first = connect().unwrap();
    assert_eq!(connect().unwrap_err().kind(), std::io::ErrorKind::TimedOut);
    sockets.close(Purpose::Listeners);
    let _more = [connect().unwrap(), connect().unwrap()];
    drop(others);
    assert_eq!(connect().unwrap_err().kind(), std::io::ErrorKind::ConnectionRefused);
}

#[test]
fn what_does_not_listen_is_not_used() {
    let sockets = Sockets::default();
    let connected = {
        let listener = TcpListener::bind(local()).unwrap();
        TcpStream::connect(listener.local_addr().unwrap()).unwrap()
    };
    sockets.inherit(vec![("x".into(), connected.into()), ("y".into(), std::fs::File::open("/").unwrap().into())]);
    assert!(lock(&sockets.inherited).is_empty());
}

#[test]
fn a_path_is_for_this_user_alone() {
    use std::os::unix::fs::PermissionsExt;
    let dir = std::env::temp_dir().join(format!("pup-sockets-{}", std::process::id()));
    std::fs::create_dir(&dir).unwrap();
    let path = dir.join("admin.sock");
    let sockets = Sockets::default();
    sockets.unix(Purpose::Admin, &path).unwrap();
    assert_eq!(symlink_metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let taken = Sockets::default().unix(Purpose::Admin, &path).unwrap_err();
    assert!(taken.contains("another program"), "{taken}");
    sockets.release();
    assert!(path.exists(), "whoever has it now needs the path");
    let again = Sockets::default();
    again.unix(Purpose::Admin, &path).unwrap();
    remove_path(&path);
    assert!(path.exists(), "it is served");
    again.release();
    remove_path(&path);
    assert!(!path.exists());
    std::fs::write(&path, "").unwrap();
    assert!(sockets.unix(Purpose::Admin, &path).unwrap_err().contains("no socket"));
    std::fs::remove_dir_all(&dir).unwrap();
}
