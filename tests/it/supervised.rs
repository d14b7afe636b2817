//! The built binary under a supervisor of services that listens as systemd does: what it hears, and when it hears nothing.

use std::io::ErrorKind;
use std::os::unix::net::UnixDatagram;
use std::process::Stdio;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::process::{Guarded, on_disk};

const WATCHDOG: Duration = Duration::from_secs(6);

/// What is said next, within this time.
fn heard(socket: &UnixDatagram, within: Duration) -> Option<String> {
    let mut said = [0; 200];
    let until = Instant::now() + within;
    loop {
        let left = until.checked_duration_since(Instant::now()).filter(|left| !left.is_zero())?;
        socket.set_read_timeout(Some(left)).unwrap();
        match socket.recv(&mut said) {
            Ok(length) => return Some(String::from_utf8_lossy(&said[..length]).into_owned()),
            // A process of another test that stops or goes on interrupts a call that has a time limit.
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::WouldBlock);
                return None;
            }
        }
    }
}

#[test]
fn the_supervisor_hears_from_a_server_that_runs_and_nothing_of_one_that_stands_still() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    let mut command = on_disk(folder.path()).command();
    command.args(["serve", "--listen", "127.0.0.1:0"]).stdout(Stdio::null()).stderr(Stdio::null());
    command.env("NOTIFY_SOCKET", &path).env("WATCHDOG_USEC", WATCHDOG.as_micros().to_string());
    command.env_remove("WATCHDOG_PID");
    let began = Instant::now();
    let mut server = Guarded(command.spawn().expect("the built binary"));
    let id = Pid::from_child(&server.0);

    assert_eq!(heard(&socket, Duration::from_secs(60)).as_deref(), Some("READY=1"));
    // In time, again and again, and not more often than it has to.
    for before in 0..3 {
        assert_eq!(heard(&socket, WATCHDOG).as_deref(), Some("WATCHDOG=1"));
        assert!(began.elapsed() >= before * WATCHDOG / 3, "{before} were before it");
    }

    kill_process(id, Signal::STOP).unwrap();
    while heard(&socket, Duration::from_millis(200)).is_some() {}
    assert_eq!(heard(&socket, WATCHDOG / 2), None, "it stands still");
    kill_process(id, Signal::CONT).unwrap();
    assert_eq!(heard(&socket, WATCHDOG * 4).as_deref(), Some("WATCHDOG=1"));

    kill_process(id, Signal::TERM).unwrap();
    let said = std::iter::from_fn(|| heard(&socket, Duration::from_secs(20))).find(|said| said != "WATCHDOG=1");
    assert_eq!(said.as_deref(), Some("STOPPING=1"));
    assert!(server.0.wait().unwrap().success());
}
